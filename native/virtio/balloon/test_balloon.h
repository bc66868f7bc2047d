// A virtio-balloon with a driver for tests.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "native/state/test_checkpoint.h"
#include "native/virtio/balloon/balloon.h"
#include "native/virtio/features.h"
#include "native/virtio/test_driver.h"

namespace kvitest {

// An array of numbers as a driver lays it out.
template <typename T>
std::string little_endian(std::initializer_list<T> numbers) {
  std::string text;
  for (const T number : numbers) {
    text.append(reinterpret_cast<const char*>(&number), sizeof number);
  }
  return text;
}

// Entries of a statistics buffer.
inline std::string statistics(std::initializer_list<std::pair<std::uint16_t, std::uint64_t>> all) {
  std::string text;
  for (const auto& [tag, value] : all) {
    text += little_endian<std::uint16_t>({tag}) + little_endian<std::uint64_t>({value});
  }
  return text;
}

struct TestBalloon {
  static constexpr std::uint16_t kInflate = 0, kDeflate = 1, kStatistics = 2, kHints = 3,
                                 kReporting = 4;
  static constexpr std::uint64_t kAll = TestDriver::kTransportFeatures | kBalloonStats |
                                        kBalloonDeflateOnOom | kBalloonFreePageHint |
                                        kBalloonReporting;
  // Behind what TestDriver allocates for a test.
  static constexpr std::uint64_t kFirstPage = 512;
  static constexpr std::uint64_t kEndOfRam = TestBoard::kRam / kPageSize;

  explicit TestBalloon(const std::vector<std::string>& withheld = {},
                       const std::vector<std::string>& asked_for = {}) {
    device->withhold(named_features(*device, withheld));
    device->ask_for(optional_features(*device, asked_for));
    board = std::make_unique<TestBoard>(*device);
    driver = std::make_unique<TestDriver>(*board);
  }

  std::uint32_t config(std::uint64_t offset) {
    return static_cast<std::uint32_t>(board->mmio(TestBoard::kDevice + offset, 4));
  }
  void set_config(std::uint64_t offset, std::uint32_t value) {
    board->set_mmio(TestBoard::kDevice + offset, 4, value);
  }
  void mark(std::uint64_t page) {
    if (!board->memory.store(page * kPageSize, page + 1)) throw std::logic_error("no such page");
  }
  bool is_marked(std::uint64_t page) {
    return board->memory.load<std::uint64_t>(page * kPageSize) == page + 1;
  }
  bool is_zero(std::uint64_t page) {
    return board->memory.load<std::uint64_t>(page * kPageSize) == 0;
  }
  // A request whose buffers are the guest's pages themselves; the driver's own buffers are others.
  void offer_pages(std::uint16_t queue, std::uint64_t first, std::uint64_t count) {
    TestQueue& ring = driver->queue(queue);
    ring.set_descriptor(0, first * kPageSize, static_cast<std::uint32_t>(count * kPageSize),
                        TestQueue::kWrite, 0);
    ring.set_available(0);
    driver->notify(queue);
  }

  std::unique_ptr<Balloon> device = make_balloon({.name = "balloon0"});
  std::unique_ptr<TestBoard> board;
  std::unique_ptr<TestDriver> driver;
};

}  // namespace kvitest
