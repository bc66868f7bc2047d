#include "native/boot/initramfs.h"

#include <algorithm>

#include "native/boot/layout.h"
#include "native/boot/payload_file.h"

namespace kvitest {

LoadedInitramfs load_initramfs(GuestMemory& memory, const std::string& path, Gpa floor, Gpa limit) {
  if (path.empty()) return {};
  const PayloadFile file("load initramfs", path);
  if (file.size() == 0) file.fail("the file is empty", "build or fetch it again");

  const Gpa top = std::min(low_ram_end(memory), limit) & ~(kPageSize - 1);
  const std::uint64_t rounded = (file.size() + kPageSize - 1) & ~(kPageSize - 1);
  if (rounded < file.size() || top < floor || top - floor < rounded) {
    file.fail("initramfs of " + format_bytes(file.size()) + " does not fit in " +
                  format_bytes(memory.size()) + " of memory beside the kernel, which ends at " +
                  format_needed(floor),
              "give the guest more memory or make the initramfs smaller");
  }
  const Gpa base = top - rounded;
  if (!file.copy_to(memory, base, 0, file.size())) {
    file.fail("initramfs does not fit in the guest's memory", "give the guest more memory");
  }
  return {base, file.size()};
}

}  // namespace kvitest
