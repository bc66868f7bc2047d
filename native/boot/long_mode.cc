#include "native/boot/long_mode.h"

#include <array>
#include <cerrno>
#include <span>
#include <vector>

#include "native/boot/layout.h"
#include "native/error.h"
#include "native/little_endian.h"

namespace kvitest {
namespace {

constexpr std::uint64_t kCr0Pe = 1u << 0;
constexpr std::uint64_t kCr0Mp = 1u << 1;
constexpr std::uint64_t kCr0Et = 1u << 4;
constexpr std::uint64_t kCr0Ne = 1u << 5;
constexpr std::uint64_t kCr0Wp = 1u << 16;
constexpr std::uint64_t kCr0Pg = 1u << 31;
constexpr std::uint64_t kCr4Pae = 1u << 5;
constexpr std::uint64_t kCr4Osfxsr = 1u << 9;
constexpr std::uint64_t kCr4Osxmmexcpt = 1u << 10;
constexpr std::uint64_t kEferSce = 1u << 0;
constexpr std::uint64_t kEferLme = 1u << 8;
constexpr std::uint64_t kEferLma = 1u << 10;

constexpr std::uint64_t kPagePresent = 1u << 0;
constexpr std::uint64_t kPageWritable = 1u << 1;
constexpr std::uint64_t kPageUser = 1u << 2;
constexpr std::uint64_t kPageLarge = 1u << 7;

constexpr std::uint8_t kTypeCode = 0xb;     // execute, read, accessed
constexpr std::uint8_t kTypeData = 0x3;     // read, write, accessed
constexpr std::uint8_t kTypeBusyTss = 0xb;  // 64-bit (or 32-bit) busy TSS
constexpr std::uint32_t kTssFixed = 0x68;
// One bit for each port, then a byte of ones that ends it (Intel SDM 1, 19.5.2).
constexpr std::uint32_t kIoBitmap = 0x1'0000 / 8;
constexpr std::uint32_t kTssLimit = kTssFixed + kIoBitmap;

SegmentRegister flat_segment(std::uint16_t selector, std::uint8_t type, bool long_code) {
  const bool code = type == kTypeCode;
  SegmentRegister segment;
  segment.limit = 0xffff'ffff;
  segment.selector = selector;
  segment.type = type;
  segment.present = 1;
  segment.dpl = selector & 3;
  segment.s = 1;
  segment.g = 1;
  segment.l = code && long_code;
  segment.db = segment.l ? 0 : 1;
  return segment;
}

SegmentRegister tss_segment(Gpa base, std::uint32_t limit) {
  SegmentRegister segment;
  segment.base = base;
  segment.limit = limit;
  segment.selector = kSelectorTss;
  segment.type = kTypeBusyTss;
  segment.present = 1;
  return segment;
}

SegmentRegister unusable_segment() {
  SegmentRegister segment;
  segment.unusable = 1;
  return segment;
}

// The eight bytes a segment has in the GDT (Intel SDM 3, 3.4.5).
std::uint64_t descriptor(const SegmentRegister& segment) {
  const std::uint64_t limit = segment.g ? segment.limit >> 12 : segment.limit;
  return (limit & 0xffff) | (segment.base & 0xff'ffff) << 16 |
         static_cast<std::uint64_t>(segment.type) << 40 |
         static_cast<std::uint64_t>(segment.s) << 44 |
         static_cast<std::uint64_t>(segment.dpl) << 45 |
         static_cast<std::uint64_t>(segment.present) << 47 | (limit >> 16 & 0xf) << 48 |
         static_cast<std::uint64_t>(segment.l) << 53 |
         static_cast<std::uint64_t>(segment.db) << 54 |
         static_cast<std::uint64_t>(segment.g) << 55 | (segment.base >> 24 & 0xff) << 56;
}

void require(bool written) {
  if (!written) {
    throw Error("prepare processor state", ENOMEM, "the guest has less than 1 MiB of memory",
                "give it at least 1 MiB");
  }
}

void write_gdt_and_tss(GuestMemory& memory) {
  const SegmentRegister tss = tss_segment(kTssBase, kTssLimit);
  const std::array<std::uint64_t, 8> gdt{
      0,
      0,
      descriptor(flat_segment(kSelectorCode, kTypeCode, true)),
      descriptor(flat_segment(kSelectorData, kTypeData, true)),
      descriptor(flat_segment(kSelectorUserData, kTypeData, true)),
      descriptor(flat_segment(kSelectorUserCode, kTypeCode, true)),
      descriptor(tss),
      tss.base >> 32,  // upper half of the 16-byte TSS descriptor
  };
  require(memory.write(kGdtBase, std::as_bytes(std::span(gdt))));

  std::array<std::byte, kTssLimit + 1> bytes{};
  store_le<std::uint64_t>(bytes, 0x04, kBareStackTop);  // RSP0
  // Ring 3 may use every port. IOPL 3 says so too, but a software KVM that runs ring 3 on the
  // processor itself cannot give it away and loses it: there only the bitmap counts.
  store_le<std::uint16_t>(bytes, 0x66, kTssFixed);
  bytes[kTssLimit] = std::byte{0xff};
  require(memory.write(kTssBase, bytes));
}

void write_identity_map(GuestMemory& memory, bool user) {
  constexpr std::size_t kEntries = 512;
  constexpr std::size_t kDirectories = 4;
  const std::uint64_t flags = kPagePresent | kPageWritable | (user ? kPageUser : 0);
  std::vector<std::uint64_t> tables(kEntries * (2 + kDirectories));
  tables[0] = (kPageTables + kPageSize) | flags;
  for (std::size_t i = 0; i < kDirectories; ++i) {
    tables[kEntries + i] = (kPageTables + (2 + i) * kPageSize) | flags;
  }
  for (std::size_t i = 0; i < kDirectories * kEntries; ++i) {
    tables[2 * kEntries + i] = (static_cast<std::uint64_t>(i) << 21) | flags | kPageLarge;
  }
  require(memory.write(kPageTables, std::as_bytes(std::span(tables))));
}

}  // namespace

SpecialRegisters enter_long_mode(GuestMemory& memory, int ring) {
  require(memory.contains(0, kHighMemory));
  write_gdt_and_tss(memory);
  write_identity_map(memory, ring == 3);

  SpecialRegisters registers;
  const SegmentRegister data =
      flat_segment(ring == 3 ? kSelectorUserData : kSelectorData, kTypeData, true);
  registers.cs = flat_segment(ring == 3 ? kSelectorUserCode : kSelectorCode, kTypeCode, true);
  registers.ds = registers.es = registers.fs = registers.gs = registers.ss = data;
  registers.tr = tss_segment(kTssBase, kTssLimit);
  registers.ldt = unusable_segment();
  registers.gdt = {kGdtBase, 8 * 8 - 1};
  registers.cr0 = kCr0Pe | kCr0Mp | kCr0Et | kCr0Ne | kCr0Wp | kCr0Pg;
  registers.cr3 = kPageTables;
  registers.cr4 = kCr4Pae | kCr4Osfxsr | kCr4Osxmmexcpt;
  registers.efer = kEferLme | kEferLma | kEferSce;
  return registers;
}

SpecialRegisters protected_mode() {
  SpecialRegisters registers;
  registers.cs = flat_segment(kSelectorCode, kTypeCode, false);
  registers.ds = registers.es = registers.fs = registers.gs = registers.ss =
      flat_segment(kSelectorData, kTypeData, false);
  registers.tr = tss_segment(0, kTssFixed - 1);
  registers.ldt = unusable_segment();
  registers.cr0 = kCr0Pe | kCr0Et;
  return registers;
}

}  // namespace kvitest
