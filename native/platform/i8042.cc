#include "native/platform/i8042.h"

#include <utility>

namespace kvitest {
namespace {

constexpr std::uint64_t kCommandOffset = 4;
constexpr std::byte kFloating{0xff};
// A floating bus but for bit 1, input buffer full: nothing we would not take at once.
constexpr std::byte kStatus{0xfd};
// Commands 0xf0..0xff pulse output lines; line 0, low in bit 0, is the reset line.
constexpr unsigned kPulseMask = 0xf1;
constexpr unsigned kPulseReset = 0xf0;

}  // namespace

I8042::I8042(std::function<void()> reset) : reset_(std::move(reset)) {}

void I8042::io_read(std::uint64_t offset, std::span<std::byte> data) {
  for (std::size_t i = 0; i < data.size(); ++i) {
    data[i] = offset + i == kCommandOffset ? kStatus : kFloating;
  }
}

void I8042::io_write(std::uint64_t offset, std::span<const std::byte> data) {
  if (offset != kCommandOffset || data.size() != 1) return;
  if ((std::to_integer<unsigned>(data[0]) & kPulseMask) == kPulseReset) reset_();
}

}  // namespace kvitest
