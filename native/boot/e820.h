// The guest's physical memory map, as firmware would report it (ACPI 6.5, 15).
#pragma once

#include <cstdint>
#include <vector>

#include "native/memory/guest_memory.h"

namespace kvitest {

inline constexpr std::uint32_t kE820Ram = 1;
inline constexpr std::uint32_t kE820Reserved = 2;

// e820 entries and PVH memory map entries share these values.
struct E820Entry {
  Gpa base;
  std::uint64_t size;
  std::uint32_t type;
};

// Conventional memory, the reserved area up to 1 MiB (ACPI tables, vmgenid page), then all RAM.
std::vector<E820Entry> e820_map(const GuestMemory& memory);

}  // namespace kvitest
