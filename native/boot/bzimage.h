// Linux bzImage, 64-bit entry (Linux Documentation/arch/x86/boot.rst).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "native/boot/payload_file.h"
#include "native/memory/guest_memory.h"

namespace kvitest {

// What the setup header says, checked.
struct BzImage {
  std::uint64_t kernel_offset = 0;  // of the protected-mode kernel in the file
  std::uint64_t kernel_size = 0;    // bytes
  Gpa load_address = 0;             // pref_address
  std::uint64_t init_size = 0;      // bytes the kernel needs from load_address before it reads e820
  Gpa initramfs_limit = 0;          // first address an initramfs must not reach
  std::uint32_t cmdline_limit = 0;  // characters, without the NUL
  std::uint16_t version = 0;        // boot protocol, 0x020f
  std::array<std::byte, 0x290 - 0x1f1> setup_header{};  // as in the file; zeros behind its end
};

// Offset of the 64-bit entry point behind load_address (boot.rst, "64-bit Boot Protocol").
inline constexpr std::uint64_t kBzImageEntry64 = 0x200;

// Throws Error: not a kernel, too old, not 64-bit, truncated.
BzImage parse_bzimage(const PayloadFile& file);

// Copies the protected-mode kernel to its load address; its init_size must fit into low RAM. Throws
// Error.
void load_bzimage(const PayloadFile& file, const BzImage& image, GuestMemory& memory);

}  // namespace kvitest
