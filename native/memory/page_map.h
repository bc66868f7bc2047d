// What the kernel knows of the pages of one of our mappings: /proc/self/pagemap.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace kvitest {

enum class PageKind {
  kPresent,  // in memory or in swap: whatever was ever touched
  kPrivate,  // of those, the copies that a write made: no longer the file's page
};

// Numbers of the pages of [mapping, mapping + bytes) that are of this kind, ascending. Throws
// Error.
std::vector<std::uint32_t> pages_of_kind(const void* mapping, std::uint64_t bytes, PageKind kind);

}  // namespace kvitest
