// A virtio-scsi device with a driver for tests.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "native/little_endian.h"
#include "native/state/test_checkpoint.h"
#include "native/virtio/features.h"
#include "native/virtio/scsi/scsi.h"
#include "native/virtio/scsi/target.h"
#include "native/virtio/test_driver.h"

namespace kvitest {

using Bytes = std::vector<std::byte>;

inline ScsiLunSpec memory_lun(const std::string& name, std::uint8_t lun,
                              std::uint64_t bytes = 1 << 20) {
  ScsiLunSpec spec;
  spec.name = name;
  spec.backing = MemoryBacking{bytes};
  spec.lun = lun;
  spec.serial = "serial-" + name;
  return spec;
}

// Bytes of a CDB or of parameters.
inline Bytes raw(std::initializer_list<unsigned> values) {
  Bytes bytes;
  for (const unsigned value : values) bytes.push_back(static_cast<std::byte>(value));
  return bytes;
}

inline Bytes letters(std::size_t length, unsigned seed) {
  Bytes bytes(length);
  for (std::size_t i = 0; i < length; ++i) {
    bytes[i] = static_cast<std::byte>((i * 2654435761u + seed * 97 + (i >> 9)) >> 3);
  }
  return bytes;
}

struct TestScsi {
  static constexpr std::uint64_t kAll = TestDriver::kTransportFeatures | kScsiHotplug | kScsiChange;
  static constexpr std::uint16_t kControl = 0, kEvent = 1, kRequest = 2;

  // Two disks of 1 MiB: `a`, unit 0, and `b`, unit 5, which is read-only.
  static ScsiSpec usual() {
    ScsiSpec spec;
    spec.name = "scsi0";
    spec.luns = {memory_lun("a", 0), memory_lun("b", 5)};
    spec.luns[1].read_only = true;
    spec.queue_size = 16;
    return spec;
  }

  explicit TestScsi(const ScsiSpec& spec = usual(), OpenLun open = nullptr, bool restored = false)
      : device(make_scsi(
            spec,
            open ? std::move(open)
                 : [](const ScsiLunSpec& lun) { return open_disk(lun.backing, lun.read_only); },
            restored)) {}

  struct Answer {
    std::uint32_t used = 0;
    std::uint32_t sense_length = 0;
    std::uint32_t residual = 0;
    std::uint8_t status = 0xaa;
    std::uint8_t response = 0xaa;
    Sense sense{};
    Bytes data;
  };

  static Bytes lun_field(std::uint8_t target, std::uint16_t lun) {
    return raw({1, target, 0x40u | lun >> 8, lun & 0xffu, 0, 0, 0, 0});
  }

  // With the attention that a new unit has.
  Answer command(const Bytes& cdb, std::uint32_t in_length = 0, const Bytes& out = {},
                 std::uint16_t lun = 0, std::uint8_t target = 0) {
    return request(lun_field(target, lun), cdb, in_length, out);
  }

  Answer request(const Bytes& lun, const Bytes& cdb, std::uint32_t in_length = 0,
                 const Bytes& out = {}) {
    Bytes header(19 + cdb_size);
    std::ranges::copy(lun, header.begin());
    store_le<std::uint64_t>(header, 8, ++id_);
    std::ranges::copy(cdb, header.begin() + 19);
    const std::uint32_t answer_length = 12 + sense_size;
    const Gpa answer_at = driver.allocate(answer_length);
    if (!board.memory.fill(answer_at, std::byte{0xaa}, answer_length)) throw std::logic_error("");
    Gpa in = 0;
    std::vector<Part> parts{{put(header), static_cast<std::uint32_t>(header.size()), 0}};
    if (!out.empty()) parts.push_back({put(out), static_cast<std::uint32_t>(out.size()), 0});
    parts.push_back({answer_at, answer_length, TestQueue::kWrite});
    if (in_length != 0) {
      in = driver.allocate(in_length);
      parts.push_back({in, in_length, TestQueue::kWrite});
    }
    const std::uint16_t head = offer(kRequest, parts);
    driver.notify(kRequest);
    const auto used = driver.queue(kRequest).take_used();
    if (!used || used->id != head) return {};
    Answer answer{.used = used->length, .sense = {}, .data = {}};
    Bytes response(answer_length);
    if (!board.memory.read(answer_at, response)) throw std::logic_error("");
    answer.sense_length = load_le<std::uint32_t>(response, 0);
    answer.residual = load_le<std::uint32_t>(response, 4);
    answer.status = std::to_integer<std::uint8_t>(response[10]);
    answer.response = std::to_integer<std::uint8_t>(response[11]);
    if (answer.sense_length >= 14) {
      answer.sense = {std::to_integer<std::uint8_t>(response[12 + 2]),
                      std::to_integer<std::uint8_t>(response[12 + 12]),
                      std::to_integer<std::uint8_t>(response[12 + 13])};
    }
    answer.data.resize(in_length);
    if (in_length != 0 && !board.memory.read(in, answer.data)) throw std::logic_error("");
    return answer;
  }

  // Takes the attentions that units begin with.
  void settle() {
    for (const std::uint16_t lun : {0, 5}) command(raw({0x00}), 0, {}, lun);
  }

  std::optional<std::uint8_t> manage(std::uint32_t task, std::uint16_t lun,
                                     std::uint8_t target = 0) {
    Bytes bytes(24);
    store_le<std::uint32_t>(bytes, 4, task);
    std::ranges::copy(lun_field(target, lun), bytes.begin() + 8);
    return control(bytes, 1).back();
  }

  // What the device wrote.
  std::vector<std::uint8_t> control(const Bytes& bytes, std::uint32_t in_length) {
    const Gpa in = driver.allocate(in_length);
    offer(kControl, {{put(bytes), static_cast<std::uint32_t>(bytes.size()), 0},
                     {in, in_length, TestQueue::kWrite}});
    driver.notify(kControl);
    if (!driver.queue(kControl).take_used()) throw std::logic_error("no answer");
    std::vector<std::uint8_t> written(in_length);
    if (!board.memory.read(in, std::as_writable_bytes(std::span(written)))) {
      throw std::logic_error("");
    }
    return written;
  }

  struct Event {
    std::uint32_t event, reason;
    std::uint8_t target, lun;
    bool operator==(const Event&) const = default;
  };
  void offer_event(std::uint32_t length = 16) {
    const Gpa at = driver.allocate(length);
    const std::uint16_t head = offer(kEvent, {{at, length, TestQueue::kWrite}});
    events_[head] = at;
    driver.notify(kEvent);
  }
  std::optional<Event> take_event() {
    const auto used = driver.queue(kEvent).take_used();
    if (!used || used->length != 16) return std::nullopt;
    Bytes bytes(16);
    if (!board.memory.read(events_.at(static_cast<std::uint16_t>(used->id)), bytes)) return {};
    return Event{load_le<std::uint32_t>(bytes, 0), load_le<std::uint32_t>(bytes, 12),
                 std::to_integer<std::uint8_t>(bytes[5]), std::to_integer<std::uint8_t>(bytes[7])};
  }

  struct Part {
    Gpa at;
    std::uint32_t length;
    std::uint16_t flags;
  };
  std::uint16_t offer(std::uint16_t queue, const std::vector<Part>& parts) {
    TestQueue& ring = driver.queue(queue);
    const std::uint16_t head = next_[queue];
    for (std::size_t i = 0; i < parts.size(); ++i) {
      const bool last = i + 1 == parts.size();
      const std::uint16_t index = next_[queue];
      next_[queue] = static_cast<std::uint16_t>((index + 1) % ring.size());
      ring.set_descriptor(
          index, parts[i].at, parts[i].length,
          static_cast<std::uint16_t>(parts[i].flags | (last ? 0 : TestQueue::kNext)), next_[queue]);
    }
    ring.set_available(head);
    return head;
  }

  // Of a queue that was reset alone: its descriptors.
  void forget(std::uint16_t queue) { next_[queue] = 0; }

  Gpa put(std::span<const std::byte> bytes) {
    const Gpa at = driver.allocate(bytes.size());
    if (!board.memory.write(at, bytes)) throw std::logic_error("outside memory");
    return at;
  }
  Bytes on_disk(const std::string& name, std::uint64_t offset, std::size_t length) {
    Bytes bytes(length);
    device->disk(name)->read(offset, bytes);
    return bytes;
  }
  std::uint32_t config(std::uint64_t offset, std::size_t width = 4) {
    return static_cast<std::uint32_t>(board.mmio(TestBoard::kDevice + offset, width));
  }
  void set_config(std::uint64_t offset, std::uint32_t value) {
    board.set_mmio(TestBoard::kDevice + offset, 4, value);
  }

  std::unique_ptr<Scsi> device;
  TestBoard board{*device};
  TestDriver driver{board};
  std::uint32_t sense_size = 96;
  std::uint32_t cdb_size = 32;

 private:
  std::map<std::uint16_t, std::uint16_t> next_;  // free descriptor, by queue
  std::map<std::uint16_t, Gpa> events_;          // buffer, by head
  std::uint64_t id_ = 0;
};

inline Bytes rw10(unsigned opcode, unsigned lba, unsigned blocks, unsigned flags = 0) {
  return raw({opcode, flags, lba >> 24, lba >> 16 & 0xff, lba >> 8 & 0xff, lba & 0xff, 0,
              blocks >> 8, blocks & 0xff, 0});
}
inline const Bytes kTestReady = raw({0x00, 0, 0, 0, 0, 0});

inline bool good(const TestScsi::Answer& answer) {
  return answer.response == 0 && answer.status == kStatusGood && answer.sense_length == 0;
}
inline bool failed(const TestScsi::Answer& answer, const Sense& sense) {
  return answer.response == 0 && answer.status == kStatusCheckCondition && answer.sense == sense &&
         answer.sense_length == kFixedSenseBytes;
}

// Active, and nothing to hear from its units.
struct StartedScsi : TestScsi {
  explicit StartedScsi(const ScsiSpec& spec = usual()) : TestScsi(spec) {
    REQUIRE(driver.start(kAll) == 0x0f);
    settle();
  }
};

}  // namespace kvitest
