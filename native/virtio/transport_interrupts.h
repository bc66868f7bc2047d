// What every transport has of its interrupts: how a device notifies its driver, and the device
// status byte, because a device may ask to be reset at any moment.
#pragma once

#include <atomic>
#include <cstdint>

#include "native/virtio/device.h"

namespace kvitest {

// Device status bits (virtio 1.3, 2.1).
inline constexpr std::uint8_t kStatusAcknowledge = 1;
inline constexpr std::uint8_t kStatusDriver = 2;
inline constexpr std::uint8_t kStatusDriverOk = 4;
inline constexpr std::uint8_t kStatusFeaturesOk = 8;
inline constexpr std::uint8_t kStatusNeedsReset = 64;
inline constexpr std::uint8_t kStatusFailed = 128;
inline constexpr std::uint8_t kStatusBits = kStatusAcknowledge | kStatusDriver | kStatusDriverOk |
                                            kStatusFeaturesOk | kStatusNeedsReset | kStatusFailed;

// Bits of the ISR status and of the interrupt status register (4.1.4.5, 4.2.2).
inline constexpr std::uint8_t kIsrQueue = 1;
inline constexpr std::uint8_t kIsrConfig = 2;

class TransportInterrupts : public VirtioInterrupts {
 public:
  void needs_reset() override {
    const std::uint8_t before = status_.fetch_or(kStatusNeedsReset);
    const bool first = (before & kStatusNeedsReset) == 0;
    // 2.1.2: the driver is told only once it has set DRIVER_OK.
    if (first && (before & kStatusDriverOk) != 0) config_interrupt();
  }

  std::uint8_t status() const { return status_.load(); }
  void add_status(std::uint8_t bits) { status_.fetch_or(bits); }
  // What a device reset leaves: status 0, no pending interrupt, nothing assigned.
  virtual void reset() = 0;

 protected:
  void set_status(std::uint8_t status) { status_.store(status); }

 private:
  std::atomic<std::uint8_t> status_{0};
};

}  // namespace kvitest
