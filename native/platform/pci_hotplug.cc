#include "native/platform/pci_hotplug.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "native/little_endian.h"

namespace kvitest {
namespace {

constexpr std::uint64_t kEvents = 0;
constexpr std::uint64_t kPresent = 4;
constexpr std::uint64_t kEject = 8;
constexpr std::uint32_t kLookAtAll = 1;  // slot 0 is the host bridge's

constexpr std::uint32_t bit(std::uint8_t slot) {
  return std::uint32_t{1} << slot;
}

}  // namespace

PciHotplug::PciHotplug(InterruptController& interrupts, std::uint32_t gsi,
                       std::function<void(std::uint8_t)> eject)
    : interrupts_(interrupts), gsi_(gsi), eject_(std::move(eject)) {}

void PciHotplug::add(std::uint8_t slot) {
  const std::lock_guard lock(mutex_);
  state_.present |= bit(slot);
}

bool PciHotplug::has(std::uint8_t slot) const {
  const std::lock_guard lock(mutex_);
  return (state_.present & bit(slot)) != 0;
}

bool PciHotplug::request(std::uint8_t slot) {
  {
    const std::lock_guard lock(mutex_);
    if ((state_.present & bit(slot)) == 0) return false;
    state_.events |= bit(slot);
  }
  pulse();
  return true;
}

bool PciHotplug::vanish(std::uint8_t slot, const std::function<void()>& take_away) {
  {
    const std::lock_guard lock(mutex_);
    if ((state_.present & bit(slot)) == 0) return false;
    state_.present &= ~bit(slot);
    state_.events = (state_.events & ~bit(slot)) | kLookAtAll;
  }
  take_away();
  pulse();
  return true;
}

// As VmGenId::renew().
void PciHotplug::pulse() {
  interrupts_.set_irq_line(gsi_, true);
  interrupts_.set_irq_line(gsi_, false);
}

void PciHotplug::io_read(std::uint64_t offset, std::span<std::byte> data) {
  std::ranges::fill(data, std::byte{0});
  if (data.size() != 4) return;
  const std::lock_guard lock(mutex_);
  if (offset == kEvents) write_le(data, std::exchange(state_.events, 0));
  if (offset == kPresent) write_le(data, state_.present);
}

void PciHotplug::io_write(std::uint64_t offset, std::span<const std::byte> data) {
  if (offset != kEject || data.size() != 4) return;
  std::uint32_t gone = 0;
  {
    const std::lock_guard lock(mutex_);
    gone = state_.present & static_cast<std::uint32_t>(read_le(data));
    state_.present &= ~gone;
    state_.events &= ~gone;
  }
  for (; gone != 0; gone &= gone - 1) eject_(static_cast<std::uint8_t>(std::countr_zero(gone)));
}

void PciHotplug::save(StateWriter& writer) const {
  PciHotplugState state;
  {
    const std::lock_guard lock(mutex_);
    state = state_;
  }
  writer.save(state);
}

void PciHotplug::load(StateReader& reader) {
  const auto state = reader.load<PciHotplugState>();
  const std::lock_guard lock(mutex_);
  if ((state.present & ~state_.present) != 0) {
    reader.fail("a device in a slot where this machine has none");
  }
  state_ = state;
}

void PciHotplug::resume() {
  bool is_waiting = false;
  {
    const std::lock_guard lock(mutex_);
    is_waiting = state_.events != 0;
  }
  if (is_waiting) pulse();
}

}  // namespace kvitest
