// What a virtio-console remembers, apart from what it does: everything a checkpoint has to save
// beside the queues themselves.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <vector>

#include "native/virtio/console/byte_fifo.h"
#include "native/virtio/console/console.h"

namespace kvitest {

struct ConsoleSize {
  std::uint16_t columns = 0;
  std::uint16_t rows = 0;
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

struct ConsolePortState {
  explicit ConsolePortState(const ConsolePortSpec& spec) : spec(spec) {}

  ConsolePortSpec spec;
  std::optional<ConsoleSize> size;
  bool host_open = true;
  bool ready = false;       // the driver sent PORT_READY
  bool guest_open = false;  // as the driver said it
  std::uint8_t messages = 0;

  ByteFifo to_guest{kPortWindow};
  // Bytes given to the sink that consumed() has not acknowledged; at most `window`.
  std::size_t unconsumed = 0;
  std::size_t window = kPortWindow;
  // Requests of the transmit queue that were given back since activation.
  std::uint64_t transmitted = 0;

  // Guest opens and closes that the host must not hear of before the data sent ahead of them.
  struct Change {
    std::uint64_t after;  // once `transmitted` is this
    bool open;
  };
  std::deque<Change> changes;
};

struct ConsoleState {
  bool multiport = false;  // negotiated
  ConsoleSize size;        // config space, for drivers without multiport
  std::uint8_t config_generation = 0;
  std::vector<ConsolePortState> ports;
};

}  // namespace kvitest
