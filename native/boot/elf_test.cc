#include "native/boot/elf.h"

#include <doctest/doctest.h>

#include "native/boot/test_payload.h"

namespace kvitest {
namespace {

constexpr std::uint64_t kMiB = 1 << 20;
// Where the first program header's fields are in the file.
constexpr std::size_t kFirstHeader = kElfHeaderSize;
constexpr std::size_t kOffsetField = kFirstHeader + 8;
constexpr std::size_t kFileSizeField = kFirstHeader + 32;

ElfImage parse(const FileBytes& bytes) {
  const TemporaryFile file(bytes);
  return parse_elf(PayloadFile("load kernel", file.path()));
}

std::string parse_error(const FileBytes& bytes) {
  return error_of([&bytes] { parse(bytes); });
}

bool mentions(const std::string& message, const std::string& part) {
  return message.starts_with("load kernel: /tmp/") && message.find(part) != std::string::npos;
}

FileBytes simple_elf() {
  return make_elf(0x10'0000, {TestSegment{}});
}

TEST_CASE("elf: segments come sorted by address") {
  TestSegment high;
  high.physical = 0x20'0000;
  high.memory_size = 0x1000;

  const ElfImage image = parse(make_elf(0x10'0004, {high, TestSegment{}}));

  REQUIRE(image.load.size() == 2);
  CHECK(image.load[0].physical == 0x10'0000);
  CHECK(image.load[1].physical == 0x20'0000);
  CHECK(image.end == 0x20'1000);
  CHECK(image.entry == 0x10'0004);
  CHECK_FALSE(image.pvh_entry.has_value());
}

TEST_CASE("elf: the PVH entry is read from a note of 4 or 8 bytes") {
  CHECK(parse(make_elf(0, {TestSegment{}, pvh_note(0x10'0008, 8)})).pvh_entry == 0x10'0008);
  CHECK(parse(make_elf(0, {TestSegment{}, pvh_note(0x10'0008, 4)})).pvh_entry == 0x10'0008);
}

TEST_CASE("elf: a PVH entry above 4 GiB or of another width is none") {
  CHECK_FALSE(parse(make_elf(0, {TestSegment{}, pvh_note(1ull << 32, 8)})).pvh_entry.has_value());
  CHECK_FALSE(parse(make_elf(0, {TestSegment{}, pvh_note(7, 2)})).pvh_entry.has_value());
}

TEST_CASE("elf: a note whose sizes run out of the segment ends the search") {
  TestSegment note = pvh_note(0x10'0008);
  store_le<std::uint32_t>(note.content, 0, 0xffff'fff0);
  CHECK_FALSE(parse(make_elf(0, {TestSegment{}, note})).pvh_entry.has_value());

  store_le<std::uint32_t>(note.content, 0, 4);
  store_le<std::uint32_t>(note.content, 4, 0xffff'ffff);
  CHECK_FALSE(parse(make_elf(0, {TestSegment{}, note})).pvh_entry.has_value());
}

TEST_CASE("elf: notes of other owners in front are passed over") {
  TestSegment note = pvh_note(0x10'0008);
  FileBytes other(20);
  store_le<std::uint32_t>(other, 0, 4);
  store_le<std::uint32_t>(other, 4, 1);
  store_le<std::uint32_t>(other, 8, 18);
  note.content.insert(note.content.begin(), other.begin(), other.end());

  CHECK(parse(make_elf(0, {TestSegment{}, note})).pvh_entry == 0x10'0008);
}

TEST_CASE("elf: other classes, machines and types are refused") {
  FileBytes class32 = simple_elf();
  store_le<std::uint8_t>(class32, 4, 1);
  FileBytes arm = simple_elf();
  store_le<std::uint16_t>(arm, 18, 183);
  FileBytes relocatable = simple_elf();
  store_le<std::uint16_t>(relocatable, 16, 1);

  CHECK(mentions(parse_error(class32), "not for x86-64"));
  CHECK(mentions(parse_error(arm), "not for x86-64"));
  CHECK(mentions(parse_error(relocatable), "not an executable with fixed addresses"));
}

TEST_CASE("elf: a dynamically linked program is refused") {
  TestSegment interpreter;
  interpreter.type = 3;

  CHECK(mentions(parse_error(make_elf(0, {TestSegment{}, interpreter})), "dynamically linked"));
}

TEST_CASE("elf: a file that ends inside a segment is truncated") {
  FileBytes bytes = simple_elf();
  bytes.pop_back();

  CHECK(mentions(parse_error(bytes), "truncated"));
}

TEST_CASE("elf: a file that ends inside its headers is truncated") {
  const FileBytes whole = simple_elf();

  CHECK(mentions(parse_error(FileBytes(whole.begin(), whole.begin() + 20)), "truncated"));
  CHECK(mentions(parse_error(FileBytes(whole.begin(), whole.begin() + 80)), "truncated"));
}

TEST_CASE("elf: offsets and sizes that wrap around are refused") {
  FileBytes offset = simple_elf();
  store_le<std::uint64_t>(offset, kOffsetField, ~std::uint64_t{0});
  FileBytes size = simple_elf();
  store_le<std::uint64_t>(size, kFileSizeField, ~std::uint64_t{0});
  TestSegment wrapping;
  wrapping.physical = ~std::uint64_t{0} - 7;
  FileBytes table = simple_elf();
  store_le<std::uint64_t>(table, 32, ~std::uint64_t{0} - 3);

  CHECK(mentions(parse_error(offset), "truncated"));
  CHECK(mentions(parse_error(size), "truncated"));
  CHECK(mentions(parse_error(make_elf(0, {wrapping})), "wraps around"));
  CHECK(mentions(parse_error(table), "truncated"));
}

TEST_CASE("elf: a segment larger in the file than in memory is refused") {
  TestSegment segment;
  segment.memory_size = 15;

  CHECK(mentions(parse_error(make_elf(0, {segment})), "larger in the file than in memory"));
}

TEST_CASE("elf: segments below 1 MiB and overlapping segments are refused") {
  TestSegment low;
  low.physical = 0xf'fff0;
  TestSegment second;
  second.physical = 0x10'000f;

  CHECK(mentions(parse_error(make_elf(0, {low})), "below 1 MiB"));
  CHECK(mentions(parse_error(make_elf(0, {TestSegment{}, second})), "overlap"));
}

TEST_CASE("elf: no, odd-sized or very many program headers are refused") {
  FileBytes none = simple_elf();
  store_le<std::uint16_t>(none, 56, 0);
  FileBytes many = simple_elf();
  store_le<std::uint16_t>(many, 56, 0xffff);
  FileBytes odd = simple_elf();
  store_le<std::uint16_t>(odd, 54, 32);

  CHECK(mentions(parse_error(none), "no usable program headers"));
  CHECK(mentions(parse_error(many), "no usable program headers"));
  CHECK(mentions(parse_error(odd), "no usable program headers"));
}

TEST_CASE("elf: a file with nothing to load is refused") {
  CHECK(mentions(parse_error(make_elf(0, {pvh_note(0x10'0000)})), "nothing to load"));
}

TEST_CASE("elf: every single damaged header byte is either refused or parsed within bounds") {
  const FileBytes good = make_elf(0x10'0000, {TestSegment{}, pvh_note(0x10'0000)});
  for (std::size_t at = 0; at < good.size(); ++at) {
    for (const unsigned value : {0x00u, 0x01u, 0x7fu, 0x80u, 0xffu}) {
      FileBytes bytes = good;
      bytes[at] = static_cast<std::byte>(value);
      const TemporaryFile file(bytes);
      GuestMemory memory(2 * kMiB);

      // Anything but Error ends the test, and the sanitizers see the rest.
      const std::string message = error_of([&] {
        const PayloadFile payload("load kernel", file.path());
        load_elf(payload, parse_elf(payload), memory);
      });

      CHECK((message.empty() || message.starts_with("load kernel: /tmp/")));
    }
  }
}

TEST_CASE("elf: loading copies the file's part and zeroes the rest") {
  TestSegment segment;
  segment.memory_size = 32;
  const TemporaryFile file(make_elf(0, {segment}));
  const PayloadFile payload("load kernel", file.path());
  GuestMemory memory(2 * kMiB);
  REQUIRE(memory.fill(kMiB, std::byte{0xff}, 64));

  load_elf(payload, parse_elf(payload), memory);

  CHECK(memory.load<std::uint8_t>(kMiB + 15) == 0xcc);
  CHECK(memory.load<std::uint8_t>(kMiB + 16) == 0);
  CHECK(memory.load<std::uint8_t>(kMiB + 31) == 0);
  CHECK(memory.load<std::uint8_t>(kMiB + 32) == 0xff);
}

TEST_CASE("elf: a segment outside the guest's memory is refused") {
  TestSegment segment;
  segment.memory_size = 2 * kMiB;
  const TemporaryFile file(make_elf(0, {segment}));
  const PayloadFile payload("load kernel", file.path());
  GuestMemory memory(2 * kMiB);

  const std::string message = error_of([&] { load_elf(payload, parse_elf(payload), memory); });

  CHECK(mentions(message, "needs 3 MiB of memory, the guest has 2 MiB"));
}

TEST_CASE("elf: an address belongs to the image when a segment covers it") {
  const ElfImage image = parse(simple_elf());

  CHECK(elf_contains(image, 0x10'0000));
  CHECK(elf_contains(image, 0x10'000f));
  CHECK_FALSE(elf_contains(image, 0x10'0010));
  CHECK_FALSE(elf_contains(image, 0));
}

}  // namespace
}  // namespace kvitest
