#include "native/boot/elf.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <span>
#include <string>
#include <string_view>

#include "native/boot/layout.h"
#include "native/hex.h"
#include "native/little_endian.h"

namespace kvitest {
namespace {

constexpr std::array<std::byte, 4> kMagic{std::byte{0x7f}, std::byte{'E'}, std::byte{'L'},
                                          std::byte{'F'}};
constexpr std::size_t kHeaderSize = 64;
constexpr std::size_t kProgramHeaderSize = 56;
constexpr std::uint8_t kClass64 = 2;
constexpr std::uint8_t kLittleEndian = 1;
constexpr std::uint16_t kTypeExecutable = 2;
constexpr std::uint16_t kMachineX86_64 = 62;
constexpr std::uint32_t kPtLoad = 1;
constexpr std::uint32_t kPtDynamic = 2;
constexpr std::uint32_t kPtInterp = 3;
constexpr std::uint32_t kPtNote = 4;
// A Linux vmlinux has five; a limit keeps a hostile file from making us read megabytes of headers.
constexpr std::uint16_t kMostProgramHeaders = 128;
constexpr std::uint64_t kLargestNotes = 1024 * 1024;
constexpr std::uint32_t kXenPhys32Entry = 18;
constexpr char kDamagedHint[] = "build or fetch the file again";

std::uint64_t align4(std::uint64_t value) {
  return (value + 3) & ~std::uint64_t{3};
}

// Walks name/desc/type records; stops at the first that does not fit (ELF gABI, "Note Section").
std::optional<std::uint32_t> find_pvh_entry(std::span<const std::byte> notes) {
  while (notes.size() >= 12) {
    const std::uint64_t name_size = load_le<std::uint32_t>(notes, 0);
    const std::uint64_t desc_size = load_le<std::uint32_t>(notes, 4);
    const std::uint32_t type = load_le<std::uint32_t>(notes, 8);
    const std::uint64_t desc_at = 12 + align4(name_size);
    if (desc_at + desc_size > notes.size()) return std::nullopt;
    const std::string_view name(reinterpret_cast<const char*>(notes.data()) + 12, name_size);
    if (type == kXenPhys32Entry && name == std::string_view("Xen\0", 4)) {
      if (desc_size == 4) return load_le<std::uint32_t>(notes, desc_at);
      if (desc_size == 8) {
        const auto entry = load_le<std::uint64_t>(notes, desc_at);
        if (entry <= 0xffff'ffff) return static_cast<std::uint32_t>(entry);
      }
      return std::nullopt;
    }
    notes = notes.subspan(std::min<std::uint64_t>(notes.size(), align4(desc_at + desc_size)));
  }
  return std::nullopt;
}

void check_inside_file(const PayloadFile& file, std::uint64_t offset, std::uint64_t length) {
  if (offset > file.size() || length > file.size() - offset) {
    file.fail("truncated: a segment ends at byte " + std::to_string(offset) + " + " +
                  std::to_string(length) + ", file has " + std::to_string(file.size()),
              kDamagedHint);
  }
}

void add_load_segment(const PayloadFile& file, ElfImage& image, const ElfSegment& segment) {
  if (segment.memory_size == 0) return;
  check_inside_file(file, segment.offset, segment.file_size);
  if (segment.file_size > segment.memory_size) {
    file.fail("a segment at " + hex(segment.physical) + " is larger in the file than in memory",
              kDamagedHint);
  }
  if (segment.physical + segment.memory_size < segment.physical) {
    file.fail("a segment at " + hex(segment.physical) + " wraps around the end of memory",
              kDamagedHint);
  }
  if (segment.physical < kHighMemory) {
    file.fail("a segment at " + hex(segment.physical) + " lies below 1 MiB, which boot data takes",
              "link it at 0x100000 or above");
  }
  image.load.push_back(segment);
}

void sort_and_check_overlap(const PayloadFile& file, ElfImage& image) {
  std::sort(image.load.begin(), image.load.end(),
            [](const ElfSegment& a, const ElfSegment& b) { return a.physical < b.physical; });
  for (std::size_t i = 1; i < image.load.size(); ++i) {
    if (image.load[i].physical < image.load[i - 1].physical + image.load[i - 1].memory_size) {
      file.fail("segments overlap at " + hex(image.load[i].physical), kDamagedHint);
    }
  }
  image.end = image.load.back().physical + image.load.back().memory_size;
}

}  // namespace

bool is_elf(const PayloadFile& file) {
  const std::vector<std::byte> head = file.read(0, kMagic.size());
  return std::ranges::equal(head, kMagic);
}

ElfImage parse_elf(const PayloadFile& file) {
  const std::vector<std::byte> head = file.read(0, kHeaderSize);
  const std::span<const std::byte> bytes(head);
  if (!is_elf(file)) file.fail("not an ELF file", "give a static x86-64 ELF executable");
  if (bytes.size() < kHeaderSize) {
    file.fail("truncated: an ELF header has 64 bytes, file has " + std::to_string(file.size()),
              kDamagedHint);
  }
  if (load_le<std::uint8_t>(bytes, 4) != kClass64 ||
      load_le<std::uint8_t>(bytes, 5) != kLittleEndian ||
      load_le<std::uint16_t>(bytes, 18) != kMachineX86_64) {
    file.fail("the ELF file is not for x86-64", "build it for x86-64");
  }
  if (load_le<std::uint16_t>(bytes, 16) != kTypeExecutable) {
    file.fail("the ELF file is not an executable with fixed addresses",
              "link it with -static -no-pie");
  }
  const auto table_at = load_le<std::uint64_t>(bytes, 32);
  const auto entry_size = load_le<std::uint16_t>(bytes, 54);
  const auto count = load_le<std::uint16_t>(bytes, 56);
  if (entry_size != kProgramHeaderSize || count == 0 || count > kMostProgramHeaders) {
    file.fail("the ELF file has no usable program headers (" + std::to_string(count) + " of " +
                  std::to_string(entry_size) + " bytes)",
              kDamagedHint);
  }
  check_inside_file(file, table_at, std::uint64_t{count} * kProgramHeaderSize);
  const std::vector<std::byte> table = file.read(table_at, count * kProgramHeaderSize);

  ElfImage image;
  image.entry = load_le<std::uint64_t>(bytes, 24);
  for (std::size_t i = 0; i < count; ++i) {
    const auto header =
        std::span<const std::byte>(table).subspan(i * kProgramHeaderSize, kProgramHeaderSize);
    const auto type = load_le<std::uint32_t>(header, 0);
    const ElfSegment segment{load_le<std::uint64_t>(header, 8), load_le<std::uint64_t>(header, 32),
                             load_le<std::uint64_t>(header, 24),
                             load_le<std::uint64_t>(header, 40)};
    if (type == kPtInterp || type == kPtDynamic) {
      file.fail("the ELF file is dynamically linked", "link it with -static -no-pie");
    } else if (type == kPtLoad) {
      add_load_segment(file, image, segment);
    } else if (type == kPtNote && segment.file_size <= kLargestNotes && !image.pvh_entry) {
      check_inside_file(file, segment.offset, segment.file_size);
      image.pvh_entry = find_pvh_entry(file.read(segment.offset, segment.file_size));
    }
  }
  if (image.load.empty()) file.fail("the ELF file has nothing to load", kDamagedHint);
  sort_and_check_overlap(file, image);
  return image;
}

bool elf_contains(const ElfImage& image, std::uint64_t address) {
  return std::ranges::any_of(image.load, [address](const ElfSegment& segment) {
    return address >= segment.physical && address - segment.physical < segment.memory_size;
  });
}

void load_elf(const PayloadFile& file, const ElfImage& image, GuestMemory& memory) {
  for (const ElfSegment& segment : image.load) {
    const bool loaded = memory.contains(segment.physical, segment.memory_size) &&
                        file.copy_to(memory, segment.physical, segment.offset, segment.file_size) &&
                        memory.fill(segment.physical + segment.file_size, std::byte{0},
                                    segment.memory_size - segment.file_size);
    if (!loaded) {
      file.fail("needs " + format_needed(image.end) + " of memory, the guest has " +
                    format_bytes(memory.size()),
                "give the guest more memory");
    }
  }
}

}  // namespace kvitest
