// A checkpoint as a core dump that gdb, readelf, crash and drgn open.
#pragma once

#include <string>

#include "native/machine/checkpoint.h"

namespace kvitest {

// Writes an ELF64 ET_CORE to `path`, which is there whole or not at all: a PT_LOAD for each range
// of RAM with p_vaddr = p_paddr = the guest physical address, and a PT_NOTE with one NT_PRSTATUS
// for each vCPU in their order and the guest kernel's VMCOREINFO
// (Documentation/admin-guide/kdump/vmcoreinfo.rst), when its RAM has one. Pages of zeros are holes
// of the file. Throws Error.
void save_core(const Checkpoint& checkpoint, const std::string& path);

}  // namespace kvitest
