// virtio over MMIO, version 2 (virtio 1.3, 4.2): 4 KiB of registers and one level-triggered
// interrupt.
#pragma once

#include <cstdint>
#include <memory>

#include "native/bus/interrupts.h"
#include "native/bus/io_bus.h"
#include "native/memory/guest_memory.h"
#include "native/state/archive.h"
#include "native/virtio/device.h"

namespace kvitest {

inline constexpr std::uint64_t kVirtioMmioSize = 0x1000;

class VirtioMmio {
 public:
  virtual ~VirtioMmio() = default;
  // For checkpoints, with no vCPU running, the device included. load() goes to a transport just
  // built, leaves guest memory and interrupts alone and throws Error (EBADMSG).
  virtual void save(StateWriter& writer) const = 0;
  virtual void load(StateReader& reader) = 0;
  // The whole machine is loaded: work that was waiting goes on.
  virtual void resume() = 0;
};

// gsi: when several devices share it, `interrupts` is a SharedLines::Source. Destroying the
// transport detaches the device. Throws Error (EEXIST) when the place is taken.
std::unique_ptr<VirtioMmio> make_virtio_mmio(VirtioDevice& device, GuestMemory& memory, IoBus& mmio,
                                             InterruptController& interrupts, std::uint64_t base,
                                             std::uint32_t gsi);

}  // namespace kvitest
