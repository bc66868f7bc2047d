#include "native/virtio/negotiation.h"

#include <string>
#include <utility>

namespace kvitest {
namespace {

constexpr std::uint8_t kDriverStatusBits =
    kStatusAcknowledge | kStatusDriver | kStatusDriverOk | kStatusFeaturesOk | kStatusFailed;

std::uint32_t half(std::uint64_t value, std::uint32_t select) {
  return select < 2 ? static_cast<std::uint32_t>(value >> (32 * select)) : 0;
}

void set_half(std::uint64_t& value, bool high, std::uint32_t word) {
  const unsigned shift = high ? 32 : 0;
  value = (value & ~(std::uint64_t{0xffff'ffff} << shift)) | (std::uint64_t{word} << shift);
}

}  // namespace

Negotiation::Negotiation(VirtioDevice& device, GuestMemory& memory, TransportInterrupts& interrupts)
    : device_(device), memory_(memory), interrupts_(interrupts) {
  max_sizes_ = odd_queue_sizes(device.queue_sizes(), device.personality());
  queues_.resize(max_sizes_.size());
  for (const std::uint16_t size : max_sizes_) {
    state_.queues.push_back({.layout = {.size = size}});
  }
}

Negotiation::~Negotiation() {
  const std::lock_guard lock(mutex_);
  if (state_.active) device_.detach();
}

std::uint64_t Negotiation::offered() const {
  return (device_.features() | kUsualTransportFeatures | device_.asked_for()) & ~device_.withheld();
}

std::uint32_t Negotiation::device_features() const {
  return half(offered(), state_.device_feature_select);
}

std::uint32_t Negotiation::driver_features() const {
  return half(state_.driver_features, state_.driver_feature_select);
}

const QueueRegisters* Negotiation::selected() const {
  return state_.queue_select < state_.queues.size() ? &state_.queues[state_.queue_select] : nullptr;
}

std::uint16_t Negotiation::max_size() const {
  return state_.queue_select < max_sizes_.size() ? max_sizes_[state_.queue_select]
                                                 : std::uint16_t{0};
}

// An enabled queue's layout was checked and must stay what it was.
QueueRegisters* Negotiation::writable() {
  if (state_.queue_select >= state_.queues.size()) return nullptr;
  QueueRegisters& registers = state_.queues[state_.queue_select];
  return registers.enabled ? nullptr : &registers;
}

void Negotiation::set_size(std::uint16_t size) {
  if (device_.personality().fixed_queue_size) return;
  if (QueueRegisters* registers = writable()) registers->layout.size = size;
}

void Negotiation::set_address(Area area, bool high, std::uint32_t word) {
  QueueRegisters* registers = writable();
  if (registers == nullptr) return;
  QueueLayout& layout = registers->layout;
  switch (area) {
    case Area::kDescriptors:
      return set_half(layout.descriptors, high, word);
    case Area::kDriver:
      return set_half(layout.driver, high, word);
    case Area::kDevice:
      return set_half(layout.device, high, word);
  }
}

void Negotiation::set_driver_features(std::uint32_t value) {
  // 3.1.1: what was accepted with FEATURES_OK stays.
  if ((interrupts_.status() & kStatusFeaturesOk) != 0) return;
  if (state_.driver_feature_select < 2) {
    set_half(state_.driver_features, state_.driver_feature_select == 1, value);
  } else if (value != 0) {
    state_.unknown_features = true;
  }
}

void Negotiation::set_status(std::uint8_t value) {
  if (value == 0) {
    reset();
    return;
  }
  const std::uint8_t current = interrupts_.status() & kDriverStatusBits;
  value &= kDriverStatusBits;
  // 2.1.1: a driver does not clear bits but by a reset.
  if ((current & ~value) != 0) return;
  auto added = static_cast<std::uint8_t>(value & ~current);
  if (!features_acceptable(state_)) added &= static_cast<std::uint8_t>(~kStatusFeaturesOk);
  if (((current | added) & kStatusFeaturesOk) == 0) {
    added &= static_cast<std::uint8_t>(~kStatusDriverOk);
  }
  // The bit first: a device that finds a queue broken while it activates tells the driver.
  interrupts_.add_status(added);
  if ((added & kStatusDriverOk) != 0) activate();
}

bool Negotiation::features_acceptable(const CommonConfigState& state) const {
  return !state.unknown_features && (state.driver_features & ~offered()) == 0 &&
         (state.driver_features & kFeatureVersion1) != 0;
}

QueueFeatures Negotiation::queue_features(std::uint64_t driver_features) const {
  return {.indirect = (driver_features & kFeatureIndirectDesc) != 0,
          .event_index = (driver_features & kFeatureEventIdx) != 0,
          .packed = (driver_features & kFeatureRingPacked) != 0,
          .in_order = (driver_features & kFeatureInOrder) != 0};
}

void Negotiation::enable() {
  QueueRegisters* registers = writable();
  // 3.1.1: queues are set up before DRIVER_OK; 2.6.1.2: or again, after a reset of the queue.
  if (registers == nullptr || (driver_ok() && !registers->was_reset)) return;
  const QueueFeatures features = queue_features(state_.driver_features);
  if (check_layout(memory_, registers->layout, max_size(), features.packed) != QueueFault::kNone) {
    interrupts_.needs_reset();
    return;
  }
  registers->enabled = true;
  registers->was_reset = false;
  if (!state_.active) return;
  const std::uint16_t index = state_.queue_select;
  queues_[index] = odd_queue(
      make_queue(memory_, registers->layout, features, interrupts_, fresh_queue_state(features)),
      device_.personality());
  device_.enable_queue(index, *queues_[index]);
}

bool Negotiation::reset_queue() {
  const std::uint16_t index = state_.queue_select;
  if (index >= state_.queues.size() || (state_.driver_features & kFeatureRingReset) == 0 ||
      (interrupts_.status() & kStatusFeaturesOk) == 0) {
    return false;
  }
  if (queues_[index] != nullptr) device_.reset_queue(index);
  queues_[index].reset();
  // A queue that was never enabled is none that could be again.
  QueueRegisters& registers = state_.queues[index];
  const bool again = registers.enabled || registers.was_reset;
  registers = {.layout = {.size = max_sizes_[index]}, .was_reset = again};
  return true;
}

void Negotiation::disable() {
  const std::uint16_t index = state_.queue_select;
  if (index >= state_.queues.size() || !state_.queues[index].enabled) return;
  if (queues_[index] != nullptr) {
    if (!device_.resets_queues()) return;
    device_.reset_queue(index);
    queues_[index].reset();
    state_.queues[index].was_reset = true;
  }
  state_.queues[index].enabled = false;
}

std::vector<VirtQueue*> Negotiation::make_queues(const CommonConfigQueues& saved) {
  const QueueFeatures features = queue_features(state_.driver_features);
  std::vector<VirtQueue*> queues;
  for (std::size_t i = 0; i < queues_.size(); ++i) {
    if (state_.queues[i].enabled) {
      const QueueState state = i < saved.queues.size() && saved.queues[i]
                                   ? *saved.queues[i]
                                   : fresh_queue_state(features);
      queues_[i] =
          odd_queue(make_queue(memory_, state_.queues[i].layout, features, interrupts_, state),
                    device_.personality());
    }
    queues.push_back(queues_[i].get());
  }
  return queues;
}

void Negotiation::activate() {
  if ((interrupts_.status() & kStatusNeedsReset) != 0) return;
  const std::vector<VirtQueue*> queues = make_queues({});
  state_.active = true;
  device_.activate(state_.driver_features, queues, interrupts_);
}

void Negotiation::reset() {
  if (state_.active) device_.reset();
  interrupts_.reset();
  CommonConfigState fresh;
  for (const std::uint16_t size : max_sizes_) fresh.queues.push_back({.layout = {.size = size}});
  state_ = std::move(fresh);
  for (auto& queue : queues_) queue.reset();
}

void Negotiation::save(StateWriter& writer) const {
  const std::lock_guard lock(mutex_);
  writer.save(state_);
  CommonConfigQueues saved;
  for (const auto& queue : queues_) {
    saved.queues.push_back(queue == nullptr ? std::nullopt : std::optional(queue->state()));
  }
  writer.save(saved);
  device_.save(writer);
}

void Negotiation::check(const CommonConfigState& state, const CommonConfigQueues& saved,
                        const StateReader& reader) const {
  if (state.queues.size() != max_sizes_.size() || saved.queues.size() != max_sizes_.size()) {
    reader.fail("another number of queues than this device's " + std::to_string(max_sizes_.size()));
  }
  const std::uint8_t status = interrupts_.status();
  if ((status & kStatusFeaturesOk) != 0 && !features_acceptable(state)) {
    reader.fail("features that this device does not offer");
  }
  if (state.active && ((status & kStatusDriverOk) == 0 || (status & kStatusFeaturesOk) == 0)) {
    reader.fail("active without DRIVER_OK");
  }
  const QueueFeatures features = queue_features(state.driver_features);
  for (std::size_t i = 0; i < max_sizes_.size(); ++i) {
    const QueueRegisters& registers = state.queues[i];
    if (registers.enabled && check_layout(memory_, registers.layout, max_sizes_[i],
                                          features.packed) != QueueFault::kNone) {
      reader.fail("queue " + std::to_string(i) + " lies where no queue can");
    }
    if (registers.was_reset && registers.enabled) {
      reader.fail("queue " + std::to_string(i) + " was reset and is in use");
    }
    if (saved.queues[i].has_value() != (state.active && registers.enabled)) {
      reader.fail("queue " + std::to_string(i) + " has a position and is not in use, or reversed");
    }
    if (saved.queues[i] && !possible(*saved.queues[i], registers.layout.size, features)) {
      reader.fail("queue " + std::to_string(i) + " has a position or a fault that cannot be");
    }
  }
}

void Negotiation::load(StateReader& reader) {
  const std::lock_guard lock(mutex_);
  CommonConfigState state = reader.load<CommonConfigState>();
  const auto saved = reader.load<CommonConfigQueues>();
  check(state, saved, reader);
  // Active even if the device then refuses what it reads: it is detached like any other.
  state_ = std::move(state);
  if (!state_.active) {
    device_.load(reader, nullptr);
    return;
  }
  const std::vector<VirtQueue*> queues = make_queues(saved);
  const VirtioActivation activation{state_.driver_features, queues, interrupts_};
  device_.load(reader, &activation);
}

void Negotiation::resume() {
  const std::lock_guard lock(mutex_);
  device_.resume();
}

}  // namespace kvitest
