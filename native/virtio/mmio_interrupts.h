// How a virtio-mmio device interrupts: one line, high while the interrupt status register has a bit
// that the driver has not acknowledged (virtio 1.3, 4.2.2).
#pragma once

#include <cstdint>
#include <mutex>

#include "native/bus/interrupts.h"
#include "native/state/archive.h"
#include "native/virtio/transport_interrupts.h"

namespace kvitest {

struct MmioInterruptState {
  static constexpr StateTag kTag{"virtio-mmio-interrupts", 1};
  std::uint8_t status = 0;
  std::uint8_t pending = 0;
  template <typename Archive>
  void fields(Archive& archive) {
    archive(status, pending);
  }
};

// Locks itself; its lock is never held while a device works.
class VirtioMmioInterrupts : public TransportInterrupts {
 public:
  VirtioMmioInterrupts(InterruptController& controller, std::uint32_t gsi)
      : controller_(controller), gsi_(gsi) {}

  void queue_interrupt(std::uint16_t) override { change(0, kIsrQueue); }
  void config_interrupt() override { change(0, kIsrConfig); }

  std::uint8_t pending() const;
  void acknowledge(std::uint8_t bits) { change(bits, 0); }
  void reset() override;

  // For checkpoints. load() throws Error (EBADMSG) and drives nothing; resume() drives the line as
  // it was.
  void save(StateWriter& writer) const;
  void load(StateReader& reader);
  void resume();

 private:
  void change(std::uint8_t clear, std::uint8_t set);

  InterruptController& controller_;
  const std::uint32_t gsi_;
  // Held over set_irq_line(): two threads must not set levels in another order than they computed
  // them.
  mutable std::mutex mutex_;
  std::uint8_t pending_ = 0;
};

}  // namespace kvitest
