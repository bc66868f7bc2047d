// Ranges of a disk.
#pragma once

#include <cerrno>
#include <cstdint>
#include <string>

#include "native/error.h"

namespace kvitest {

// Throws Error (EINVAL) unless [offset, offset + length) is inside `size` bytes.
inline void check_range(const char* operation, std::uint64_t offset, std::uint64_t length,
                        std::uint64_t size) {
  if (offset <= size && length <= size - offset) return;
  throw Error(operation, EINVAL,
              std::to_string(length) + " bytes at " + std::to_string(offset) + " of a disk of " +
                  std::to_string(size));
}

}  // namespace kvitest
