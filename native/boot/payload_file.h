// A file that becomes part of a guest: opened once, sized once, read by offset.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "native/memory/guest_memory.h"
#include "native/unique_fd.h"

namespace kvitest {

class PayloadFile {
 public:
  // operation: for errors, "load kernel". Throws Error when path is not a readable regular file.
  PayloadFile(std::string operation, std::string path);

  const std::string& path() const { return path_; }
  std::uint64_t size() const { return size_; }

  // At most length bytes from offset; fewer at the end of the file. Throws Error on I/O.
  std::vector<std::byte> read(std::uint64_t offset, std::size_t length) const;

  // Copies a range that lies within size() to gpa. False when it does not fit into RAM there.
  [[nodiscard]] bool copy_to(GuestMemory& memory, Gpa gpa, std::uint64_t offset,
                             std::uint64_t length) const;

  // Throws Error about this file: "OPERATION: PATH: what; hint".
  [[noreturn]] void fail(const std::string& what, const std::string& hint = {}) const;

 private:
  std::string operation_;
  std::string path_;
  UniqueFd fd_;
  std::uint64_t size_ = 0;
};

// "8.5 MiB" or "300 KiB" or "12 bytes", for messages; rounded down.
std::string format_bytes(std::uint64_t bytes);

// "72 MiB": whole MiB, rounded up, for what must be there at least.
std::string format_needed(std::uint64_t bytes);

}  // namespace kvitest
