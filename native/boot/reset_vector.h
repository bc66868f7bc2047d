// What the processor finds where a PC's BIOS begins.
#pragma once

#include "native/boot/acpi.h"
#include "native/memory/guest_memory.h"

namespace kvitest {

// Writes a few real-mode instructions to F000:FFF0 that write the platform's reset register. Linux
// jumps there to reboot when it takes the machine for one whose EFI should do it: hardware-reduced
// ACPI, CONFIG_EFI, but no EFI (arch/x86/kernel/reboot.c, reboot_init). Without code there it would
// run through memory for ever and a panic would look like a hang. Throws Error (ENOMEM) when RAM
// ends below 1 MiB.
void write_reset_vector(GuestMemory& memory, const AcpiPlatform& platform);

}  // namespace kvitest
