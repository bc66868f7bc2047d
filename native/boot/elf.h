// Static x86-64 ELF executables: kernels with a PVH note, and bare guests.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "native/boot/payload_file.h"
#include "native/memory/guest_memory.h"

namespace kvitest {

struct ElfSegment {
  std::uint64_t offset = 0;     // in the file
  std::uint64_t file_size = 0;  // bytes; the rest up to memory_size is zero
  Gpa physical = 0;
  std::uint64_t memory_size = 0;
};

struct ElfImage {
  std::uint64_t entry = 0;
  std::vector<ElfSegment> load;  // sorted by address, disjoint, above 1 MiB, inside the file
  // The PVH entry point from the note "Xen" 18 (XEN_ELFNOTE_PHYS32_ENTRY).
  std::optional<std::uint32_t> pvh_entry;
  Gpa end = 0;  // first address behind the last segment
};

// True when the file begins with the ELF magic.
bool is_elf(const PayloadFile& file);

// Trusts nothing in the file. Throws Error: wrong class, machine or type, dynamically linked,
// truncated, segments that overlap, wrap around, or lie below 1 MiB.
ElfImage parse_elf(const PayloadFile& file);

// True when address lies in a loaded segment.
bool elf_contains(const ElfImage& image, std::uint64_t address);

// Copies every segment, zeroes the rest of each. Throws Error when one is not RAM.
void load_elf(const PayloadFile& file, const ElfImage& image, GuestMemory& memory);

}  // namespace kvitest
