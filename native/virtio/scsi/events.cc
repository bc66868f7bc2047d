#include "native/virtio/scsi/events.h"

#include <algorithm>
#include <array>
#include <optional>

#include "native/little_endian.h"

namespace kvitest {
namespace {

constexpr std::uint32_t kMissed = 0x8000'0000;
constexpr std::uint32_t kNoEvent = 0;
constexpr std::uint32_t kTransportReset = 1;
constexpr std::uint32_t kParameterChange = 3;
constexpr std::uint32_t kRescan = 1;
constexpr std::uint32_t kRemoved = 2;

}  // namespace

void ScsiEvents::attach(std::uint64_t features, VirtQueue* queue, VirtioInterrupts& interrupts) {
  features_ = features;
  queue_ = queue;
  interrupts_ = &interrupts;
}

void ScsiEvents::unit_came(const ScsiLunSpec& unit) {
  if ((features_ & kScsiHotplug) != 0) tell(kTransportReset, unit, kRescan);
}

void ScsiEvents::unit_went(const ScsiLunSpec& unit) {
  if ((features_ & kScsiHotplug) != 0) tell(kTransportReset, unit, kRemoved);
}

void ScsiEvents::unit_changed(const ScsiLunSpec& unit, const Sense& what) {
  if ((features_ & kScsiChange) != 0) {
    tell(kParameterChange, unit, what.code | what.qualifier << 8);
  }
}

void ScsiEvents::tell_missed() {
  if (missed_) send(kNoEvent, {}, 0);
}

void ScsiEvents::tell(std::uint32_t event, const ScsiLunSpec& unit, std::uint32_t reason) {
  LunField field{};
  field[0] = std::byte{1};
  field[1] = std::byte{unit.target};
  field[3] = std::byte{unit.lun};
  send(event, field, reason);
}

void ScsiEvents::send(std::uint32_t event, const LunField& lun, std::uint32_t reason) {
  if (interrupts_ == nullptr) return;
  std::optional<DescriptorChain> chain;
  if (queue_ != nullptr) chain = queue_->pop();
  if (!chain) {
    missed_ = true;
    return;
  }
  std::array<std::byte, kScsiEventBytes> bytes{};
  if (chain->writable() < bytes.size()) {
    missed_ = true;
  } else {
    store_le<std::uint32_t>(bytes, 0, event | (missed_ ? kMissed : 0));
    std::ranges::copy(lun, bytes.begin() + 4);
    store_le<std::uint32_t>(bytes, 12, reason);
    chain->write(bytes);
    missed_ = false;
  }
  queue_->push_used(*chain, chain->written());
  if (queue_->needs_interrupt()) interrupts_->queue_interrupt(kScsiEventQueue);
}

}  // namespace kvitest
