// The MC146818 real-time clock at ports 0x70 and 0x71: a wall clock in UTC for guests without
// kvmclock.
#pragma once

#include <cstdint>
#include <ctime>
#include <functional>
#include <mutex>

#include "native/bus/io_device.h"
#include "native/state/archive.h"

namespace kvitest {

inline constexpr std::uint64_t kRtcPorts = 2;

struct RtcState {
  static constexpr StateTag kTag{"rtc", 1};
  std::uint8_t index = 0;
  std::uint8_t control = 0;  // register B
  template <typename Archive>
  void fields(Archive& archive) {
    archive(index, control);
  }
};

// BCD or binary, 24 or 12 hours as the guest sets register B. No alarm, no interrupts; the time
// cannot be set, because it is the host's. The update-in-progress bit is always 0: a reader never
// waits.
class Rtc : public IoDevice {
 public:
  // now: seconds since the epoch, UTC. Default: the host's clock.
  explicit Rtc(std::function<std::time_t()> now = {});
  void io_read(std::uint64_t offset, std::span<std::byte> data) override;
  void io_write(std::uint64_t offset, std::span<const std::byte> data) override;

  void save(StateWriter& writer) const;
  void load(StateReader& reader);  // throws Error (EBADMSG)

 private:
  std::uint8_t read_register() const;
  std::uint8_t encode(int value) const;
  std::uint8_t encode_hour(int hour) const;

  std::function<std::time_t()> now_;
  mutable std::mutex mutex_;
  RtcState state_;
};

}  // namespace kvitest
