#include "native/boot/zero_page.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <span>
#include <vector>

#include "native/boot/e820.h"
#include "native/boot/layout.h"
#include "native/error.h"
#include "native/little_endian.h"

namespace kvitest {
namespace {

constexpr std::size_t kAcpiRsdpAddr = 0x070;
constexpr std::size_t kE820Entries = 0x1e8;
constexpr std::size_t kSetupHeader = 0x1f1;
constexpr std::size_t kTypeOfLoader = 0x210;
constexpr std::size_t kRamdiskImage = 0x218;
constexpr std::size_t kRamdiskSize = 0x21c;
constexpr std::size_t kCmdLinePtr = 0x228;
constexpr std::size_t kE820Table = 0x2d0;
constexpr std::size_t kE820EntrySize = 20;
constexpr std::uint8_t kLoaderUndefined = 0xff;  // no boot loader ID assigned

}  // namespace

Gpa write_zero_page(GuestMemory& memory, const BzImage& image, const LoadedInitramfs& initramfs,
                    Gpa cmdline, Gpa rsdp) {
  std::array<std::byte, kPageSize> page{};
  std::ranges::copy(image.setup_header, page.begin() + kSetupHeader);
  store_le<std::uint8_t>(page, kTypeOfLoader, kLoaderUndefined);
  store_le<std::uint64_t>(page, kAcpiRsdpAddr, rsdp);
  // Below 4 GiB: the initramfs because of initramfs_limit, the command line by the layout.
  store_le<std::uint32_t>(page, kRamdiskImage, static_cast<std::uint32_t>(initramfs.base));
  store_le<std::uint32_t>(page, kRamdiskSize, static_cast<std::uint32_t>(initramfs.size));
  store_le<std::uint32_t>(page, kCmdLinePtr, static_cast<std::uint32_t>(cmdline));

  const std::vector<E820Entry> map = e820_map(memory);
  store_le<std::uint8_t>(page, kE820Entries, static_cast<std::uint8_t>(map.size()));
  for (std::size_t i = 0; i < map.size(); ++i) {
    const std::size_t at = kE820Table + i * kE820EntrySize;
    store_le<std::uint64_t>(page, at, map[i].base);
    store_le<std::uint64_t>(page, at + 8, map[i].size);
    store_le<std::uint32_t>(page, at + 16, map[i].type);
  }
  if (!memory.write(kZeroPage, page)) {
    throw Error("write zero page", ENOMEM, "the guest has less than 1 MiB of memory");
  }
  return kZeroPage;
}

}  // namespace kvitest
