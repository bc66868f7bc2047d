#include "native/platform/i8042.h"

#include <utility>

namespace kvitest {
namespace {

constexpr std::uint64_t kSystemControlOffset = 1;
constexpr std::uint64_t kCommandOffset = 4;
constexpr std::byte kFloating{0xff};
// A floating bus but for bit 1, input buffer full: nothing we would not take at once.
constexpr std::byte kStatus{0xfd};
// Commands 0xf0..0xff pulse output lines; line 0, low in bit 0, is the reset line.
constexpr unsigned kPulseMask = 0xf1;
constexpr unsigned kPulseReset = 0xf0;

// Port 0x61: bits 0 to 3 are the guest's, 5 is timer 2's output, 6 and 7 say why an NMI came.
constexpr unsigned kSystemControlKept = 0x0f;
constexpr unsigned kIoCheckDisable = 1u << 3;
constexpr unsigned kTimer2Output = 1u << 5;
constexpr unsigned kIoCheck = 1u << 6;

}  // namespace

I8042::I8042(std::function<void()> reset) : reset_(std::move(reset)) {}

void I8042::io_read(std::uint64_t offset, std::span<std::byte> data) {
  const std::lock_guard lock(mutex_);
  for (std::size_t i = 0; i < data.size(); ++i) {
    if (offset + i == kCommandOffset) {
      data[i] = kStatus;
    } else if (offset + i == kSystemControlOffset) {
      const bool io_check = io_checks_ != 0 && (state_.system_control & kIoCheckDisable) == 0;
      data[i] =
          static_cast<std::byte>(state_.system_control | kTimer2Output | (io_check ? kIoCheck : 0));
    } else {
      data[i] = kFloating;
    }
  }
}

void I8042::io_write(std::uint64_t offset, std::span<const std::byte> data) {
  if (data.size() != 1) return;
  const auto value = std::to_integer<unsigned>(data[0]);
  if (offset == kSystemControlOffset) {
    const std::lock_guard lock(mutex_);
    const bool disabled = (value & ~state_.system_control & kIoCheckDisable) != 0;
    if (disabled && io_checks_ != 0) --io_checks_;
    state_.system_control = static_cast<std::uint8_t>(value & kSystemControlKept);
  } else if (offset == kCommandOffset && (value & kPulseMask) == kPulseReset) {
    reset_();
  }
}

void I8042::raise_io_check(unsigned times) {
  const std::lock_guard lock(mutex_);
  io_checks_ = times;
}

void I8042::save(StateWriter& writer) const {
  const std::lock_guard lock(mutex_);
  writer.save(state_);
}

void I8042::load(StateReader& reader) {
  const auto state = reader.load<I8042State>();
  if ((state.system_control & ~kSystemControlKept) != 0) reader.fail("a register that cannot be");
  const std::lock_guard lock(mutex_);
  state_ = state;
}

}  // namespace kvitest
