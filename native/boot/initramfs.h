// Placement of the initramfs in guest memory.
#pragma once

#include <cstdint>
#include <string>

#include "native/memory/guest_memory.h"

namespace kvitest {

struct LoadedInitramfs {
  Gpa base = 0;
  std::uint64_t size = 0;  // 0: there is none
};

// Loads the file at path page aligned and as high as possible: below `limit` (exclusive) and the
// end of low RAM, above `floor`, the first byte the kernel does not need for itself. Empty path:
// none. Throws Error when the file cannot be read, is empty or does not fit.
LoadedInitramfs load_initramfs(GuestMemory& memory, const std::string& path, Gpa floor, Gpa limit);

}  // namespace kvitest
