// A virtio driver for tests: it reaches its device as a guest would, through configuration
// mechanism 1 and the BAR, with rings in guest memory: split ones, or packed ones when RING_PACKED
// is among its features. Nothing is checked on its side, so that it can misbehave.
#pragma once

#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "native/bus/interrupts.h"
#include "native/bus/io_bus.h"
#include "native/bus/pci.h"
#include "native/little_endian.h"
#include "native/memory/guest_memory.h"
#include "native/virtio/common_config.h"
#include "native/virtio/pci_transport.h"

namespace kvitest {

// Records what a guest's interrupt controller would receive.
class TestInterrupts : public InterruptController {
 public:
  void set_irq_line(std::uint32_t gsi, bool level) override;
  void signal_msi(const MsiMessage& message) override;

  bool line(std::uint32_t gsi) const;
  // Messages with this data since the last call.
  std::size_t take_messages(std::uint32_t data);

 private:
  mutable std::mutex mutex_;
  std::map<std::uint32_t, bool> lines_;
  std::map<std::uint32_t, std::size_t> messages_;
};

// For a queue without a transport.
class CountingInterrupts : public VirtioInterrupts {
 public:
  void queue_interrupt(std::uint16_t) override {}
  void config_interrupt() override {}
  void needs_reset() override { ++resets_asked; }
  int resets_asked = 0;
};

// A machine without CPUs around one virtio device in slot 1.
class TestBoard {
 public:
  static constexpr std::uint64_t kBar = kPciMmio32Base;
  static constexpr std::uint64_t kBarSize = 512 * 1024;
  static constexpr std::uint32_t kGsi = 5;
  static constexpr std::uint64_t kRam = 4 * 1024 * 1024;
  // Structures inside the BAR.
  static constexpr std::uint64_t kCommon = 0x0000;
  static constexpr std::uint64_t kIsr = 0x2000;
  static constexpr std::uint64_t kDevice = 0x4000;
  static constexpr std::uint64_t kNotify = 0x6000;
  static constexpr std::uint64_t kMsixTable = 0x8000;
  static constexpr std::uint64_t kMsixPending = 0x4'8000;

  explicit TestBoard(VirtioDevice& device);

  // For checkpoints, the device included.
  void save(StateWriter& writer) const { pci_.save(writer); }
  void load(StateReader& reader) { pci_.load(reader); }
  void resume() { pci_.resume(); }
  // The memory of another board, as a fork finds it.
  void copy_memory(const TestBoard& parent);

  std::uint32_t config(std::uint8_t offset, std::size_t width = 4, std::uint8_t slot = 1);
  void set_config(std::uint8_t offset, std::size_t width, std::uint32_t value);
  // Offset of the nth capability with this id, 0 when there is none. For virtio capabilities
  // cfg_type chooses (0: any).
  std::uint8_t find_capability(std::uint8_t id, std::uint8_t cfg_type = 0);

  // Accesses at an offset from `bar`. Reads that no device answers are all ones.
  std::uint64_t mmio(std::uint64_t offset, std::size_t width);
  void set_mmio(std::uint64_t offset, std::size_t width, std::uint64_t value);

  std::uint64_t bar = kBar;
  GuestMemory memory{kRam};
  IoBus pio_bus;
  IoBus mmio_bus;
  TestInterrupts interrupts;

 private:
  std::unique_ptr<PciFunction> function_;
  PciBus pci_{pio_bus};
};

// One ring. A packed one keeps a descriptor table of its own, which set_available() copies requests
// from; the buffer ID is the head's index there.
class TestQueue {
 public:
  static constexpr std::uint16_t kNext = 1;
  static constexpr std::uint16_t kWrite = 2;
  static constexpr std::uint16_t kIndirect = 4;

  struct Used {
    std::uint32_t id;
    std::uint32_t length;
  };

  TestQueue(GuestMemory& memory, std::uint16_t size, Gpa descriptors, Gpa available, Gpa used,
            bool packed = false);
  // The same ring in a fork.
  TestQueue(GuestMemory& memory, const TestQueue& parent);

  // Raw parts of the ring.
  void set_descriptor(std::uint16_t index, Gpa address, std::uint32_t length, std::uint16_t flags,
                      std::uint16_t next);
  void set_available(std::uint16_t head);  // one entry, and the index
  void set_available_index(std::uint16_t index);
  void set_available_flags(std::uint16_t flags);
  void set_used_event(std::uint16_t event);
  std::uint16_t avail_event() const;
  std::uint16_t used_index() const;
  // The next element that the device used.
  std::optional<Used> take_used();

  std::uint16_t size() const { return size_; }
  Gpa descriptors() const { return descriptors_; }
  Gpa available() const { return available_; }
  Gpa used() const { return used_; }

 private:
  GuestMemory& memory_;
  std::uint16_t size_;
  Gpa descriptors_;
  Gpa available_;
  Gpa used_;
  std::uint16_t available_index_ = 0;
  std::uint16_t taken_ = 0;

  struct Descriptor {
    Gpa address = 0;
    std::uint32_t length = 0;
    std::uint16_t flags = 0;
    std::uint16_t next = 0;
  };
  struct Position {
    std::uint16_t offset = 0;
    bool wrap = true;
  };
  void make_available(std::uint16_t head);
  std::optional<Used> take_packed();
  void advance(Position& at, std::uint16_t slots) const;

  bool packed_;
  std::vector<Descriptor> table_;
  std::map<std::uint32_t, std::uint16_t> slots_;  // by buffer ID
  Position next_;
  Position last_used_;
};

void put_descriptor(GuestMemory& memory, Gpa at, Gpa address, std::uint32_t length,
                    std::uint16_t flags, std::uint16_t next);

// The driver proper. Vector 0 is for configuration changes, vector i + 1 for queue i; a message's
// data is its vector.
class TestDriver {
 public:
  static constexpr std::uint64_t kTransportFeatures =
      kFeatureVersion1 | kFeatureIndirectDesc | kFeatureEventIdx;

  explicit TestDriver(TestBoard& board) : board(board) {}
  // Becomes the driver that `parent` is, in a fork of its board.
  void adopt(const TestDriver& parent);

  // Resets, negotiates, sets up every queue and MSI-X, sets DRIVER_OK. Returns the status it then
  // reads.
  std::uint8_t start(std::uint64_t features, bool use_msix = true);
  // The steps of start().
  std::uint8_t negotiate(std::uint64_t features);
  void enable_msix();
  void set_up_queues(bool use_msix);
  std::uint8_t add_status(std::uint8_t bits);
  std::uint8_t status() { return static_cast<std::uint8_t>(board.mmio(20, 1)); }
  std::uint64_t device_features();
  void reset() { board.set_mmio(20, 1, 0); }

  // Registers of one queue.
  std::uint16_t queue_size(std::uint16_t index);
  void select(std::uint16_t index) { board.set_mmio(22, 2, index); }
  // Registers and enables a ring; returns the queue_enable that it then reads.
  std::uint16_t enable_queue(std::uint16_t index, std::uint16_t size, Gpa descriptors,
                             Gpa available, Gpa used);
  // Registers it only.
  void place_queue(std::uint16_t index, std::uint16_t size, Gpa descriptors, Gpa available,
                   Gpa used);

  // Resets one queue alone, and gives it back elsewhere: laid out, then also enabled; returns the
  // queue_enable that it then reads.
  static constexpr std::uint64_t kQueueReset = 58;
  void reset_queue(std::uint16_t index);
  void lay_out_again(std::uint16_t index, std::uint16_t size);
  std::uint16_t set_up_again(std::uint16_t index, std::uint16_t size);

  TestQueue& queue(std::size_t index) { return queues_.at(index); }
  void notify(std::uint16_t index) { board.set_mmio(TestBoard::kNotify + 4 * index, 2, index); }

  // Offers one buffer that the device reads, and rings the doorbell.
  void send(std::uint16_t index, std::string_view bytes);
  // Offers one buffer that the device writes; the doorbell is rung.
  void offer(std::uint16_t index, std::uint32_t length);
  // The next used buffer of a queue that offer() filled, and what the device wrote into it.
  std::optional<std::string> receive(std::uint16_t index);

  Gpa allocate(std::uint64_t bytes, std::uint64_t alignment = 16);

  TestBoard& board;

 private:
  std::vector<TestQueue> queues_;
  struct Offered {
    Gpa address;
    std::uint32_t length;
  };
  std::vector<std::map<std::uint32_t, Offered>> offered_;  // by queue, by head
  std::vector<std::uint16_t> next_descriptor_;
  Gpa free_ = 0x1'0000;
  bool packed_ = false;
};

}  // namespace kvitest
