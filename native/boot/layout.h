// Where boot puts things in guest memory. All of it lies below 1 MiB, so the smallest guest has it.
#pragma once

#include "native/memory/guest_memory.h"

namespace kvitest {

inline constexpr Gpa kGdtBase = 0x500;
inline constexpr Gpa kPvhStartInfo = 0x6000;
inline constexpr Gpa kZeroPage = 0x7000;
inline constexpr Gpa kLinuxStackTop = 0x8ff0;
inline constexpr Gpa kPageTables = 0x9000;  // PML4, PDPT, four page directories: to 0xf000
inline constexpr Gpa kTssBase = 0x1'0000;   // with its I/O permission bitmap: to 0x1'2069
inline constexpr Gpa kCmdline = 0x2'0000;
// A bare guest's stack grows down from here; 384 KiB until it meets kCmdline.
inline constexpr Gpa kBareStackTop = 0x8'0000;
// Conventional memory ends here, as on a PC with a 1 KiB extended BIOS data area.
inline constexpr Gpa kConventionalEnd = 0x9'fc00;
// The BIOS area: reserved in the e820 map, real RAM underneath.
inline constexpr Gpa kAcpiBase = 0xe'0000;
inline constexpr Gpa kVmGenIdPage = 0xf'e000;
inline constexpr Gpa kResetVector = 0xf'fff0;  // F000:FFF0 of real mode
inline constexpr Gpa kHighMemory = 0x10'0000;

// The end of the RAM that starts at 0; devices and the rest of the RAM are above it.
inline Gpa low_ram_end(const GuestMemory& memory) {
  return memory.size() < kLowRamLimit ? memory.size() : kLowRamLimit;
}

}  // namespace kvitest
