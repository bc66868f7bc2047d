// The protocol: versions, fids and what walks and moves among them. files.cc has what is done to a
// file.
#include "native/virtio/p9/server.h"

#include <fcntl.h>
#include <limits.h>

#include <algorithm>
#include <cerrno>
#include <utility>

namespace kvitest {
namespace {

constexpr std::uint32_t kNoFid = 0xffff'ffff;
constexpr std::string_view kVersion = "9P2000.L";
constexpr std::size_t kMaxPath = PATH_MAX - 1;

std::string join(const std::string& path, std::string_view name) {
  return path.empty() ? std::string(name) : path + "/" + std::string(name);
}

bool changes_something(P9Type type) {
  switch (type) {
    case P9Type::kCreate:
    case P9Type::kSymlink:
    case P9Type::kMknod:
    case P9Type::kRename:
    case P9Type::kSetattr:
    case P9Type::kLink:
    case P9Type::kMkdir:
    case P9Type::kRenameat:
    case P9Type::kUnlinkat:
    case P9Type::kWrite:
      return true;
    default:
      return false;
  }
}

}  // namespace

std::vector<std::byte> P9Server::answer(std::span<const std::byte> bytes, std::size_t room) {
  P9Reader reader(bytes);
  const std::uint32_t size = reader.u32();
  const auto type = static_cast<P9Type>(reader.u8());
  const std::uint16_t tag = reader.u16();
  if (room < kP9ErrorBytes) return {};
  if (!reader.good() || size < kP9HeaderBytes || size > bytes.size()) return p9_error(tag, EPROTO);
  if (message_size_ != 0) room = std::min<std::size_t>(room, message_size_);
  const auto body = bytes.subspan(kP9HeaderBytes, size - kP9HeaderBytes);
  Request request{P9Reader(body), P9Writer(type, tag), room};
  Errno code = 0;
  if (message_size_ == 0 && type != P9Type::kVersion) {
    code = EPROTO;
  } else if (read_only_ && changes_something(type)) {
    code = EROFS;
  } else {
    code = dispatch(type, request);
  }
  if (code == 0 && request.answer.size() > room) code = EMSGSIZE;
  return code == 0 ? request.answer.take() : p9_error(tag, code);
}

Errno P9Server::dispatch(P9Type type, Request& request) {
  switch (type) {
    case P9Type::kVersion:
      return version(request);
    case P9Type::kAttach:
      return attach(request);
    case P9Type::kWalk:
      return walk(request);
    case P9Type::kOpen:
      return open(request);
    case P9Type::kCreate:
      return create(request);
    case P9Type::kMkdir:
      return make_directory(request);
    case P9Type::kSymlink:
      return make_link(request);
    case P9Type::kLink:
      return hard_link(request);
    case P9Type::kReadlink:
      return read_link(request);
    case P9Type::kGetattr:
      return get_attributes(request);
    case P9Type::kSetattr:
      return set_attributes(request);
    case P9Type::kRead:
      return read(request);
    case P9Type::kWrite:
      return write(request);
    case P9Type::kReaddir:
      return read_directory(request);
    case P9Type::kFsync:
      return sync(request);
    case P9Type::kStatfs:
      return file_system(request);
    case P9Type::kRename:
      return rename_fid(request);
    case P9Type::kRenameat:
      return rename_at(request);
    case P9Type::kUnlinkat:
      return unlink_at(request);
    case P9Type::kRemove:
      return remove_fid(request);
    case P9Type::kClunk:
      return clunk(request);
    case P9Type::kLock:
      return lock(request);
    case P9Type::kGetlock:
      return get_lock(request);
    case P9Type::kFlush:
      // Requests are answered one after the other: what is to be flushed has been.
      return 0;
    case P9Type::kMknod:
      return EPERM;
    default:
      return EOPNOTSUPP;
  }
}

void P9Server::reset() {
  fids_.clear();
  message_size_ = 0;
}

Errno P9Server::version(Request& request) {
  const std::uint32_t size = request.reader.u32();
  const std::string name = request.reader.string();
  if (!request.reader.good()) return EPROTO;
  if (size < kP9MinMessage) return EMSGSIZE;
  reset();
  const std::uint32_t agreed = std::min(size, kP9MaxMessage);
  const bool known = name == kVersion;
  if (known) message_size_ = agreed;
  request.answer.u32(agreed).string(known ? kVersion : "unknown");
  return 0;
}

Errno P9Server::attach(Request& request) {
  const std::uint32_t number = request.reader.u32();
  const std::uint32_t authentication = request.reader.u32();
  request.reader.string();  // user
  const std::string name = request.reader.string();
  request.reader.u32();
  if (!request.reader.good()) return EPROTO;
  if (authentication != kNoFid) return EOPNOTSUPP;
  if (!name.empty() && name != "/") return ENOENT;
  P9Qid qid;
  if (const Errno code = qid_of("", qid); code != 0) return code;
  if (const Errno code = add(number, {.path = "", .inode = qid.path}); code != 0) return code;
  request.answer.qid(qid);
  return 0;
}

Errno P9Server::walk(Request& request) {
  const std::uint32_t from = request.reader.u32();
  const std::uint32_t to = request.reader.u32();
  const std::uint16_t count = request.reader.u16();
  if (!request.reader.good()) return EPROTO;
  Fid* fid = nullptr;
  if (const Errno code = find(from, fid); code != 0) return code;
  if (count > kP9MaxWalk) return EINVAL;
  if (fid->file && from == to) return EBUSY;
  std::string path = fid->path;
  std::uint64_t inode = fid->inode;
  std::vector<P9Qid> qids;
  for (std::uint16_t i = 0; i < count; ++i) {
    const std::string name = request.reader.string();
    if (!request.reader.good()) return EPROTO;
    Errno code = 0;
    P9Qid qid;
    if (name == "..") {
      // No part of a path is a link, so its parent is what stands before it; the root is its own.
      const std::size_t cut = path.rfind('/');
      path = cut == std::string::npos ? "" : path.substr(0, cut);
    } else if (is_name(name)) {
      path = join(path, name);
    } else {
      code = EINVAL;
    }
    if (code == 0) code = path.size() > kMaxPath ? ENAMETOOLONG : qid_of(path, qid);
    // Only a failure of the first name is an error; else the qids tell how far it came.
    if (code != 0 && i == 0) return code;
    if (code != 0) break;
    inode = qid.path;
    qids.push_back(qid);
  }
  if (qids.size() == count) {
    if (from == to) {
      fid->path = path;
      fid->inode = inode;
    } else if (const Errno code = add(to, {.path = path, .inode = inode}); code != 0) {
      return code;
    }
  }
  request.answer.u16(static_cast<std::uint16_t>(qids.size()));
  for (const P9Qid& qid : qids) request.answer.qid(qid);
  return 0;
}

Errno P9Server::rename_fid(Request& request) {
  const std::uint32_t number = request.reader.u32();
  const std::uint32_t directory = request.reader.u32();
  const std::string name = request.reader.string();
  if (!request.reader.good()) return EPROTO;
  Fid* fid = nullptr;
  std::string to;
  if (const Errno code = find(number, fid); code != 0) return code;
  if (const Errno code = below(directory, name, to); code != 0) return code;
  const std::string from = fid->path;
  if (const Errno code = directory_.rename(from, to); code != 0) return code;
  moved(from, to);
  return 0;
}

Errno P9Server::rename_at(Request& request) {
  const std::uint32_t old_directory = request.reader.u32();
  const std::string old_name = request.reader.string();
  const std::uint32_t directory = request.reader.u32();
  const std::string name = request.reader.string();
  if (!request.reader.good()) return EPROTO;
  std::string from, to;
  if (const Errno code = below(old_directory, old_name, from); code != 0) return code;
  if (const Errno code = below(directory, name, to); code != 0) return code;
  if (const Errno code = directory_.rename(from, to); code != 0) return code;
  moved(from, to);
  return 0;
}

Errno P9Server::clunk(Request& request) {
  const std::uint32_t number = request.reader.u32();
  if (!request.reader.good()) return EPROTO;
  return fids_.erase(number) == 0 ? EBADF : 0;
}

Errno P9Server::remove_fid(Request& request) {
  const std::uint32_t number = request.reader.u32();
  if (!request.reader.good()) return EPROTO;
  Fid* fid = nullptr;
  Errno code = find(number, fid);
  if (code == EBADF) return code;
  struct stat found {};
  if (code == 0) code = read_only_ ? EROFS : status(*fid, found);
  if (code == 0) code = directory_.remove(fid->path, S_ISDIR(found.st_mode));
  // The fid is gone either way.
  fids_.erase(number);
  return code;
}

Errno P9Server::find(std::uint32_t number, Fid*& fid) {
  const auto found = fids_.find(number);
  if (found == fids_.end()) return EBADF;
  if (found->second.stale) return ESTALE;
  fid = &found->second;
  return 0;
}

Errno P9Server::find_open(std::uint32_t number, Fid*& fid) {
  if (const Errno code = find(number, fid); code != 0) return code;
  return fid->file ? 0 : EBADF;
}

Errno P9Server::below(std::uint32_t number, const std::string& name, std::string& path) {
  Fid* fid = nullptr;
  if (const Errno code = find(number, fid); code != 0) return code;
  if (!is_name(name)) return EINVAL;
  path = join(fid->path, name);
  return path.size() > kMaxPath ? ENAMETOOLONG : 0;
}

Errno P9Server::add(std::uint32_t number, Fid fid) {
  if (number == kNoFid) return EINVAL;
  if (fids_.size() >= kP9MaxFids) return EMFILE;
  return fids_.emplace(number, std::move(fid)).second ? 0 : EBADF;
}

// Fids of a file that has another path now, and of what is below it.
void P9Server::moved(const std::string& from, const std::string& to) {
  for (auto& [number, fid] : fids_) {
    if (fid.path == from) {
      fid.path = to;
    } else if (fid.path.starts_with(from + "/")) {
      fid.path = to + fid.path.substr(from.size());
    }
  }
}

std::size_t P9Server::opened() const {
  return static_cast<std::size_t>(
      std::ranges::count_if(fids_, [](const auto& one) { return bool(one.second.file); }));
}

P9State P9Server::state() const {
  P9State state{.message_size = message_size_, .fids = {}};
  for (const auto& [number, fid] : fids_) {
    state.fids.push_back({number, fid.path, fid.inode, bool(fid.file), fid.flags});
  }
  return state;
}

bool P9Server::load(const P9State& state) {
  reset();
  if (state.message_size > kP9MaxMessage || state.fids.size() > kP9MaxFids) return false;
  if (state.message_size != 0 && state.message_size < kP9MinMessage) return false;
  message_size_ = state.message_size;
  for (const P9State::Fid& saved : state.fids) {
    if (saved.path.size() > kMaxPath || saved.path.find('\0') != std::string::npos) return false;
    Fid fid{.path = saved.path, .inode = saved.inode};
    P9Qid qid;
    fid.stale = qid_of(fid.path, qid) != 0 || qid.path != fid.inode;
    if (saved.is_open && !fid.stale) {
      fid.flags = saved.flags & (O_ACCMODE | O_DSYNC | O_SYNC);
      if (read_only_ && (fid.flags & O_ACCMODE) != O_RDONLY) return false;
      fid.stale = opened() >= kP9MaxOpen ||
                  directory_.open(fid.path, static_cast<int>(fid.flags), fid.file) != 0;
    }
    if (add(saved.number, std::move(fid)) != 0) return false;
  }
  return true;
}

}  // namespace kvitest
