// A file of the host that overlays read and that must not change while they do.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "native/unique_fd.h"

namespace kvitest {

// By what a file is known to be the one that was read before. Not its device's number, which
// another boot of the host may change.
struct FileIdentity {
  std::uint64_t inode = 0;
  std::uint64_t size = 0;  // bytes
  std::int64_t seconds = 0;
  std::uint32_t nanoseconds = 0;  // of the last change of its content
  template <typename Archive>
  void fields(Archive& archive) {
    archive(inode, size, seconds, nanoseconds);
  }
  bool operator==(const FileIdentity&) const = default;
};

// Any thread may use it. Held with a shared lock (flock(2)), which a writing FileBacking refuses.
class BaseFile {
 public:
  // Throws Error: what open(2) gives, EINVAL for what is no regular file, EBUSY while a machine
  // writes to it.
  static std::shared_ptr<const BaseFile> open(const std::string& path);
  // The same file as before; throws Error (ESTALE) when it is another one now.
  static std::shared_ptr<const BaseFile> open(const std::string& path,
                                              const FileIdentity& identity);

  const std::string& path() const { return path_; }
  const FileIdentity& identity() const { return identity_; }
  // Throws Error (ESTALE) when it was changed since it was opened.
  void check_unchanged() const;
  // Bytes beyond the end are zeros. Throws Error.
  void read(std::uint64_t offset, std::span<std::byte> out) const;

  // Only for open().
  BaseFile(std::string path, UniqueFd fd, const FileIdentity& identity)
      : path_(std::move(path)), fd_(std::move(fd)), identity_(identity) {}

 private:
  std::string path_;
  UniqueFd fd_;
  FileIdentity identity_;
};

// pread(2) of all of it; throws Error, EIO also when the file ends before.
void read_file(int fd, std::uint64_t offset, std::span<std::byte> out, const std::string& path);
// Opens with O_CLOEXEC and locks it (flock(2)) until it is closed. Throws Error.
UniqueFd open_locked(const std::string& path, int flags, int lock);

}  // namespace kvitest
