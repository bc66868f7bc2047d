#include "native/platform/power.h"

#include <algorithm>
#include <utility>

#include "native/boot/acpi.h"

namespace kvitest {
namespace {

constexpr unsigned kSleepEnable = 1u << 5;

}  // namespace

Power::Power(PowerSink sink) : sink_(std::move(sink)) {}

void Power::io_read(std::uint64_t, std::span<std::byte> data) {
  // Sleep status: WAK_STS is clear, the machine never slept.
  std::ranges::fill(data, std::byte{0});
}

void Power::io_write(std::uint64_t offset, std::span<const std::byte> data) {
  if (data.size() != 1) return;
  const auto value = std::to_integer<unsigned>(data[0]);
  const unsigned sleep_type = value >> 2 & 7;
  if (offset == kSleepControlOffset && (value & kSleepEnable) != 0 &&
      sleep_type == kAcpiS5SleepType) {
    sink_.power_off();
  } else if (offset == kResetOffset && value == kResetValue) {
    sink_.reset();
  }
}

}  // namespace kvitest
