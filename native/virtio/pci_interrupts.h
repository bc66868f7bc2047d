// How a virtio-pci device interrupts: MSI-X vectors, or INTA# with the ISR status byte when the
// driver does not use MSI-X (virtio 1.3, 4.1.4.5 and 4.1.5).
#pragma once

#include <cstdint>
#include <mutex>
#include <vector>

#include "native/bus/interrupts.h"
#include "native/bus/msix.h"
#include "native/virtio/transport_interrupts.h"

namespace kvitest {

inline constexpr std::uint16_t kNoVector = 0xffff;

struct VirtioInterruptState {
  static constexpr StateTag kTag{"virtio-interrupts", 1};
  std::uint8_t status = 0;
  std::uint8_t isr = 0;
  bool intx_disabled = false;
  std::uint16_t config_vector = kNoVector;
  std::vector<std::uint16_t> queue_vectors;
  template <typename Archive>
  void fields(Archive& archive) {
    archive(status, isr, intx_disabled, config_vector, queue_vectors);
  }
};

// Locks itself; its locks are never held while a device works.
class VirtioPciInterrupts : public TransportInterrupts {
 public:
  // queue_vectors: in the table, beside the one for changes of the configuration.
  VirtioPciInterrupts(InterruptController& controller, std::uint32_t intx_gsi, std::size_t queues,
                      std::size_t queue_vectors);

  void queue_interrupt(std::uint16_t queue) override;
  void config_interrupt() override;
  // While MSI-X is on and the queue's vector is not masked.
  void add_queue_irqfd(std::uint16_t queue, int eventfd) override;
  void remove_queue_irqfd(std::uint16_t queue) override;

  Msix& msix() { return msix_; }
  const Msix& msix() const { return msix_; }
  void set_msix_control(std::uint16_t control);

  // A vector beyond the table is not assigned: the register then reads kNoVector (4.1.5.1.2.1).
  void set_config_vector(std::uint16_t vector);
  std::uint16_t config_vector() const;
  void set_queue_vector(std::uint16_t queue, std::uint16_t vector);
  std::uint16_t queue_vector(std::uint16_t queue) const;

  // Clears it and deasserts INTA# (4.1.4.5).
  std::uint8_t read_isr();
  void set_intx_disabled(bool disabled);
  bool interrupt_pending() const;  // status bit 3 of the PCI function

  // No vectors either; MSI-X itself stays.
  void reset() override;

  // For checkpoints, MSI-X included. load() throws Error (EBADMSG) and drives nothing; resume()
  // drives INTA# as it was.
  void save(StateWriter& writer) const;
  void load(StateReader& reader);
  void resume();

 private:
  void interrupt(std::uint16_t vector, std::uint8_t isr_bit);
  std::uint16_t assignable(std::uint16_t vector) const;
  bool line_level() const;
  void update_line();

  InterruptController& controller_;
  const std::uint32_t intx_gsi_;
  Msix msix_;

  mutable std::mutex mutex_;
  std::vector<int> irqfds_;     // by queue; none below 0
  VirtioInterruptState state_;  // but for the status, which is the base class's

  // Taken before mutex_, and held over set_irq_line(): two threads must not set levels in another
  // order than they computed them.
  std::mutex line_mutex_;
  bool line_ = false;  // follows from state_
};

}  // namespace kvitest
