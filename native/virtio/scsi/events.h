// The event queue of virtio-scsi (virtio 1.3, 5.6.6.3): what the driver is told unasked.
#pragma once

#include <cstddef>
#include <cstdint>

#include "native/virtio/device.h"
#include "native/virtio/queue.h"
#include "native/virtio/scsi/address.h"
#include "native/virtio/scsi/scsi.h"
#include "native/virtio/scsi/sense.h"

namespace kvitest {

inline constexpr std::uint16_t kScsiEventQueue = 1;
inline constexpr std::size_t kScsiEventBytes = 16;

// The device calls it with its lock held. An event that finds no buffer is lost; the next buffer
// says that there was one.
class ScsiEvents {
 public:
  void attach(std::uint64_t features, VirtQueue* queue, VirtioInterrupts& interrupts);
  void use(VirtQueue* queue) { queue_ = queue; }  // null: none
  void reset() { *this = {}; }

  // With HOTPLUG.
  void unit_came(const ScsiLunSpec& unit);
  void unit_went(const ScsiLunSpec& unit);
  // With CHANGE.
  void unit_changed(const ScsiLunSpec& unit, const Sense& what);
  // The driver may have given a buffer.
  void tell_missed();

  bool missed() const { return missed_; }
  void set_missed(bool missed) { missed_ = missed; }

 private:
  void tell(std::uint32_t event, const ScsiLunSpec& unit, std::uint32_t reason);
  void send(std::uint32_t event, const LunField& lun, std::uint32_t reason);

  std::uint64_t features_ = 0;
  VirtQueue* queue_ = nullptr;
  VirtioInterrupts* interrupts_ = nullptr;
  bool missed_ = false;
};

}  // namespace kvitest
