// boot_params, the "zero page" (Linux Documentation/arch/x86/zero-page.rst).
#pragma once

#include "native/boot/bzimage.h"
#include "native/boot/initramfs.h"
#include "native/memory/guest_memory.h"

namespace kvitest {

// Writes the zero page and returns its address, which the 64-bit entry point wants in RSI.
Gpa write_zero_page(GuestMemory& memory, const BzImage& image, const LoadedInitramfs& initramfs,
                    Gpa cmdline, Gpa rsdp);

}  // namespace kvitest
