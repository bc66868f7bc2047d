// What a virtio-console remembers, apart from what it does: everything a checkpoint has to save
// beside the queues themselves.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <vector>

#include "native/state/archive.h"
#include "native/virtio/console/byte_fifo.h"
#include "native/virtio/console/console.h"
#include "native/virtio/queue.h"

namespace kvitest {

struct ConsoleSize {
  std::uint16_t columns = 0;
  std::uint16_t rows = 0;
  template <typename Archive>
  void fields(Archive& archive) {
    archive(columns, rows);
  }
};

// Control messages of one port that wait for a buffer of the driver, as bits; sent lowest first,
// because a driver must know a port before its role, and its name before it may be opened. Bits,
// not a list: however often the host changes its mind, the driver gets each kind once, with the
// latest value.
enum ConsoleMessage : std::uint8_t {
  kMessageAdd = 1 << 0,
  kMessageConsole = 1 << 1,
  kMessageResize = 1 << 2,
  kMessageName = 1 << 3,
  kMessageOpen = 1 << 4,
};
inline constexpr std::uint8_t kAllMessages = 0x1f;

// A guest that opens and closes a port over and over while its data waits has its oldest states
// kept and pairs in between dropped.
inline constexpr std::size_t kMaxChanges = 16;

struct ConsolePortState {
  ConsolePortState() = default;
  explicit ConsolePortState(const ConsolePortSpec& spec) : spec(spec) {}

  ConsolePortSpec spec;  // saved to be compared
  std::optional<ConsoleSize> size;
  bool host_open = true;
  bool ready = false;       // the driver sent PORT_READY
  bool guest_open = false;  // as the driver said it
  std::uint8_t messages = 0;

  ByteFifo to_guest{kPortWindow};
  // Bytes given to the sink that consumed() has not acknowledged; at most `window`. Not saved: the
  // sink of a fork has been given nothing yet.
  std::size_t unconsumed = 0;
  std::size_t window = kPortWindow;
  // Requests of the transmit queue that were given back since activation.
  std::uint64_t transmitted = 0;

  // Guest opens and closes that the host must not hear of before the data sent ahead of them.
  struct Change {
    std::uint64_t after;  // once `transmitted` is this
    bool open;
    template <typename Archive>
    void fields(Archive& archive) {
      archive(after, open);
    }
  };
  std::deque<Change> changes;
  // What the host has heard, which lags behind guest_open while data is on its way.
  bool reported_open() const { return changes.empty() ? guest_open : !changes.front().open; }

  template <typename Archive>
  void fields(Archive& archive) {
    archive(spec.name, spec.console, size, host_open, ready, guest_open, messages, to_guest,
            transmitted, changes);
  }
};

struct ConsoleState {
  static constexpr StateTag kTag{"virtio-console", 1};
  bool multiport = false;  // negotiated
  ConsoleSize size;        // config space, for drivers without multiport
  std::uint8_t config_generation = 0;
  std::vector<ConsolePortState> ports;
  template <typename Archive>
  void fields(Archive& archive) {
    archive(multiport, size, config_generation, ports);
  }
};

// Requests of the transmit queues, by port, that were taken from the ring and not yet read to their
// end.
struct ConsoleRequests {
  static constexpr StateTag kTag{"virtio-console-requests", 2};
  std::vector<std::optional<ChainState>> ports;
  template <typename Archive>
  void fields(Archive& archive) {
    archive(ports);
  }
};

}  // namespace kvitest
