#include "native/boot/pvh.h"

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

constexpr std::uint32_t kStartInfoMagic = 0x336e'c578;
constexpr std::uint32_t kStartInfoVersion = 1;
constexpr std::size_t kStartInfoSize = 56;
constexpr std::size_t kModuleEntrySize = 32;
constexpr std::size_t kMapEntrySize = 24;

}  // namespace

Gpa write_pvh_start_info(GuestMemory& memory, const LoadedInitramfs& initramfs, Gpa cmdline,
                         Gpa rsdp) {
  const std::vector<E820Entry> map = e820_map(memory);
  const Gpa module = kPvhStartInfo + kStartInfoSize;
  const std::size_t map_at = kStartInfoSize + kModuleEntrySize;
  std::vector<std::byte> block(map_at + map.size() * kMapEntrySize);
  const std::span<std::byte> bytes(block);

  store_le<std::uint32_t>(bytes, 0, kStartInfoMagic);
  store_le<std::uint32_t>(bytes, 4, kStartInfoVersion);
  store_le<std::uint32_t>(bytes, 12, initramfs.size == 0 ? 0 : 1);
  store_le<std::uint64_t>(bytes, 16, initramfs.size == 0 ? 0 : module);
  store_le<std::uint64_t>(bytes, 24, cmdline);
  store_le<std::uint64_t>(bytes, 32, rsdp);
  store_le<std::uint64_t>(bytes, 40, kPvhStartInfo + map_at);
  store_le<std::uint32_t>(bytes, 48, static_cast<std::uint32_t>(map.size()));

  store_le<std::uint64_t>(bytes, kStartInfoSize, initramfs.base);
  store_le<std::uint64_t>(bytes, kStartInfoSize + 8, initramfs.size);

  for (std::size_t i = 0; i < map.size(); ++i) {
    const std::size_t at = map_at + i * kMapEntrySize;
    store_le<std::uint64_t>(bytes, at, map[i].base);
    store_le<std::uint64_t>(bytes, at + 8, map[i].size);
    store_le<std::uint32_t>(bytes, at + 16, map[i].type);
  }
  if (!memory.write(kPvhStartInfo, bytes)) {
    throw Error("write PVH start info", ENOMEM, "the guest has less than 1 MiB of memory");
  }
  return kPvhStartInfo;
}

}  // namespace kvitest
