// The one entrance of boot: puts a payload into guest memory and says how the boot vCPU starts.
#pragma once

#include <cstdint>
#include <string>

#include "native/boot/acpi.h"
#include "native/kvm/registers.h"
#include "native/memory/guest_memory.h"

namespace kvitest {

// Registers of vCPU 0. Other vCPUs wait for INIT and SIPI in the in-kernel local APIC and need
// none. Beside it every vCPU needs its CPUID (cpuid.h) and then the MSRs of msrs.h.
struct BootState {
  GeneralRegisters general;
  SpecialRegisters special;
  FpuState fpu;
};

struct LinuxImage {
  std::string kernel;     // path of a bzImage, or of an ELF vmlinux with a PVH note
  std::string initramfs;  // path; empty for none
  std::string cmdline;
};

// Loads kernel and initramfs, writes command line, ACPI tables, memory map and the zero page
// (bzImage) or hvm_start_info (PVH). Throws Error, one line that names the file.
BootState load_linux(GuestMemory& memory, const LinuxImage& image, const AcpiPlatform& platform);

// Loads a freestanding static ELF64. It starts in 64-bit mode with the low 4 GiB mapped to
// themselves, interrupts off, RSP 16-byte aligned at kBareStackTop, RDI = bytes of RAM, SSE
// enabled; ring 3 runs with IOPL 3, so that IN and OUT work. ring: 0 or 3. Throws Error, one line
// that names the file.
BootState load_bare(GuestMemory& memory, const std::string& elf, int ring);

}  // namespace kvitest
