#include "native/boot/bzimage.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "native/boot/layout.h"
#include "native/little_endian.h"

namespace kvitest {
namespace {

// Offsets in the file, and in the zero page, of the setup header's fields.
constexpr std::size_t kSetupSects = 0x1f1;
constexpr std::size_t kSysSize = 0x1f4;
constexpr std::size_t kJumpLength = 0x201;
constexpr std::size_t kMagic = 0x202;
constexpr std::size_t kVersion = 0x206;
constexpr std::size_t kInitrdAddrMax = 0x22c;
constexpr std::size_t kXloadflags = 0x236;
constexpr std::size_t kCmdlineSize = 0x238;
constexpr std::size_t kPrefAddress = 0x258;
constexpr std::size_t kInitSize = 0x260;
constexpr std::size_t kHeaderEnd = 0x290;  // boot_params has other fields from here on

constexpr std::uint32_t kHdrS = 0x5372'6448;
constexpr std::uint16_t kOldestVersion = 0x20c;  // has xloadflags
constexpr std::uint16_t kXlfKernel64 = 1;

constexpr char kBadKernelHint[] = "give a Linux x86-64 bzImage, or a vmlinux with a PVH note";

std::string protocol_name(std::uint16_t version) {
  return std::to_string(version >> 8) + "." + std::to_string(version & 0xff);
}

}  // namespace

BzImage parse_bzimage(const PayloadFile& file) {
  const std::vector<std::byte> head = file.read(0, kHeaderEnd);
  const std::span<const std::byte> bytes(head);
  if (bytes.size() < kHeaderEnd || load_le<std::uint32_t>(bytes, kMagic) != kHdrS) {
    file.fail("not a kernel: neither a bzImage nor an ELF file", kBadKernelHint);
  }
  BzImage image;
  image.version = load_le<std::uint16_t>(bytes, kVersion);
  if (image.version < kOldestVersion) {
    file.fail("boot protocol " + protocol_name(image.version) + " is too old, 2.12 is the oldest",
              "give a kernel from Linux 3.8 or later");
  }
  if ((load_le<std::uint16_t>(bytes, kXloadflags) & kXlfKernel64) == 0) {
    file.fail("the kernel has no 64-bit entry point", kBadKernelHint);
  }

  const unsigned sectors = std::to_integer<unsigned>(bytes[kSetupSects]);
  // 0 means 4, for the sake of very old boot loaders (boot.rst, setup_sects).
  image.kernel_offset = ((sectors == 0 ? 4 : sectors) + 1) * 512u;
  image.kernel_size = std::uint64_t{load_le<std::uint32_t>(bytes, kSysSize)} * 16;
  const std::uint64_t whole = image.kernel_offset + image.kernel_size;
  if (file.size() < whole) {
    file.fail("truncated: header says " + std::to_string(whole) + " bytes, file has " +
                  std::to_string(file.size()),
              "fetch or build the kernel again");
  }
  image.load_address = load_le<std::uint64_t>(bytes, kPrefAddress);
  image.init_size = load_le<std::uint32_t>(bytes, kInitSize);
  if (image.kernel_size <= kBzImageEntry64 || image.load_address < kHighMemory ||
      image.init_size == 0) {
    file.fail("the setup header is damaged: size, load address or init_size is impossible",
              "fetch or build the kernel again");
  }
  image.initramfs_limit = std::uint64_t{load_le<std::uint32_t>(bytes, kInitrdAddrMax)} + 1;
  image.cmdline_limit = load_le<std::uint32_t>(bytes, kCmdlineSize);

  const std::size_t header_end =
      std::min(kHeaderEnd, kMagic + std::to_integer<std::size_t>(bytes[kJumpLength]));
  std::memcpy(image.setup_header.data(), bytes.data() + kSetupSects, header_end - kSetupSects);
  return image;
}

void load_bzimage(const PayloadFile& file, const BzImage& image, GuestMemory& memory) {
  const std::uint64_t needed = std::max(image.init_size, image.kernel_size);
  if (!memory.contains(image.load_address, needed)) {
    file.fail("the kernel needs " + format_needed(image.load_address + needed) +
                  " of memory to start, beside its initramfs, the guest has " +
                  format_bytes(memory.size()),
              "give the guest more memory");
  }
  if (!file.copy_to(memory, image.load_address, image.kernel_offset, image.kernel_size)) {
    file.fail("the kernel does not fit in the guest's memory", "give the guest more memory");
  }
}

}  // namespace kvitest
