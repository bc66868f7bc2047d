// ACPI sleep control, sleep status and reset registers of a hardware-reduced machine
// (ACPI 6.5, 4.8.3.7, 4.8.3.6).
#pragma once

#include <cstdint>
#include <functional>

#include "native/bus/io_device.h"

namespace kvitest {

inline constexpr std::uint64_t kPowerPorts = 3;
inline constexpr std::uint16_t kSleepControlOffset = 0;
inline constexpr std::uint16_t kSleepStatusOffset = 1;
inline constexpr std::uint16_t kResetOffset = 2;
inline constexpr std::uint8_t kResetValue = 1;  // the FADT's RESET_VALUE

struct PowerSink {
  std::function<void()> power_off;  // SLP_EN with the sleep type of \_S5
  std::function<void()> reset;
};

// Registers are one byte wide; other accesses read zeros and do nothing. Other sleep types are
// ignored: the tables name none.
class Power : public IoDevice {
 public:
  explicit Power(PowerSink sink);
  void io_read(std::uint64_t offset, std::span<std::byte> data) override;
  void io_write(std::uint64_t offset, std::span<const std::byte> data) override;

 private:
  PowerSink sink_;
};

}  // namespace kvitest
