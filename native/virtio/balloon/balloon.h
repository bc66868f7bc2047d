// virtio-balloon, the traditional memory balloon (virtio 1.3, 5.5).
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "native/virtio/device.h"

namespace kvitest {

inline constexpr std::uint64_t kBalloonMustTellHost = 1 << 0;
inline constexpr std::uint64_t kBalloonStats = 1 << 1;
inline constexpr std::uint64_t kBalloonDeflateOnOom = 1 << 2;
inline constexpr std::uint64_t kBalloonFreePageHint = 1 << 3;
inline constexpr std::uint64_t kBalloonPagePoison = 1 << 4;
inline constexpr std::uint64_t kBalloonReporting = 1 << 5;

struct BalloonSpec {
  std::string name;
  std::vector<std::string> without_features{};
};

// What a balloon has to tell its owner. Bytes; counted since the device was made, in a fork too.
struct BalloonReport {
  std::uint64_t target = 0;      // that the host wants: num_pages
  std::uint64_t actual = 0;      // that the driver says it has given
  std::uint64_t inflated = 0;    // that came on the inflate queue
  std::uint64_t deflated = 0;    // on the deflate queue
  std::uint64_t reported = 0;    // on the reporting queue, as free
  std::uint64_t hinted = 0;      // in the last round of hints
  std::uint64_t given_back = 0;  // of RAM, to the host; pages count each time
  std::uint64_t ignored = 0;     // page numbers that are no RAM
  std::uint64_t rounds = 0;      // of hints that the driver has ended
  std::uint64_t updates = 0;     // times that statistics came
  // The last ones, by tag (5.5.6.4); bytes, or counts.
  std::map<std::uint16_t, std::uint64_t> statistics;
};

class Balloon : public VirtioDevice {
 public:
  // What the driver is to have in the balloon; it is told. Throws Error (EINVAL) for what is not
  // whole pages, or more than 16 TiB.
  virtual void set_target(std::uint64_t bytes) = 0;
  // The driver is asked for statistics. Nothing happens while it has offered no buffer: the next
  // one is fresh anyway.
  virtual void ask_statistics() = 0;
  // Begins a round of hints at free pages. Throws Error (ENOTSUP) when the driver knows none.
  virtual void ask_hints() = 0;
  virtual BalloonReport report() const = 0;
};

// Throws Error (EINVAL) naming the first thing that no balloon can be.
void validate(const BalloonSpec& spec);
std::unique_ptr<Balloon> make_balloon(const BalloonSpec& spec);

}  // namespace kvitest
