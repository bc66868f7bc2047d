#include "native/virtio/mmio_interrupts.h"

namespace kvitest {

std::uint8_t VirtioMmioInterrupts::pending() const {
  const std::lock_guard lock(mutex_);
  return pending_;
}

void VirtioMmioInterrupts::change(std::uint8_t clear, std::uint8_t set) {
  const std::lock_guard lock(mutex_);
  const bool before = pending_ != 0;
  pending_ = static_cast<std::uint8_t>((pending_ & ~clear) | set);
  if (before != (pending_ != 0)) controller_.set_irq_line(gsi_, pending_ != 0);
}

void VirtioMmioInterrupts::reset() {
  change(kIsrQueue | kIsrConfig, 0);
  set_status(0);
}

void VirtioMmioInterrupts::save(StateWriter& writer) const {
  writer.save(MmioInterruptState{.status = status(), .pending = pending()});
}

void VirtioMmioInterrupts::load(StateReader& reader) {
  const auto state = reader.load<MmioInterruptState>();
  if ((state.status & ~kStatusBits) != 0 || (state.pending & ~(kIsrQueue | kIsrConfig)) != 0) {
    reader.fail("a register that cannot be");
  }
  set_status(state.status);
  const std::lock_guard lock(mutex_);
  pending_ = state.pending;
}

void VirtioMmioInterrupts::resume() {
  const std::lock_guard lock(mutex_);
  // Low too: an interrupt controller that is used again remembers the level from before.
  controller_.set_irq_line(gsi_, pending_ != 0);
}

}  // namespace kvitest
