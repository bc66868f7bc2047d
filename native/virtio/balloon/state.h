// What a virtio-balloon remembers.
#pragma once

#include <cstdint>
#include <optional>

#include "native/state/archive.h"
#include "native/virtio/queue.h"

namespace kvitest {

// VIRTIO_BALLOON_CMD_ID_STOP and _DONE (5.5.6.5); ids of rounds are above.
inline constexpr std::uint32_t kHintStop = 0;
inline constexpr std::uint32_t kHintDone = 1;

// Counters and statistics are what the owner has been told, and not saved.
struct BalloonState {
  static constexpr StateTag kTag{"virtio-balloon", 1};
  std::uint8_t config_generation = 0;
  // The configuration space.
  std::uint32_t num_pages = 0;
  std::uint32_t actual = 0;
  std::uint32_t hint_command = kHintDone;
  std::uint32_t poison = 0;
  std::uint32_t last_hint_command = kHintDone;
  // What the driver said last on the hint queue.
  std::uint32_t driver_hint_command = kHintStop;
  // The buffer of the statistics queue that the device holds.
  std::optional<ChainState> statistics;
  template <typename Archive>
  void fields(Archive& archive) {
    archive(config_generation, num_pages, actual, hint_command, poison, last_hint_command,
            driver_hint_command, statistics);
  }
};

}  // namespace kvitest
