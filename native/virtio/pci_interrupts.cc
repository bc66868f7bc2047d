#include "native/virtio/pci_interrupts.h"

#include <algorithm>
#include <utility>

namespace kvitest {
namespace {

constexpr std::uint8_t kIsrQueue = 1;
constexpr std::uint8_t kIsrConfig = 2;

}  // namespace

VirtioPciInterrupts::VirtioPciInterrupts(InterruptController& controller, std::uint32_t intx_gsi,
                                         std::uint16_t queues)
    : controller_(controller),
      intx_gsi_(intx_gsi),
      msix_(static_cast<std::uint16_t>(queues + 1), controller),
      queue_vectors_(queues, kNoVector) {}

void VirtioPciInterrupts::queue_interrupt(std::uint16_t queue) {
  interrupt(queue_vector(queue), kIsrQueue);
}

void VirtioPciInterrupts::config_interrupt() {
  interrupt(config_vector(), kIsrConfig);
}

void VirtioPciInterrupts::needs_reset() {
  const std::uint8_t before = status_.fetch_or(kStatusNeedsReset);
  const bool first = (before & kStatusNeedsReset) == 0;
  // 2.1.2: the driver is told only once it has set DRIVER_OK.
  if (first && (before & kStatusDriverOk) != 0) config_interrupt();
}

void VirtioPciInterrupts::interrupt(std::uint16_t vector, std::uint8_t isr_bit) {
  if (msix_.enabled()) {
    msix_.raise(vector);
    return;
  }
  {
    const std::lock_guard lock(mutex_);
    isr_ |= isr_bit;
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
  config_vector_ = assignable(vector);
}

std::uint16_t VirtioPciInterrupts::config_vector() const {
  const std::lock_guard lock(mutex_);
  return config_vector_;
}

void VirtioPciInterrupts::set_queue_vector(std::uint16_t queue, std::uint16_t vector) {
  const std::lock_guard lock(mutex_);
  if (queue < queue_vectors_.size()) queue_vectors_[queue] = assignable(vector);
}

std::uint16_t VirtioPciInterrupts::queue_vector(std::uint16_t queue) const {
  const std::lock_guard lock(mutex_);
  return queue < queue_vectors_.size() ? queue_vectors_[queue] : kNoVector;
}

std::uint8_t VirtioPciInterrupts::read_isr() {
  std::uint8_t isr = 0;
  {
    const std::lock_guard lock(mutex_);
    isr = std::exchange(isr_, 0);
  }
  update_line();
  return isr;
}

void VirtioPciInterrupts::set_intx_disabled(bool disabled) {
  {
    const std::lock_guard lock(mutex_);
    if (intx_disabled_ == disabled) return;
    intx_disabled_ = disabled;
  }
  update_line();
}

bool VirtioPciInterrupts::interrupt_pending() const {
  const bool msix = msix_.enabled();
  const std::lock_guard lock(mutex_);
  return isr_ != 0 && !msix;
}

void VirtioPciInterrupts::reset() {
  {
    const std::lock_guard lock(mutex_);
    isr_ = 0;
    config_vector_ = kNoVector;
    std::ranges::fill(queue_vectors_, kNoVector);
  }
  status_.store(0);
  update_line();
}

void VirtioPciInterrupts::update_line() {
  const std::lock_guard line_lock(line_mutex_);
  const bool msix = msix_.enabled();
  bool level = false;
  {
    const std::lock_guard lock(mutex_);
    level = isr_ != 0 && !msix && !intx_disabled_;
  }
  if (level == line_) return;
  line_ = level;
  controller_.set_irq_line(intx_gsi_, level);
}

}  // namespace kvitest
