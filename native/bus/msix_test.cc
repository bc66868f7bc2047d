#include "native/bus/msix.h"

#include <doctest/doctest.h>

#include <array>

#include "native/bus/test_irqfds.h"
#include "native/error.h"
#include "native/little_endian.h"
#include "native/state/test_checkpoint.h"

namespace kvitest {
namespace {

constexpr std::uint16_t kEnable = 0x8000;
constexpr std::uint16_t kFunctionMask = 0x4000;

class Messages : public InterruptController {
 public:
  void set_irq_line(std::uint32_t, bool) override {}
  void signal_msi(const MsiMessage& message) override { sent.push_back(message); }
  std::vector<MsiMessage> sent;
};

void write(Msix& msix, std::uint64_t offset, std::size_t width, std::uint64_t value) {
  std::array<std::byte, 8> data{};
  write_le(data, value);
  msix.table_write(offset, std::span(data).first(width));
}

std::uint64_t read(const Msix& msix, std::uint64_t offset, std::size_t width) {
  std::array<std::byte, 8> data{};
  msix.table_read(offset, std::span(data).first(width));
  return read_le(std::span(data).first(width));
}

std::uint64_t pending(const Msix& msix) {
  std::array<std::byte, 8> data{};
  msix.pending_read(0, data);
  return read_le(data);
}

void fill(Msix& msix, std::uint16_t vector, bool masked) {
  write(msix, 16u * vector, 8, 0x1'fee0'1000);
  write(msix, 16u * vector + 8, 8, (std::uint64_t{masked} << 32) | (0x40u + vector));
}

TEST_CASE("msix: a vector count outside 1..2048 is refused") {
  Messages messages;
  CHECK_THROWS_AS(Msix(0, messages), Error);
  CHECK_THROWS_AS(Msix(2049, messages), Error);
}

TEST_CASE("msix: vectors are masked at reset") {
  Messages messages;
  Msix msix(2, messages);
  CHECK(read(msix, 12, 4) == 1);
  CHECK(read(msix, 28, 4) == 1);
}

TEST_CASE("msix: the control word keeps only enable and function mask") {
  Messages messages;
  Msix msix(3, messages);
  msix.set_control(0xffff);
  CHECK(msix.control() == (kEnable | kFunctionMask | 2));
}

TEST_CASE("msix: an unmasked vector sends its entry's message") {
  Messages messages;
  Msix msix(2, messages);
  fill(msix, 1, false);
  msix.set_control(kEnable);
  msix.raise(1);
  REQUIRE(messages.sent.size() == 1);
  CHECK(messages.sent[0].address == 0x1'fee0'1000);
  CHECK(messages.sent[0].data == 0x41);
  CHECK(pending(msix) == 0);
}

TEST_CASE("msix: a masked vector is pending and sent once when unmasked") {
  Messages messages;
  Msix msix(2, messages);
  fill(msix, 1, true);
  msix.set_control(kEnable);
  msix.raise(1);
  msix.raise(1);
  CHECK(messages.sent.empty());
  CHECK(pending(msix) == 0b10);
  write(msix, 16 + 12, 4, 0);
  CHECK(messages.sent.size() == 1);
  CHECK(pending(msix) == 0);
}

TEST_CASE("msix: the function mask holds back every vector until it is cleared") {
  Messages messages;
  Msix msix(2, messages);
  fill(msix, 0, false);
  fill(msix, 1, false);
  msix.set_control(kEnable | kFunctionMask);
  msix.raise(0);
  msix.raise(1);
  CHECK(messages.sent.empty());
  CHECK(pending(msix) == 0b11);
  msix.set_control(kEnable);
  CHECK(messages.sent.size() == 2);
}

TEST_CASE("msix: an entry may be moved while pending and goes to its new place") {
  Messages messages;
  Msix msix(1, messages);
  fill(msix, 0, true);
  msix.set_control(kEnable);
  msix.raise(0);
  write(msix, 8, 4, 0x99);
  write(msix, 12, 4, 0);
  REQUIRE(messages.sent.size() == 1);
  CHECK(messages.sent[0].data == 0x99);
}

TEST_CASE("msix: while disabled nothing is sent and nothing becomes pending") {
  Messages messages;
  Msix msix(1, messages);
  fill(msix, 0, false);
  msix.raise(0);
  msix.set_control(kEnable);
  CHECK(messages.sent.empty());
}

TEST_CASE("msix: what is pending when MSI-X is disabled is forgotten") {
  Messages messages;
  Msix msix(1, messages);
  fill(msix, 0, true);
  msix.set_control(kEnable);
  msix.raise(0);
  msix.set_control(0);
  msix.set_control(kEnable);
  write(msix, 12, 4, 0);
  CHECK(messages.sent.empty());
}

TEST_CASE("msix: vectors and table entries out of range do nothing") {
  Messages messages;
  Msix msix(2, messages);
  msix.set_control(kEnable);
  msix.raise(2);
  msix.raise(0xffff);
  write(msix, 32, 4, 0xffff'ffff);
  write(msix, 0xffff'fff0, 8, ~0ull);
  CHECK(read(msix, 32, 8) == 0);
  CHECK(read(msix, 0xffff'fff0, 8) == 0);
  CHECK(messages.sent.empty());
}

TEST_CASE("msix: only aligned four- and eight-byte accesses exist") {
  Messages messages;
  Msix msix(1, messages);
  fill(msix, 0, true);
  write(msix, 8, 2, 0xffff);
  write(msix, 8, 1, 0xff);
  write(msix, 9, 4, 0xffff'ffff);
  write(msix, 4, 8, ~0ull);
  CHECK(read(msix, 8, 4) == 0x40);
  CHECK(read(msix, 0, 8) == 0x1'fee0'1000);
  CHECK(read(msix, 8, 2) == 0);
  CHECK(read(msix, 4, 8) == 0);
}

TEST_CASE("msix checkpoint: what waits behind a mask is sent once it is lifted, and only then") {
  Messages before;
  Msix msix(3, before);
  msix.set_control(kEnable);
  fill(msix, 0, false);
  fill(msix, 1, true);
  msix.raise(1);

  Messages after;
  Msix fork(3, after);
  load(fork, saved(msix));

  CHECK(after.sent.empty());
  CHECK(fork.control() == msix.control());
  CHECK(read(fork, 16, 8) == 0x1'fee0'1000);
  CHECK(pending(fork) == 0b10);
  write(fork, 16 + 12, 4, 0);
  REQUIRE(after.sent.size() == 1);
  CHECK(after.sent[0].data == 0x41);
  CHECK(pending(fork) == 0);
  CHECK(before.sent.empty());
}

TEST_CASE("msix checkpoint: the function mask holds back in the fork too") {
  Messages before;
  Msix msix(1, before);
  fill(msix, 0, false);
  msix.set_control(kEnable | kFunctionMask);
  msix.raise(0);

  Messages after;
  Msix fork(1, after);
  load(fork, saved(msix));

  CHECK(after.sent.empty());
  fork.set_control(kEnable);
  CHECK(after.sent.size() == 1);
}

TEST_CASE("msix: an irqfd is the controller's as long as its vector may be sent") {
  using There = TestIrqfds::There;
  TestIrqfds controller;
  Msix msix(2, controller);
  fill(msix, 0, false);
  fill(msix, 1, true);
  msix.add_irqfd(0, 7);
  msix.add_irqfd(1, 8);
  msix.add_irqfd(2, 9);  // no such vector
  CHECK(controller.there.empty());
  msix.set_control(kEnable);
  CHECK(controller.there == There{{7, 0x40}});
  fill(msix, 1, false);
  CHECK(controller.there == There{{7, 0x40}, {8, 0x41}});
  write(msix, 8, 4, 0x99);
  CHECK(controller.there == There{{7, 0x99}, {8, 0x41}});
  fill(msix, 0, true);
  CHECK(controller.there == There{{8, 0x41}});
  msix.set_control(kEnable | kFunctionMask);
  CHECK(controller.there.empty());
  msix.set_control(kEnable);
  CHECK(controller.there == There{{8, 0x41}});
  msix.remove_irqfd(8);
  msix.remove_irqfd(8);
  CHECK(controller.there.empty());
  fill(msix, 0, false);
  CHECK(controller.there == There{{7, 0x40}});
  msix.set_control(0);
  CHECK(controller.there.empty());
}

TEST_CASE("msix: an irqfd that cannot have its new message has none") {
  TestIrqfds controller;
  Msix msix(1, controller);
  fill(msix, 0, false);
  msix.set_control(kEnable);
  msix.add_irqfd(0, 7);
  REQUIRE(controller.there.size() == 1);
  controller.refuses = true;
  write(msix, 8, 4, 0x99);
  CHECK(controller.there.empty());
  controller.refuses = false;
  write(msix, 8, 4, 0x98);
  CHECK(controller.there == TestIrqfds::There{{7, 0x98}});
}

TEST_CASE(
    "msix checkpoint: another version, another table size and impossible vectors are refused") {
  Messages messages;
  Msix msix(2, messages);
  Msix larger(3, messages);
  std::vector<std::byte> bytes = saved(msix);

  CHECK(refusal(msix, with_version(bytes, "msix", 2)).find("section msix: it has version 2") !=
        std::string::npos);
  CHECK(refusal(larger, bytes).find("2 vectors, this function has 3") != std::string::npos);
  bytes[8 + 4 + 4 + 8 + 8] = std::byte{1};  // bit 0 of the first vector's address
  CHECK(refusal(msix, bytes).find("a vector that cannot be") != std::string::npos);
}

}  // namespace
}  // namespace kvitest
