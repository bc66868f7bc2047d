#include "native/bus/pci.h"

#include <doctest/doctest.h>

#include <array>
#include <vector>

#include "native/bus/little_endian.h"
#include "native/bus/pci_config.h"
#include "native/error.h"
#include "native/state/test_checkpoint.h"

namespace kvitest {
namespace {

class PlainFunction : public PciFunction {
 public:
  void config_read(std::uint8_t offset, std::span<std::byte> data) override {
    config.read(offset, data);
  }
  void config_write(std::uint8_t offset, std::span<const std::byte> data) override {
    config.write(offset, data);
  }
  void save(StateWriter& writer) const override { config.save(writer); }
  void load(StateReader& reader) override { config.load(reader); }
  PciConfigSpace config{PciIdentity{.vendor = 0x1af4,
                                    .device = 0x1044,
                                    .revision = 1,
                                    .class_code = 0xff'0000,
                                    .subsystem_vendor = 0x1af4,
                                    .subsystem = 0x1044,
                                    .interrupt_pin = 1,
                                    .interrupt_line = 9}};
};

void out(IoBus& bus, std::uint16_t port, std::size_t width, std::uint32_t value) {
  std::array<std::byte, 4> data{};
  write_le(data, value);
  bus.write(port, std::span(data).first(width));
}

std::uint32_t in(IoBus& bus, std::uint16_t port, std::size_t width) {
  std::array<std::byte, 4> data{};
  bus.read(port, std::span(data).first(width));
  return static_cast<std::uint32_t>(read_le(std::span(data).first(width)));
}

std::uint32_t load(const PciConfigSpace& config, std::uint8_t offset, std::size_t width) {
  std::array<std::byte, 4> data{};
  config.read(offset, std::span(data).first(width));
  return static_cast<std::uint32_t>(read_le(std::span(data).first(width)));
}

void store(PciConfigSpace& config, std::uint8_t offset, std::size_t width, std::uint32_t value) {
  std::array<std::byte, 4> data{};
  write_le(data, value);
  config.write(offset, std::span(data).first(width));
}

TEST_CASE("pci: slot 0 is a host bridge") {
  IoBus bus;
  PciBus pci(bus);
  out(bus, 0xcf8, 4, 0x8000'0008);
  CHECK(in(bus, 0xcfe, 2) == 0x0600);
  out(bus, 0xcf8, 4, 0x8000'0000);
  CHECK(in(bus, 0xcfc, 4) == 0x0008'1b36);
}

TEST_CASE("pci: the address register keeps its writable bits, and only dwords reach it") {
  IoBus bus;
  PciBus pci(bus);
  out(bus, 0xcf8, 4, 0xffff'ffff);
  CHECK(in(bus, 0xcf8, 4) == 0x80ff'fffc);
  out(bus, 0xcf8, 2, 0);
  out(bus, 0xcfa, 1, 0);
  CHECK(in(bus, 0xcf8, 4) == 0x80ff'fffc);
  CHECK(in(bus, 0xcf8, 2) == 0xffff);
}

TEST_CASE(
    "pci: an absent function, another bus, another function or a cleared enable read all ones") {
  IoBus bus;
  PciBus pci(bus);
  for (const std::uint32_t address : {0x8000'1000u, 0x8001'0000u, 0x8000'0100u, 0x0000'0000u}) {
    out(bus, 0xcf8, 4, address);
    CHECK(in(bus, 0xcfc, 4) == 0xffff'ffff);
  }
}

TEST_CASE("pci: bytes and words reach the byte within the register that the port names") {
  IoBus bus;
  PciBus pci(bus);
  PlainFunction function;
  pci.attach(3, function);
  out(bus, 0xcf8, 4, 0x8000'1800);
  CHECK(in(bus, 0xcfc, 4) == 0x1044'1af4);
  CHECK(in(bus, 0xcfe, 2) == 0x1044);
  CHECK(in(bus, 0xcfd, 1) == 0x1a);
  out(bus, 0xcf8, 4, 0x8000'183c);
  out(bus, 0xcfc, 1, 0x0b);
  CHECK(in(bus, 0xcfc, 2) == 0x010b);
}

TEST_CASE("pci: an access across the end of a register is refused") {
  IoBus bus;
  PciBus pci(bus);
  out(bus, 0xcf8, 4, 0x8000'0000);
  CHECK(in(bus, 0xcfe, 4) == 0);  // not covered by the bus: the buffer stays as it was
  CHECK(in(bus, 0xcfb, 2) == 0xffff);
}

TEST_CASE("pci: slots that are taken, 0 or beyond 31 are refused") {
  IoBus bus;
  PciBus pci(bus);
  PlainFunction function;
  pci.attach(1, function);
  CHECK_THROWS_AS(pci.attach(1, function), Error);
  CHECK_THROWS_AS(pci.attach(0, function), Error);
  CHECK_THROWS_AS(pci.attach(32, function), Error);
}

TEST_CASE("pci config: identity is read-only, the interrupt line is not") {
  PlainFunction function;
  store(function.config, 0x00, 4, 0);
  store(function.config, 0x08, 4, 0);
  store(function.config, 0x2c, 4, 0);
  store(function.config, 0x3c, 2, 0x0504);
  CHECK(load(function.config, 0x00, 4) == 0x1044'1af4);
  CHECK(load(function.config, 0x08, 4) == 0xff00'0001);
  CHECK(load(function.config, 0x2c, 4) == 0x1044'1af4);
  CHECK(load(function.config, 0x3c, 2) == 0x0104);
}

TEST_CASE("pci config: a BAR answers its size when all ones are written, in halves") {
  PlainFunction function;
  function.config.add_memory_bar64(0, 0x8'0000, 0xc000'0000);
  CHECK(load(function.config, 0x10, 4) == 0xc000'0004);
  store(function.config, 0x10, 4, 0xffff'ffff);
  store(function.config, 0x14, 4, 0xffff'ffff);
  CHECK(load(function.config, 0x10, 4) == 0xfff8'0004);
  CHECK(load(function.config, 0x14, 4) == 0xffff'ffff);
  store(function.config, 0x14, 4, 0x1);
  store(function.config, 0x10, 4, 0x0008'0000);
  CHECK(function.config.memory_bar64(0) == 0x1'0008'0000);
}

TEST_CASE("pci config: registers of BARs that do not exist read 0") {
  PlainFunction function;
  store(function.config, 0x18, 4, 0xffff'ffff);
  store(function.config, 0x30, 4, 0xffff'ffff);
  CHECK(load(function.config, 0x18, 4) == 0);
  CHECK(load(function.config, 0x30, 4) == 0);
}

TEST_CASE("pci config: capabilities are linked in order and keep their read-only bits") {
  PlainFunction function;
  const std::array<std::byte, 4> body{std::byte{0x11}, std::byte{0x22}, std::byte{0x33}};
  const std::array<std::byte, 4> mask{std::byte{0}, std::byte{0xff}, std::byte{0x0f}};
  const std::uint8_t first = function.config.add_capability(0x09, body, mask);
  const std::uint8_t second = function.config.add_capability(0x11, body, mask);
  store(function.config, first + 2, 4, 0xffff'ffff);
  CHECK((load(function.config, 0x06, 2) & 0x10) != 0);
  CHECK(load(function.config, 0x34, 1) == first);
  CHECK(load(function.config, first, 2) == (0x09u | (std::uint32_t{second} << 8)));
  CHECK(load(function.config, second, 2) == 0x11);
  CHECK(load(function.config, first + 2, 4) == 0x003f'ff11);
}

TEST_CASE("pci config: a capability that does not fit is refused") {
  PlainFunction function;
  const std::vector<std::byte> body(192);
  CHECK_THROWS_AS(function.config.add_capability(0x09, body, body), Error);
}

TEST_CASE("pci config: a BAR that is no power of two or misplaced is refused") {
  PlainFunction function;
  CHECK_THROWS_AS(function.config.add_memory_bar64(0, 0x3000, 0), Error);
  CHECK_THROWS_AS(function.config.add_memory_bar64(0, 0x1000, 0x800), Error);
  CHECK_THROWS_AS(function.config.add_memory_bar64(5, 0x1000, 0), Error);
}

TEST_CASE("pci config checkpoint: what software wrote is back") {
  PlainFunction function;
  function.config.add_memory_bar64(0, 0x8'0000, 0x10'0000);
  store(function.config, 0x10, 4, 0x0020'0000);
  store(function.config, 0x04, 2, 0xffff);
  store(function.config, 0x3c, 1, 11);

  PlainFunction fork;
  fork.config.add_memory_bar64(0, 0x8'0000, 0x10'0000);
  load(fork, saved(function));

  CHECK(fork.config.memory_bar64(0) == 0x20'0000);
  CHECK(fork.config.command() == function.config.command());
  CHECK(load(fork.config, 0x3c, 1) == 11);
}

TEST_CASE("pci config checkpoint: another identity, BAR size or version is refused") {
  PlainFunction function;
  function.config.add_memory_bar64(0, 0x8'0000, 0x10'0000);
  const std::vector<std::byte> bytes = saved(function);

  PlainFunction smaller;
  smaller.config.add_memory_bar64(0, 0x4'0000, 0x10'0000);
  PlainFunction without;
  store(function.config, 0x10, 4, 0xffff'ffff);
  CHECK(refusal(smaller, saved(function)) == "");
  store(smaller.config, 0x10, 4, 0xffff'ffff);
  CHECK(refusal(function, saved(smaller)).find("another function") != std::string::npos);
  CHECK(refusal(without, bytes).find("another function") != std::string::npos);
  CHECK(refusal(function, with_version(bytes, "pci-config", 2)).find("version 2") !=
        std::string::npos);
}

TEST_CASE(
    "pci config checkpoint: a pending interrupt in the status register is no other identity") {
  PlainFunction function;
  function.config.set_interrupt_status(true);
  PlainFunction fork;
  CHECK(refusal(fork, saved(function)) == "");
}

TEST_CASE("pci checkpoint: the address register and every function come back") {
  IoBus bus;
  PciBus pci(bus);
  PlainFunction function;
  pci.attach(3, function);
  out(bus, 0xcf8, 4, 0x8000'183c);
  out(bus, 0xcfc, 1, 7);
  const std::vector<std::byte> bytes = saved(pci);

  IoBus fork_bus;
  PciBus fork(fork_bus);
  PlainFunction fork_function;
  fork.attach(3, fork_function);
  load(fork, bytes);

  CHECK(in(fork_bus, 0xcf8, 4) == 0x8000'183c);
  CHECK(in(fork_bus, 0xcfc, 1) == 7);
}

TEST_CASE("pci checkpoint: functions in other slots are refused") {
  IoBus bus;
  PciBus pci(bus);
  PlainFunction function;
  pci.attach(3, function);
  IoBus fork_bus;
  PciBus fork(fork_bus);
  PlainFunction fork_function;
  fork.attach(4, fork_function);

  CHECK(refusal(fork, saved(pci)).find("other slots") != std::string::npos);
  CHECK(refusal(pci, with_version(saved(pci), "pci-bus", 9)).find("version 9") !=
        std::string::npos);
}

}  // namespace
}  // namespace kvitest
