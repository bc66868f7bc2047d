// A virtio-blk device with a driver for tests.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "native/little_endian.h"
#include "native/virtio/blk/blk.h"
#include "native/virtio/blk/request.h"
#include "native/virtio/test_driver.h"

namespace kvitest {

using Bytes = std::vector<std::byte>;

inline Bytes pattern(std::size_t length, unsigned seed) {
  Bytes bytes(length);
  for (std::size_t i = 0; i < length; ++i) {
    bytes[i] = static_cast<std::byte>((i * 2654435761u + seed * 97 + (i >> 9)) >> 3);
  }
  return bytes;
}

inline BlkSpec memory_disk(std::uint64_t bytes) {
  BlkSpec spec;
  spec.name = "disk0";
  spec.backing = MemoryBacking{bytes};
  spec.serial = "serial-0";
  spec.queue_size = 16;
  return spec;
}

struct TestBlk {
  static constexpr std::uint64_t kAll = TestDriver::kTransportFeatures | kBlkSizeMax | kBlkSegMax |
                                        kBlkBlockSize | kBlkFlush | kBlkTopology | kBlkConfigWce |
                                        kBlkDiscard | kBlkWriteZeroes;
  static constexpr std::uint32_t kIn = 0, kOut = 1, kFlush = 4, kGetId = 8, kDiscard = 11,
                                 kWriteZeroes = 13;
  static constexpr std::uint8_t kOk = 0, kIoError = 1, kUnsupported = 2, kUntouched = 0xaa;

  explicit TestBlk(const BlkSpec& spec = memory_disk(1 << 20))
      : TestBlk(spec, open_disk(spec.backing, spec.read_only)) {}
  TestBlk(const BlkSpec& spec, std::unique_ptr<Disk> disk)
      : device(make_blk(spec, std::move(disk))) {}

  struct Answer {
    std::uint8_t status = kUntouched;
    std::uint32_t used = 0;  // length
    Bytes data;
  };

  // Puts a request with these buffers at the head of the ring: header, what the device reads, room
  // for what it writes, and the status. The doorbell is not rung.
  struct Pending {
    std::uint16_t head;
    Gpa in;
    std::uint32_t in_length;
    Gpa status;
  };
  Pending offer(std::uint32_t type, std::uint64_t sector, std::span<const std::byte> out,
                std::uint32_t in_length, std::uint16_t queue = 0) {
    Bytes header(16);
    store_le<std::uint32_t>(header, 0, type);
    store_le<std::uint64_t>(header, 8, sector);
    Pending pending{next_[queue], 0, in_length, driver.allocate(1)};
    TestQueue& ring = driver.queue(queue);
    const auto add = [&](Gpa at, std::uint32_t length, std::uint16_t flags, bool last) {
      const std::uint16_t index = next_[queue];
      next_[queue] = static_cast<std::uint16_t>((index + 1) % ring.size());
      ring.set_descriptor(index, at, length,
                          static_cast<std::uint16_t>(flags | (last ? 0 : TestQueue::kNext)),
                          next_[queue]);
    };
    add(put(header), 16, 0, false);
    if (!out.empty()) add(put(out), static_cast<std::uint32_t>(out.size()), 0, false);
    if (in_length != 0) {
      pending.in = driver.allocate(in_length);
      add(pending.in, in_length, TestQueue::kWrite, false);
    }
    const std::byte untouched{kUntouched};
    write(pending.status, std::span(&untouched, 1));
    add(pending.status, 1, TestQueue::kWrite, true);
    ring.set_available(pending.head);
    return pending;
  }

  // The answer to a request, once it is the next used one.
  std::optional<Answer> take(const Pending& pending, std::uint16_t queue = 0) {
    const auto used = driver.queue(queue).take_used();
    if (!used || used->id != pending.head) return std::nullopt;
    return read_answer(pending, *used);
  }

  // The answer, however long it takes. What a thread of the device wrote may be read only once the
  // used ring says so: its index is stored behind it.
  Answer wait_for(const Pending& pending, std::uint16_t queue = 0) {
    auto& used = used_[queue];
    while (!used.contains(pending.head)) {
      if (const auto next = driver.queue(queue).take_used()) {
        used.emplace(next->id, *next);
      } else {
        std::this_thread::yield();
      }
    }
    return read_answer(pending, used.extract(pending.head).mapped());
  }

  Answer read_answer(const Pending& pending, const TestQueue::Used& used) {
    Answer answer{.status = board.memory.load<std::uint8_t>(pending.status).value(),
                  .used = used.length,
                  .data = Bytes(pending.in_length)};
    if (pending.in_length != 0 && !board.memory.read(pending.in, answer.data)) {
      throw std::logic_error("outside memory");
    }
    return answer;
  }

  // For a disk that answers on its doorbell.
  Answer request(std::uint32_t type, std::uint64_t sector, std::span<const std::byte> out = {},
                 std::uint32_t in_length = 0) {
    const Pending pending = offer(type, sector, out, in_length);
    driver.notify(0);
    return take(pending).value_or(Answer{});
  }

  Bytes on_disk(std::uint64_t offset, std::size_t length) {
    Bytes bytes(length);
    device->disk().read(offset, bytes);
    return bytes;
  }

  Gpa put(std::span<const std::byte> bytes) {
    const Gpa at = driver.allocate(bytes.size());
    write(at, bytes);
    return at;
  }
  void write(Gpa at, std::span<const std::byte> bytes) {
    if (!board.memory.write(at, bytes)) throw std::logic_error("outside memory");
  }

  std::uint64_t config(std::uint64_t offset, std::size_t width) {
    return board.mmio(TestBoard::kDevice + offset, width);
  }

  std::unique_ptr<Blk> device;
  TestBoard board{*device};
  TestDriver driver{board};
  std::map<std::uint16_t, std::uint16_t> next_;  // free descriptor, by queue
  // By queue, by head: used before wait_for() came to them.
  std::map<std::uint16_t, std::map<std::uint32_t, TestQueue::Used>> used_;
};

// One range of DISCARD or WRITE_ZEROES.
inline Bytes range(std::uint64_t sector, std::uint32_t sectors, std::uint32_t flags = 0) {
  Bytes bytes(16);
  store_le<std::uint64_t>(bytes, 0, sector);
  store_le<std::uint32_t>(bytes, 8, sectors);
  store_le<std::uint32_t>(bytes, 12, flags);
  return bytes;
}

}  // namespace kvitest
