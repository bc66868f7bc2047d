#include "native/fuzz/hostile_driver.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace kvitest {
namespace {

// Where requests of run() are: behind the rings, which TestDriver puts at 64 KiB.
constexpr Gpa kRequests = 0x10'0000;
constexpr std::size_t kMaxSteps = 256;
constexpr std::size_t kMaxBuffers = 6;
// Steps from here on are of one queue alone.
constexpr std::uint8_t kResetsQueue = 250;
constexpr std::uint64_t kQueueReset = 58;  // of the common configuration

}  // namespace

VirtioDevice& with_all_features(VirtioDevice& device) {
  device.ask_for(kFeatureRingPacked | kFeatureNotificationData |
                 (device.in_order() ? kFeatureInOrder : 0) |
                 (device.resets_queues() ? kFeatureRingReset : 0));
  return device;
}

HostileDriver::HostileDriver(VirtioDevice& device) : board_(with_all_features(device)) {}

void HostileDriver::run(FuzzInput& input, const std::function<void(FuzzInput&)>& host) {
  start(input);
  for (std::size_t step = 0; step < kMaxSteps && !input.empty(); ++step) {
    const std::uint8_t what = input.u8();
    if (what >= kResetsQueue) {
      reset_queue(what);
      continue;
    }
    switch (what % 10) {
      case 0:
        start(input);
        break;
      case 1:
        access_bar(input);
        break;
      case 2:
        access_config(input);
        break;
      case 3:
        corrupt_ring(input);
        break;
      case 4:
        driver_.notify(input.u8());
        break;
      case 5:
        write_memory(input);
        break;
      case 6:
        driver_.reset();
        break;
      case 7:
        if (host) host(input);
        break;
      default:
        request(input);
    }
  }
}

// Negotiates what the device offers but for what the input leaves out. One whose BAR it has moved
// away or switched off is not there.
void HostileDriver::start(FuzzInput& input) {
  if (board_.mmio(18, 2) == 0xffff) return;
  const std::uint8_t how = input.u8();
  packed_ = (how & 4) != 0;
  const std::uint64_t left_out = ((how & 1) != 0 ? input.u64() : 0) |
                                 (packed_ ? 0 : kFeatureRingPacked) |
                                 ((how & 8) != 0 ? 0 : kFeatureInOrder);
  const std::uint64_t features = driver_.device_features() & ~left_out;
  packed_ = (features & kFeatureRingPacked) != 0;
  driver_.start(features, (how & 2) == 0);
  queues_ = static_cast<std::uint16_t>(board_.mmio(18, 2));
}

void HostileDriver::access_bar(FuzzInput& input) {
  static constexpr std::array<std::uint64_t, 6> kParts{
      TestBoard::kCommon, TestBoard::kIsr,       TestBoard::kDevice,
      TestBoard::kNotify, TestBoard::kMsixTable, TestBoard::kMsixPending};
  const std::uint8_t how = input.u8();
  const std::uint64_t offset = kParts[how % kParts.size()] + input.u8();
  const std::size_t width = std::size_t{1} << ((how >> 4) & 3);
  if ((how & 0x80) != 0) {
    board_.set_mmio(offset, width, input.number(width));
  } else {
    board_.mmio(offset, width);
  }
}

void HostileDriver::access_config(FuzzInput& input) {
  const std::uint8_t how = input.u8();
  const std::size_t width = std::size_t{1} << (how % 3);
  const std::uint8_t offset = input.u8() & ~static_cast<std::uint8_t>(width - 1);
  if ((how & 0x80) != 0) {
    board_.set_config(offset, width, static_cast<std::uint32_t>(input.number(width)));
  } else {
    board_.config(offset, width);
  }
}

// With its requests where they are; every other time it comes back at once, in another size.
void HostileDriver::reset_queue(std::uint8_t what) {
  if (queues_ == 0) return;
  const auto number = static_cast<std::uint16_t>(what / 2 % queues_);
  driver_.select(number);
  board_.set_mmio(kQueueReset, 2, 1);
  if (what % 2 == 0) return;
  const TestQueue& ring = driver_.queue(number);
  driver_.enable_queue(number, ring.size() / 2, ring.descriptors(), ring.available(), ring.used());
}

// Mostly RAM, its edges, or anything.
std::uint64_t HostileDriver::address(FuzzInput& input) {
  const std::uint8_t how = input.u8();
  if (how < 160) return kRequests + input.u16();
  if (how < 200) return TestBoard::kRam - (how & 15u);
  if (how < 240) return 0x1'0000 + input.u16();  // the rings themselves
  return input.u64();
}

void HostileDriver::corrupt_ring(FuzzInput& input) {
  if (queues_ == 0) return;
  TestQueue& ring = driver_.queue(input.u8() % queues_);
  switch (packed_ ? 0 : input.u8() % 5) {
    case 0: {
      const auto index = static_cast<std::uint16_t>(input.u16() % ring.size());
      const std::uint64_t at = address(input);
      const std::uint32_t length = input.u32();
      const std::uint16_t flags = input.u16();
      if (packed_) {
        // The ring itself: buffer ID, then flags.
        put_descriptor(board_.memory, ring.descriptors() + 16u * index, at, length, input.u16(),
                       flags);
      } else {
        ring.set_descriptor(index, at, length, flags & 7, input.u16());
      }
      break;
    }
    case 1:
      ring.set_available(input.u16());
      break;
    case 2:
      ring.set_available_index(input.u16());
      break;
    case 3:
      ring.set_available_flags(input.u16());
      break;
    default:
      ring.set_used_event(input.u16());
  }
}

// A chain of buffers, the readable ones filled from the input, and the doorbell.
void HostileDriver::request(FuzzInput& input) {
  if (queues_ == 0) return;
  const auto number = static_cast<std::uint16_t>(input.u8() % queues_);
  TestQueue& ring = driver_.queue(number);
  const std::uint8_t how = input.u8();
  const std::size_t readable = (how & 7) % kMaxBuffers;
  const std::size_t writable = ((how >> 3) & 7) % kMaxBuffers;
  if (readable + writable == 0 || readable + writable > ring.size()) return;
  const auto head = static_cast<std::uint16_t>(input.u8() % ring.size());
  Gpa at = kRequests;
  for (std::size_t i = 0; i < readable + writable; ++i) {
    const bool last = i + 1 == readable + writable;
    const auto index = static_cast<std::uint16_t>((head + i) % ring.size());
    const auto next = static_cast<std::uint16_t>((index + 1) % ring.size());
    std::uint16_t flags = last ? 0 : TestQueue::kNext;
    std::uint32_t length = 0;
    if (i < readable) {
      const auto bytes = input.bytes(input.u8());
      length = static_cast<std::uint32_t>(bytes.size());
      if (!board_.memory.write(at, bytes)) return;
    } else {
      flags |= TestQueue::kWrite;
      length = input.u16();
    }
    ring.set_descriptor(index, at, length, flags, next);
    at += length;
  }
  ring.set_available(head);
  if ((how & 0x80) == 0) driver_.notify(number);
}

void HostileDriver::write_memory(FuzzInput& input) {
  const std::uint64_t at = address(input);
  // Where it does not fit, a guest could not have written it either.
  static_cast<void>(board_.memory.write(at, input.bytes(input.u8())));
}

}  // namespace kvitest
