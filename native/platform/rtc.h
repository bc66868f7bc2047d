// The MC146818 real-time clock at ports 0x70 and 0x71: a wall clock in UTC for guests without
// kvmclock.
#pragma once

#include <cstdint>
#include <ctime>
#include <functional>
#include <mutex>

#include "native/bus/io_device.h"

namespace kvitest {

inline constexpr std::uint64_t kRtcPorts = 2;

// BCD or binary, 24 or 12 hours as the guest sets register B. No alarm, no interrupts; the time
// cannot be set, because it is the host's. The update-in-progress bit is always 0: a reader never
// waits.
class Rtc : public IoDevice {
 public:
  // now: seconds since the epoch, UTC. Default: the host's clock.
  explicit Rtc(std::function<std::time_t()> now = {});
  void io_read(std::uint64_t offset, std::span<std::byte> data) override;
  void io_write(std::uint64_t offset, std::span<const std::byte> data) override;

 private:
  std::uint8_t read_register() const;
  std::uint8_t encode(int value) const;
  std::uint8_t encode_hour(int hour) const;

  std::function<std::time_t()> now_;
  std::mutex mutex_;
  std::uint8_t index_ = 0;
  std::uint8_t control_ = 0;  // register B
};

}  // namespace kvitest
