#include "native/disk/base_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "native/error.h"

namespace kvitest {
namespace {

FileIdentity identity_of(int fd, const std::string& path) {
  struct stat status {};
  if (::fstat(fd, &status) != 0) throw Error("fstat", errno, path);
  return {.inode = status.st_ino,
          .size = static_cast<std::uint64_t>(status.st_size),
          .seconds = status.st_mtim.tv_sec,
          .nanoseconds = static_cast<std::uint32_t>(status.st_mtim.tv_nsec)};
}

[[noreturn]] void changed(const std::string& path) {
  throw Error("open disk", ESTALE, path + ": the file was changed since the checkpoint read it",
              "take the checkpoint again");
}

}  // namespace

UniqueFd open_locked(const std::string& path, int flags, int lock) {
  UniqueFd fd(::open(path.c_str(), flags | O_CLOEXEC | O_NONBLOCK));
  if (!fd) throw Error("open disk", errno, path);
  struct stat status {};
  if (::fstat(fd.get(), &status) != 0) throw Error("fstat", errno, path);
  if (!S_ISREG(status.st_mode)) {
    throw Error("open disk", EINVAL, path + ": not a regular file",
                "give a file of a disk's bytes");
  }
  if (::flock(fd.get(), lock | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) throw Error("flock", errno, path);
    throw Error("open disk", EBUSY, path + ": another machine uses it, and one of them writes",
                "give each machine an overlay over it");
  }
  return fd;
}

std::shared_ptr<const BaseFile> BaseFile::open(const std::string& path) {
  UniqueFd fd = open_locked(path, O_RDONLY, LOCK_SH);
  const FileIdentity identity = identity_of(fd.get(), path);
  return std::make_shared<BaseFile>(path, std::move(fd), identity);
}

std::shared_ptr<const BaseFile> BaseFile::open(const std::string& path,
                                               const FileIdentity& identity) {
  std::shared_ptr<const BaseFile> file = open(path);
  if (file->identity() != identity) changed(path);
  return file;
}

void BaseFile::check_unchanged() const {
  if (identity_of(fd_.get(), path_) != identity_) changed(path_);
}

void BaseFile::read(std::uint64_t offset, std::span<std::byte> out) const {
  const std::uint64_t there = offset < identity_.size ? identity_.size - offset : 0;
  const auto bytes = static_cast<std::size_t>(std::min<std::uint64_t>(there, out.size()));
  read_file(fd_.get(), offset, out.first(bytes), path_);
  std::ranges::fill(out.subspan(bytes), std::byte{0});
}

void read_file(int fd, std::uint64_t offset, std::span<std::byte> out, const std::string& path) {
  while (!out.empty()) {
    const ssize_t done = ::pread(fd, out.data(), out.size(), static_cast<off_t>(offset));
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) throw Error("read disk", errno, path);
    if (done == 0) throw Error("read disk", EIO, path + ": the file became shorter");
    out = out.subspan(static_cast<std::size_t>(done));
    offset += static_cast<std::uint64_t>(done);
  }
}

}  // namespace kvitest
