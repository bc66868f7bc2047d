#include "native/boot/payload_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <utility>

#include "native/error.h"

namespace kvitest {

PayloadFile::PayloadFile(std::string operation, std::string path)
    : operation_(std::move(operation)), path_(std::move(path)) {
  // O_NONBLOCK: opening a FIFO must not wait for a writer.
  fd_ = UniqueFd(::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
  if (!fd_) throw Error(operation_, errno, path_, "check the path and its permissions");
  struct stat info {};
  if (::fstat(fd_.get(), &info) != 0) throw Error(operation_, errno, path_);
  if (!S_ISREG(info.st_mode)) {
    throw Error(operation_, S_ISDIR(info.st_mode) ? EISDIR : EINVAL, path_ + ": not a regular file",
                "give the path of the file itself");
  }
  size_ = static_cast<std::uint64_t>(info.st_size);
}

std::vector<std::byte> PayloadFile::read(std::uint64_t offset, std::size_t length) const {
  std::vector<std::byte> bytes(length);
  std::size_t done = 0;
  while (done < length) {
    const ssize_t n =
        ::pread(fd_.get(), bytes.data() + done, length - done, static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw Error(operation_, errno, path_);
    if (n == 0) break;
    done += static_cast<std::size_t>(n);
  }
  bytes.resize(done);
  return bytes;
}

bool PayloadFile::copy_to(GuestMemory& memory, Gpa gpa, std::uint64_t offset,
                          std::uint64_t length) const {
  if (length == 0) return memory.contains(gpa, 1);
  return memory.read_from_fd(gpa, fd_.get(), offset, length);
}

void PayloadFile::fail(const std::string& what, const std::string& hint) const {
  throw Error(operation_, 0, path_ + ": " + what, hint);
}

std::string format_bytes(std::uint64_t bytes) {
  char text[32];
  if (bytes < 1024) {
    std::snprintf(text, sizeof text, "%llu bytes", static_cast<unsigned long long>(bytes));
  } else if (bytes < 1024 * 1024) {
    std::snprintf(text, sizeof text, "%.4g KiB", static_cast<double>(bytes) / 1024);
  } else {
    std::snprintf(text, sizeof text, "%.10g MiB",
                  static_cast<double>(bytes * 10 / (1024 * 1024)) / 10);
  }
  return text;
}

std::string format_needed(std::uint64_t bytes) {
  constexpr std::uint64_t kMiB = 1024 * 1024;
  return std::to_string(bytes / kMiB + (bytes % kMiB != 0 ? 1 : 0)) + " MiB";
}

}  // namespace kvitest
