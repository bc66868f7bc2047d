#include "native/bus/io_bus.h"

#include <doctest/doctest.h>

#include <array>

#include "native/error.h"
#include "native/little_endian.h"

namespace kvitest {
namespace {

class Recorder : public IoDevice {
 public:
  void io_read(std::uint64_t offset, std::span<std::byte> data) override {
    write_le(data, 0x40 + offset);
  }
  void io_write(std::uint64_t offset, std::span<const std::byte> data) override {
    last_offset = offset;
    last_value = read_le(data);
  }
  std::uint64_t last_offset = ~0ull;
  std::uint64_t last_value = 0;
};

TEST_CASE("io bus: an access reaches the device that covers it, relative to its base") {
  IoBus bus;
  Recorder low;
  Recorder high;
  bus.insert(0x100, 0x10, low);
  bus.insert(0x110, 0x10, high);
  std::array<std::byte, 2> data{};
  const bool read = bus.read(0x11e, data);
  const bool written = bus.write(0x104, data);
  CHECK(read);
  CHECK(read_le(data) == 0x4e);
  CHECK(written);
  CHECK(low.last_offset == 4);
  CHECK(low.last_value == 0x4e);
  CHECK(high.last_offset == ~0ull);
}

TEST_CASE("io bus: an access that straddles a device's end is not covered") {
  IoBus bus;
  Recorder low;
  Recorder high;
  bus.insert(0x100, 0x10, low);
  bus.insert(0x110, 0x10, high);
  std::array<std::byte, 4> data{};
  CHECK_FALSE(bus.read(0x10e, data));
  CHECK_FALSE(bus.write(0x11d, data));
  CHECK_FALSE(bus.write(0xfe, data));
  CHECK(low.last_offset == ~0ull);
  CHECK(high.last_offset == ~0ull);
}

TEST_CASE("io bus: the top of the address space is a place like any other") {
  IoBus bus;
  Recorder top;
  bus.insert(0xffff'ffff'ffff'fff0, 0x10, top);
  std::array<std::byte, 8> data{};
  CHECK(bus.write(0xffff'ffff'ffff'fff8, data));
  CHECK_FALSE(bus.write(0xffff'ffff'ffff'fffc, data));
  CHECK_FALSE(bus.try_insert(0xffff'ffff'ffff'ffff, 1, top));
}

TEST_CASE("io bus: overlapping, empty and wrapping ranges are refused") {
  IoBus bus;
  Recorder device;
  bus.insert(0x100, 0x10, device);
  CHECK_THROWS_AS(bus.insert(0x10f, 1, device), Error);
  CHECK_THROWS_AS(bus.insert(0xf0, 0x11, device), Error);
  CHECK_THROWS_AS(bus.insert(0xf0, 0x40, device), Error);
  CHECK_THROWS_AS(bus.insert(0x200, 0, device), Error);
  CHECK_THROWS_AS(bus.insert(0xffff'ffff'ffff'fff0, 0x11, device), Error);
  CHECK_FALSE(bus.try_insert(0x104, 4, device));
  CHECK(bus.try_insert(0xf0, 0x10, device));
}

TEST_CASE("io bus: a removed range no longer answers and may be taken again") {
  IoBus bus;
  Recorder first;
  Recorder second;
  std::array<std::byte, 1> data{};
  bus.insert(0x100, 0x10, first);
  bus.remove(0x100);
  CHECK_FALSE(bus.read(0x100, data));
  bus.insert(0x108, 0x10, second);
  bus.write(0x108, data);
  CHECK(second.last_offset == 0);
}

// Moves itself, as a BAR does when the write that moves it comes through the BAR.
class Mover : public IoDevice {
 public:
  explicit Mover(IoBus& bus) : bus_(bus) {}
  void io_read(std::uint64_t, std::span<std::byte>) override {}
  void io_write(std::uint64_t, std::span<const std::byte>) override {
    bus_.remove(0x100);
    bus_.insert(0x200, 0x10, *this);
  }

 private:
  IoBus& bus_;
};

TEST_CASE("io bus: a device may move its own range while it works") {
  IoBus bus;
  Mover device(bus);
  bus.insert(0x100, 0x10, device);
  std::array<std::byte, 1> data{};
  bus.write(0x100, data);
  CHECK_FALSE(bus.read(0x100, data));
  CHECK(bus.read(0x200, data));
}

}  // namespace
}  // namespace kvitest
