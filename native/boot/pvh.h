// The PVH start info block (xen/include/public/arch-x86/hvm/start_info.h).
#pragma once

#include "native/boot/initramfs.h"
#include "native/memory/guest_memory.h"

namespace kvitest {

// Writes hvm_start_info version 1 with memory map, the initramfs as its one module, command line
// and RSDP; returns its address, which the entry point wants in EBX.
Gpa write_pvh_start_info(GuestMemory& memory, const LoadedInitramfs& initramfs, Gpa cmdline,
                         Gpa rsdp);

}  // namespace kvitest
