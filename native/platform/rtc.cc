#include "native/platform/rtc.h"

#include <algorithm>
#include <utility>

namespace kvitest {
namespace {

// Register numbers and bits: Motorola MC146818A data sheet; the century is the PC's convention.
constexpr std::uint8_t kSeconds = 0x00;
constexpr std::uint8_t kMinutes = 0x02;
constexpr std::uint8_t kHours = 0x04;
constexpr std::uint8_t kDayOfWeek = 0x06;
constexpr std::uint8_t kDayOfMonth = 0x07;
constexpr std::uint8_t kMonth = 0x08;
constexpr std::uint8_t kYear = 0x09;
constexpr std::uint8_t kStatusA = 0x0a;
constexpr std::uint8_t kStatusB = 0x0b;
constexpr std::uint8_t kStatusD = 0x0d;
constexpr std::uint8_t kCentury = 0x32;

constexpr std::uint8_t kIndexMask = 0x7f;     // bit 7 of the index port masks NMIs on a PC
constexpr std::uint8_t kDivider32768 = 0x20;  // time base on
constexpr std::uint8_t k24Hours = 1 << 1;
constexpr std::uint8_t kBinary = 1 << 2;
constexpr std::uint8_t kValid = 1 << 7;
constexpr std::uint8_t kAfternoon = 1 << 7;

}  // namespace

Rtc::Rtc(std::function<std::time_t()> now)
    : now_(now ? std::move(now) : [] { return std::time(nullptr); }) {
  state_.control = k24Hours;
}

void Rtc::io_read(std::uint64_t offset, std::span<std::byte> data) {
  const std::lock_guard lock(mutex_);
  std::ranges::fill(data, std::byte{0xff});
  if (offset == 1) data[0] = static_cast<std::byte>(read_register());
}

void Rtc::io_write(std::uint64_t offset, std::span<const std::byte> data) {
  const std::lock_guard lock(mutex_);
  const auto value = std::to_integer<std::uint8_t>(data[0]);
  if (offset == 0) {
    state_.index = value & kIndexMask;
  } else if (state_.index == kStatusB) {
    state_.control = value & (k24Hours | kBinary);
  }
}

std::uint8_t Rtc::encode(int value) const {
  if ((state_.control & kBinary) != 0) return static_cast<std::uint8_t>(value);
  return static_cast<std::uint8_t>(value / 10 << 4 | value % 10);
}

std::uint8_t Rtc::encode_hour(int hour) const {
  if ((state_.control & k24Hours) != 0) return encode(hour);
  const int twelve = hour % 12 == 0 ? 12 : hour % 12;
  return static_cast<std::uint8_t>(encode(twelve) | (hour >= 12 ? kAfternoon : 0));
}

std::uint8_t Rtc::read_register() const {
  const std::time_t now = now_();
  std::tm utc{};
  ::gmtime_r(&now, &utc);
  switch (state_.index) {
    case kSeconds:
      return encode(std::min(utc.tm_sec, 59));
    case kMinutes:
      return encode(utc.tm_min);
    case kHours:
      return encode_hour(utc.tm_hour);
    case kDayOfWeek:
      return encode(utc.tm_wday + 1);
    case kDayOfMonth:
      return encode(utc.tm_mday);
    case kMonth:
      return encode(utc.tm_mon + 1);
    case kYear:
      return encode(utc.tm_year % 100);
    case kCentury:
      return encode((utc.tm_year + 1900) / 100);
    case kStatusA:
      return kDivider32768;
    case kStatusB:
      return state_.control;
    case kStatusD:
      return kValid;
    default:
      return 0;
  }
}

void Rtc::save(StateWriter& writer) const {
  const std::lock_guard lock(mutex_);
  writer.save(state_);
}

void Rtc::load(StateReader& reader) {
  const auto state = reader.load<RtcState>();
  if ((state.index & ~kIndexMask) != 0 || (state.control & ~(k24Hours | kBinary)) != 0) {
    reader.fail("a register that cannot be");
  }
  const std::lock_guard lock(mutex_);
  state_ = state;
}

}  // namespace kvitest
