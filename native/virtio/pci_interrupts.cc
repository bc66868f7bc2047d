#include "native/virtio/pci_interrupts.h"

#include <algorithm>
#include <string>
#include <utility>

namespace kvitest {

VirtioPciInterrupts::VirtioPciInterrupts(InterruptController& controller, std::uint32_t intx_gsi,
                                         std::size_t queues, std::size_t queue_vectors)
    : controller_(controller),
      intx_gsi_(intx_gsi),
      msix_(static_cast<std::uint16_t>(queue_vectors + 1), controller) {
  state_.queue_vectors.assign(queues, kNoVector);
  irqfds_.assign(queues, -1);
}

void VirtioPciInterrupts::queue_interrupt(std::uint16_t queue) {
  interrupt(queue_vector(queue), kIsrQueue);
}

void VirtioPciInterrupts::config_interrupt() {
  interrupt(config_vector(), kIsrConfig);
}

void VirtioPciInterrupts::interrupt(std::uint16_t vector, std::uint8_t isr_bit) {
  if (msix_.enabled()) {
    msix_.raise(vector);
    return;
  }
  {
    const std::lock_guard lock(mutex_);
    state_.isr |= isr_bit;
  }
  update_line();
}

void VirtioPciInterrupts::set_msix_control(std::uint16_t control) {
  msix_.set_control(control);
  update_line();
}

std::uint16_t VirtioPciInterrupts::assignable(std::uint16_t vector) const {
  return vector < msix_.vectors() ? vector : kNoVector;
}

void VirtioPciInterrupts::set_config_vector(std::uint16_t vector) {
  const std::lock_guard lock(mutex_);
  state_.config_vector = assignable(vector);
}

std::uint16_t VirtioPciInterrupts::config_vector() const {
  const std::lock_guard lock(mutex_);
  return state_.config_vector;
}

void VirtioPciInterrupts::set_queue_vector(std::uint16_t queue, std::uint16_t vector) {
  const std::lock_guard lock(mutex_);
  if (queue >= state_.queue_vectors.size()) return;
  state_.queue_vectors[queue] = assignable(vector);
  if (irqfds_[queue] < 0) return;
  msix_.remove_irqfd(irqfds_[queue]);
  msix_.add_irqfd(state_.queue_vectors[queue], irqfds_[queue]);
}

void VirtioPciInterrupts::add_queue_irqfd(std::uint16_t queue, int eventfd) {
  const std::lock_guard lock(mutex_);
  irqfds_[queue] = eventfd;
  msix_.add_irqfd(state_.queue_vectors[queue], eventfd);
}

void VirtioPciInterrupts::remove_queue_irqfd(std::uint16_t queue) {
  const std::lock_guard lock(mutex_);
  const int eventfd = std::exchange(irqfds_[queue], -1);
  if (eventfd >= 0) msix_.remove_irqfd(eventfd);
}

std::uint16_t VirtioPciInterrupts::queue_vector(std::uint16_t queue) const {
  const std::lock_guard lock(mutex_);
  return queue < state_.queue_vectors.size() ? state_.queue_vectors[queue] : kNoVector;
}

std::uint8_t VirtioPciInterrupts::read_isr() {
  std::uint8_t isr = 0;
  {
    const std::lock_guard lock(mutex_);
    isr = std::exchange(state_.isr, 0);
  }
  update_line();
  return isr;
}

void VirtioPciInterrupts::set_intx_disabled(bool disabled) {
  {
    const std::lock_guard lock(mutex_);
    if (state_.intx_disabled == disabled) return;
    state_.intx_disabled = disabled;
  }
  update_line();
}

bool VirtioPciInterrupts::interrupt_pending() const {
  const bool msix = msix_.enabled();
  const std::lock_guard lock(mutex_);
  return state_.isr != 0 && !msix;
}

void VirtioPciInterrupts::reset() {
  {
    const std::lock_guard lock(mutex_);
    state_.isr = 0;
    state_.config_vector = kNoVector;
    std::ranges::fill(state_.queue_vectors, kNoVector);
    for (int& eventfd : irqfds_) {
      if (eventfd >= 0) msix_.remove_irqfd(std::exchange(eventfd, -1));
    }
  }
  set_status(0);
  update_line();
}

bool VirtioPciInterrupts::line_level() const {
  const bool msix = msix_.enabled();
  const std::lock_guard lock(mutex_);
  return state_.isr != 0 && !msix && !state_.intx_disabled;
}

void VirtioPciInterrupts::update_line() {
  const std::lock_guard line_lock(line_mutex_);
  const bool level = line_level();
  if (level == line_) return;
  line_ = level;
  controller_.set_irq_line(intx_gsi_, level);
}

void VirtioPciInterrupts::resume() {
  const std::lock_guard line_lock(line_mutex_);
  line_ = line_level();
  // Low too: an interrupt controller that is used again remembers the level from before.
  controller_.set_irq_line(intx_gsi_, line_);
}

void VirtioPciInterrupts::save(StateWriter& writer) const {
  VirtioInterruptState state;
  {
    const std::lock_guard lock(mutex_);
    state = state_;
  }
  state.status = status();
  writer.save(state);
  msix_.save(writer);
}

void VirtioPciInterrupts::load(StateReader& reader) {
  VirtioInterruptState state = reader.load<VirtioInterruptState>();
  const auto assigned = [this](std::uint16_t vector) { return assignable(vector) == vector; };
  if (state.queue_vectors.size() != state_.queue_vectors.size()) {
    reader.fail(std::to_string(state.queue_vectors.size()) + " queues, this device has " +
                std::to_string(state_.queue_vectors.size()));
  }
  if (!assigned(state.config_vector) || !std::ranges::all_of(state.queue_vectors, assigned)) {
    reader.fail("a vector beyond the table");
  }
  if ((state.status & ~kStatusBits) != 0 || (state.isr & ~(kIsrQueue | kIsrConfig)) != 0) {
    reader.fail("a register that cannot be");
  }
  set_status(state.status);
  {
    const std::lock_guard lock(mutex_);
    state_ = std::move(state);
  }
  msix_.load(reader);
}

}  // namespace kvitest
