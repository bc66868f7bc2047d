// The processor state a payload starts in: GDT, TSS, page tables and the registers that point to
// them.
#pragma once

#include "native/kvm/registers.h"
#include "native/memory/guest_memory.h"

namespace kvitest {

// Selectors of the boot GDT. Linux's 64-bit boot protocol wants code at 0x10 and data at 0x18; user
// data comes before user code so that SYSRET works (STAR[63:48] = 0x18).
inline constexpr std::uint16_t kSelectorCode = 0x10;
inline constexpr std::uint16_t kSelectorData = 0x18;
inline constexpr std::uint16_t kSelectorUserData = 0x20 | 3;
inline constexpr std::uint16_t kSelectorUserCode = 0x28 | 3;
inline constexpr std::uint16_t kSelectorTss = 0x30;

// Writes GDT, TSS and page tables (the low 4 GiB mapped to themselves with 2 MiB pages), returns
// registers for 64-bit mode in ring 0 or 3. In ring 3 the pages are user pages. The IDT is empty:
// an exception that the guest has not prepared for is a triple fault. Throws Error (ENOMEM) when
// RAM ends below 1 MiB.
SpecialRegisters enter_long_mode(GuestMemory& memory, int ring);

// 32-bit protected mode without paging, as the PVH boot ABI asks (xen/docs/misc/pvh.pandoc).
SpecialRegisters protected_mode();

}  // namespace kvitest
