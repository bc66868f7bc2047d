// What a server of 9P2000.L does to a file.
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <string_view>
#include <utility>
#include <vector>

#include "native/little_endian.h"
#include "native/virtio/p9/server.h"

namespace kvitest {
namespace {

constexpr std::uint8_t kQidDirectory = 0x80;
constexpr std::uint8_t kQidLink = 0x02;
constexpr std::uint64_t kAttributesBasic = 0x7ff;
constexpr std::uint32_t kMagic = 0x0102'1997;  // V9FS_MAGIC
constexpr std::uint8_t kUnlocked = 2;          // F_UNLCK

// Of Tsetattr.
constexpr std::uint32_t kSetMode = 0x1, kSetUid = 0x2, kSetGid = 0x4, kSetSize = 0x8,
                        kSetAtime = 0x10, kSetMtime = 0x20, kSetAtimeValue = 0x80,
                        kSetMtimeValue = 0x100;

constexpr mode_t kPermissions = 0777;
// Flags of Linux on x86, as the protocol has them: the client tells each write's offset, so
// O_APPEND is its own affair, and so is the rest.
constexpr std::uint32_t kOpenFlags = O_ACCMODE | O_TRUNC | O_DSYNC | O_SYNC;

P9Qid qid_from(const struct stat& status) {
  P9Qid qid;
  if (S_ISDIR(status.st_mode)) qid.type = kQidDirectory;
  if (S_ISLNK(status.st_mode)) qid.type = kQidLink;
  // Another one whenever the content is another.
  qid.version = static_cast<std::uint32_t>(status.st_mtim.tv_sec << 8) ^
                static_cast<std::uint32_t>(status.st_mtim.tv_nsec);
  qid.path = status.st_ino;
  return qid;
}

struct DirectoryEntry {
  std::uint64_t inode;
  std::int64_t offset;
  std::uint16_t length;
  std::uint8_t type;
};
constexpr std::size_t kNameAt = 19;  // of struct linux_dirent64

P9Qid qid_from(const DirectoryEntry& entry) {
  const std::uint8_t type =
      entry.type == DT_DIR ? kQidDirectory : (entry.type == DT_LNK ? kQidLink : 0);
  return {type, 0, entry.inode};
}

std::uint64_t unsigned_of(std::int64_t value) {
  return static_cast<std::uint64_t>(value);
}

}  // namespace

Errno P9Server::qid_of(const std::string& path, P9Qid& qid) {
  struct stat found {};
  if (const Errno code = directory_.status(path, found); code != 0) return code;
  qid = qid_from(found);
  return 0;
}

// Of what is open, though it may have no path any more.
Errno P9Server::status(const Fid& fid, struct stat& status) {
  if (fid.file) return ::fstat(fid.file.get(), &status) < 0 ? errno : 0;
  return directory_.status(fid.path, status);
}

Errno P9Server::open(Request& request) {
  const std::uint32_t number = request.reader.u32();
  const std::uint32_t flags = request.reader.u32() & kOpenFlags;
  if (!request.reader.good()) return EPROTO;
  Fid* fid = nullptr;
  if (const Errno code = find(number, fid); code != 0) return code;
  if (fid->file) return EBUSY;
  if (opened() >= kP9MaxOpen) return EMFILE;
  if (read_only_ && ((flags & O_ACCMODE) != O_RDONLY || (flags & O_TRUNC) != 0)) return EROFS;
  UniqueFd file;
  if (const Errno code = directory_.open(fid->path, static_cast<int>(flags), file); code != 0) {
    return code;
  }
  struct stat found {};
  if (::fstat(file.get(), &found) < 0) return errno;
  fid->file = std::move(file);
  fid->flags = flags;
  fid->inode = found.st_ino;
  request.answer.qid(qid_from(found)).u32(0);
  return 0;
}

Errno P9Server::create(Request& request) {
  const std::uint32_t number = request.reader.u32();
  const std::string name = request.reader.string();
  const std::uint32_t flags = request.reader.u32() & kOpenFlags;
  const std::uint32_t mode = request.reader.u32();
  request.reader.u32();  // group
  if (!request.reader.good()) return EPROTO;
  Fid* fid = nullptr;
  std::string path;
  if (const Errno code = find(number, fid); code != 0) return code;
  if (fid->file) return EBUSY;
  if (opened() >= kP9MaxOpen) return EMFILE;
  if (const Errno code = below(number, name, path); code != 0) return code;
  UniqueFd file;
  const Errno code = directory_.create(path, static_cast<int>(flags), mode, file);
  if (code != 0) return code;
  struct stat found {};
  if (::fstat(file.get(), &found) < 0) return errno;
  // From now on the fid is the new file's.
  *fid = {.path = path, .inode = found.st_ino, .file = std::move(file), .flags = flags};
  request.answer.qid(qid_from(found)).u32(0);
  return 0;
}

Errno P9Server::make(Request& request, std::uint32_t directory, const std::string& name,
                     const Act& act) {
  std::string path;
  P9Qid qid;
  if (const Errno code = below(directory, name, path); code != 0) return code;
  if (const Errno code = act(path); code != 0) return code;
  if (const Errno code = qid_of(path, qid); code != 0) return code;
  request.answer.qid(qid);
  return 0;
}

Errno P9Server::make_directory(Request& request) {
  const std::uint32_t number = request.reader.u32();
  const std::string name = request.reader.string();
  const std::uint32_t mode = request.reader.u32();
  request.reader.u32();  // group
  if (!request.reader.good()) return EPROTO;
  return make(request, number, name, [this, mode](const std::string& path) {
    return directory_.make_directory(path, mode);
  });
}

Errno P9Server::make_link(Request& request) {
  const std::uint32_t number = request.reader.u32();
  const std::string name = request.reader.string();
  const std::string target = request.reader.string();
  request.reader.u32();  // group
  if (!request.reader.good()) return EPROTO;
  // Where it leads to is the guest's business: the host never follows it.
  if (target.empty() || target.find('\0') != std::string::npos) return EINVAL;
  return make(request, number, name, [this, &target](const std::string& path) {
    return directory_.make_link(path, target);
  });
}

Errno P9Server::hard_link(Request& request) {
  const std::uint32_t directory = request.reader.u32();
  const std::uint32_t number = request.reader.u32();
  const std::string name = request.reader.string();
  if (!request.reader.good()) return EPROTO;
  Fid* fid = nullptr;
  std::string path;
  if (const Errno code = find(number, fid); code != 0) return code;
  if (const Errno code = below(directory, name, path); code != 0) return code;
  return directory_.hard_link(fid->path, path);
}

Errno P9Server::read_link(Request& request) {
  const std::uint32_t number = request.reader.u32();
  if (!request.reader.good()) return EPROTO;
  Fid* fid = nullptr;
  std::string target;
  if (const Errno code = find(number, fid); code != 0) return code;
  if (const Errno code = directory_.read_link(fid->path, target); code != 0) return code;
  request.answer.string(target);
  return 0;
}

Errno P9Server::get_attributes(Request& request) {
  const std::uint32_t number = request.reader.u32();
  request.reader.u64();  // which; it gets the usual ones
  if (!request.reader.good()) return EPROTO;
  Fid* fid = nullptr;
  struct stat found {};
  if (const Errno code = find(number, fid); code != 0) return code;
  if (const Errno code = status(*fid, found); code != 0) return code;
  P9Writer& answer = request.answer;
  answer.u64(kAttributesBasic).qid(qid_from(found)).u32(found.st_mode);
  answer.u32(found.st_uid).u32(found.st_gid).u64(found.st_nlink).u64(found.st_rdev);
  answer.u64(unsigned_of(found.st_size)).u64(unsigned_of(found.st_blksize));
  answer.u64(unsigned_of(found.st_blocks));
  for (const timespec& time : {found.st_atim, found.st_mtim, found.st_ctim, timespec{}}) {
    answer.u64(unsigned_of(time.tv_sec)).u64(unsigned_of(time.tv_nsec));
  }
  answer.u64(0).u64(0);  // generation, data version
  return 0;
}

Errno P9Server::set_attributes(Request& request) {
  P9Reader& reader = request.reader;
  const std::uint32_t number = reader.u32();
  const std::uint32_t valid = reader.u32();
  const std::uint32_t mode = reader.u32();
  const std::uint32_t uid = reader.u32();
  const std::uint32_t gid = reader.u32();
  const std::uint64_t size = reader.u64();
  std::array<timespec, 2> times{};
  for (timespec& time : times) {
    time.tv_sec = static_cast<time_t>(reader.u64());
    time.tv_nsec = static_cast<long>(reader.u64());
  }
  if (!reader.good()) return EPROTO;
  Fid* fid = nullptr;
  if (const Errno code = find(number, fid); code != 0) return code;
  UniqueFd place;
  if (!fid->file) {
    if (const Errno code = directory_.find(fid->path, place); code != 0) return code;
  }
  const int target = fid->file ? fid->file.get() : place.get();
  struct stat found {};
  if (::fstat(target, &found) < 0) return errno;
  // The host's users are not the guest's.
  if ((valid & kSetUid) != 0 && uid != found.st_uid) return EPERM;
  if ((valid & kSetGid) != 0 && gid != found.st_gid) return EPERM;
  if ((valid & kSetMode) != 0) {
    if (S_ISLNK(found.st_mode)) return EOPNOTSUPP;
    // fchmod() takes no O_PATH descriptor; this magic link leads to the file that was found.
    std::array<char, 40> path;
    snprintf(path.data(), path.size(), "/proc/self/fd/%d", target);
    if (::chmod(path.data(), mode & kPermissions) < 0) return errno;
  }
  if ((valid & kSetSize) != 0) {
    if (!S_ISREG(found.st_mode)) return EINVAL;
    UniqueFd file;
    if (const Errno code = reopen(target, O_WRONLY, file); code != 0) return code;
    if (::ftruncate(file.get(), static_cast<off_t>(size)) < 0) return errno;
  }
  if ((valid & (kSetAtime | kSetMtime)) != 0) {
    const auto choose = [&](timespec& time, std::uint32_t set, std::uint32_t value) {
      if ((valid & set) == 0) {
        time.tv_nsec = UTIME_OMIT;
      } else if ((valid & value) == 0) {
        time.tv_nsec = UTIME_NOW;
      } else if (time.tv_nsec < 0 || time.tv_nsec > 999'999'999) {
        return EINVAL;
      }
      return 0;
    };
    if (choose(times[0], kSetAtime, kSetAtimeValue) != 0) return EINVAL;
    if (choose(times[1], kSetMtime, kSetMtimeValue) != 0) return EINVAL;
    if (::utimensat(target, "", times.data(), AT_EMPTY_PATH) < 0) return errno;
  }
  return 0;
}

Errno P9Server::read(Request& request) {
  const std::uint32_t number = request.reader.u32();
  const std::uint64_t offset = request.reader.u64();
  const std::uint32_t wanted = request.reader.u32();
  if (!request.reader.good()) return EPROTO;
  Fid* fid = nullptr;
  if (const Errno code = find_open(number, fid); code != 0) return code;
  const std::size_t count = std::min<std::size_t>(wanted, request.room - kP9ReadBytes);
  // Read first: the answer begins with how much it was.
  std::vector<std::byte> data(count);
  const ssize_t got = ::pread(fid->file.get(), data.data(), count, static_cast<off_t>(offset));
  if (got < 0) return errno;
  const auto there = std::span(data).first(static_cast<std::size_t>(got));
  request.answer.u32(static_cast<std::uint32_t>(got));
  std::ranges::copy(there, request.answer.room(there.size()).begin());
  return 0;
}

Errno P9Server::write(Request& request) {
  const std::uint32_t number = request.reader.u32();
  const std::uint64_t offset = request.reader.u64();
  const std::uint32_t count = request.reader.u32();
  const auto data = request.reader.bytes(count);
  if (!request.reader.good()) return EPROTO;
  Fid* fid = nullptr;
  if (const Errno code = find_open(number, fid); code != 0) return code;
  const ssize_t put =
      ::pwrite(fid->file.get(), data.data(), data.size(), static_cast<off_t>(offset));
  if (put < 0) return errno;
  request.answer.u32(static_cast<std::uint32_t>(put));
  return 0;
}

Errno P9Server::read_directory(Request& request) {
  const std::uint32_t number = request.reader.u32();
  const std::uint64_t offset = request.reader.u64();
  const std::uint32_t wanted = request.reader.u32();
  if (!request.reader.good()) return EPROTO;
  Fid* fid = nullptr;
  if (const Errno code = find_open(number, fid); code != 0) return code;
  const std::size_t count = std::min<std::size_t>(wanted, request.room - kP9ReadBytes);
  if (::lseek(fid->file.get(), static_cast<off_t>(offset), SEEK_SET) < 0) return errno;
  P9Writer entries(P9Type::kReaddir, 0);
  const std::size_t empty = entries.size();
  std::array<std::byte, 4096> found;
  bool full = false;
  while (!full) {
    const auto got = ::syscall(SYS_getdents64, fid->file.get(), found.data(), found.size());
    if (got < 0) return errno;
    if (got == 0) break;
    for (std::span<const std::byte> left(found.data(), static_cast<std::size_t>(got));
         !left.empty() && !full;) {
      const DirectoryEntry entry{load_le<std::uint64_t>(left, 0), load_le<std::int64_t>(left, 8),
                                 load_le<std::uint16_t>(left, 16), load_le<std::uint8_t>(left, 18)};
      const std::string_view name(reinterpret_cast<const char*>(left.data()) + kNameAt);
      left = left.subspan(entry.length);
      P9Qid qid = qid_from(entry);
      // What lies above the directory is nothing of the guest's.
      if (name == ".." && fid->path.empty()) qid.path = fid->inode;
      const std::size_t size = 13 + 8 + 1 + 2 + name.size();
      full = entries.size() - empty + size > count;
      if (full) break;
      entries.qid(qid).u64(unsigned_of(entry.offset)).u8(entry.type).string(name);
    }
  }
  const std::vector<std::byte> bytes = entries.take();
  const auto body = std::span(bytes).subspan(empty);
  // An entry that has no room at all would look like the end.
  if (full && body.empty()) return EINVAL;
  request.answer.u32(static_cast<std::uint32_t>(body.size()));
  std::ranges::copy(body, request.answer.room(body.size()).begin());
  return 0;
}

Errno P9Server::sync(Request& request) {
  const std::uint32_t number = request.reader.u32();
  if (!request.reader.good()) return EPROTO;
  const std::uint32_t data_only = request.reader.u32();
  Fid* fid = nullptr;
  if (const Errno code = find_open(number, fid); code != 0) return code;
  const int file = fid->file.get();
  return (data_only != 0 ? ::fdatasync(file) : ::fsync(file)) < 0 ? errno : 0;
}

Errno P9Server::file_system(Request& request) {
  const std::uint32_t number = request.reader.u32();
  if (!request.reader.good()) return EPROTO;
  Fid* fid = nullptr;
  struct statfs found {};
  if (const Errno code = find(number, fid); code != 0) return code;
  if (const Errno code = directory_.file_system(fid->path, found); code != 0) return code;
  request.answer.u32(kMagic).u32(static_cast<std::uint32_t>(found.f_bsize));
  request.answer.u64(found.f_blocks).u64(found.f_bfree).u64(found.f_bavail);
  request.answer.u64(found.f_files).u64(found.f_ffree).u64(0);
  request.answer.u32(static_cast<std::uint32_t>(found.f_namelen));
  return 0;
}

Errno P9Server::unlink_at(Request& request) {
  const std::uint32_t number = request.reader.u32();
  const std::string name = request.reader.string();
  const std::uint32_t flags = request.reader.u32();
  if (!request.reader.good()) return EPROTO;
  std::string path;
  if (const Errno code = below(number, name, path); code != 0) return code;
  return directory_.remove(path, (flags & AT_REMOVEDIR) != 0);
}

// The guest is its directory's only client as far as it knows: its kernel keeps its locks itself.
Errno P9Server::lock(Request& request) {
  const std::uint32_t number = request.reader.u32();
  Fid* fid = nullptr;
  if (const Errno code = find_open(number, fid); code != 0) return code;
  request.answer.u8(0);
  return 0;
}

Errno P9Server::get_lock(Request& request) {
  const std::uint32_t number = request.reader.u32();
  request.reader.u8();
  const std::uint64_t start = request.reader.u64();
  const std::uint64_t length = request.reader.u64();
  const std::uint32_t process = request.reader.u32();
  const std::string client = request.reader.string();
  if (!request.reader.good()) return EPROTO;
  Fid* fid = nullptr;
  if (const Errno code = find_open(number, fid); code != 0) return code;
  request.answer.u8(kUnlocked).u64(start).u64(length).u32(process).string(client);
  return 0;
}

}  // namespace kvitest
