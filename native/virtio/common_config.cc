#include "native/virtio/common_config.h"

#include <algorithm>
#include <array>
#include <string>
#include <utility>

#include "native/bus/pci_config.h"
#include "native/little_endian.h"

namespace kvitest {
namespace {

// Offsets of struct virtio_pci_common_cfg.
constexpr std::uint64_t kDeviceFeatureSelect = 0;
constexpr std::uint64_t kDeviceFeature = 4;
constexpr std::uint64_t kDriverFeatureSelect = 8;
constexpr std::uint64_t kDriverFeature = 12;
constexpr std::uint64_t kConfigVector = 16;
constexpr std::uint64_t kNumQueues = 18;
constexpr std::uint64_t kDeviceStatus = 20;
constexpr std::uint64_t kConfigGeneration = 21;
constexpr std::uint64_t kQueueSelect = 22;
constexpr std::uint64_t kQueueSize = 24;
constexpr std::uint64_t kQueueVector = 26;
constexpr std::uint64_t kQueueEnable = 28;
constexpr std::uint64_t kQueueNotifyOff = 30;
constexpr std::uint64_t kQueueDesc = 32;
constexpr std::uint64_t kQueueDriver = 40;
constexpr std::uint64_t kQueueDevice = 48;

constexpr std::uint8_t kDriverStatusBits =
    kStatusAcknowledge | kStatusDriver | kStatusDriverOk | kStatusFeaturesOk | kStatusFailed;

std::uint64_t half(std::uint64_t value, std::uint32_t select) {
  return select < 2 ? (value >> (32 * select)) & 0xffff'ffff : 0;
}

void set_half(std::uint64_t& value, bool high, std::uint64_t word) {
  const unsigned shift = high ? 32 : 0;
  value = (value & ~(std::uint64_t{0xffff'ffff} << shift)) | (word << shift);
}

}  // namespace

CommonConfig::CommonConfig(VirtioDevice& device, GuestMemory& memory,
                           VirtioPciInterrupts& interrupts)
    : device_(device), memory_(memory), interrupts_(interrupts) {
  max_sizes_ = device.queue_sizes();
  queues_.resize(max_sizes_.size());
  for (const std::uint16_t size : max_sizes_) {
    state_.queues.push_back({.layout = {.size = size}});
  }
}

CommonConfig::~CommonConfig() {
  const std::lock_guard lock(mutex_);
  if (state_.active) device_.detach();
}

std::uint64_t CommonConfig::offered() const {
  return (device_.features() | kFeatureIndirectDesc | kFeatureEventIdx | kFeatureVersion1) &
         ~device_.withheld();
}

QueueRegisters* CommonConfig::selected() {
  return state_.queue_select < state_.queues.size() ? &state_.queues[state_.queue_select] : nullptr;
}

void CommonConfig::read(std::uint64_t offset, std::span<std::byte> data) {
  std::array<std::byte, kSize> image{};
  const std::span<std::byte> bytes(image);
  const auto put = [bytes](std::uint64_t at, std::size_t width, std::uint64_t value) {
    write_le(bytes.subspan(at, width), value);
  };
  const std::lock_guard lock(mutex_);
  put(kDeviceFeatureSelect, 4, state_.device_feature_select);
  put(kDeviceFeature, 4, half(offered(), state_.device_feature_select));
  put(kDriverFeatureSelect, 4, state_.driver_feature_select);
  put(kDriverFeature, 4, half(state_.driver_features, state_.driver_feature_select));
  put(kConfigVector, 2, interrupts_.config_vector());
  put(kNumQueues, 2, queue_count());
  put(kDeviceStatus, 1, interrupts_.status());
  if (overlaps(offset, data.size(), kConfigGeneration, 1)) {
    put(kConfigGeneration, 1, device_.config_generation());
  }
  put(kQueueSelect, 2, state_.queue_select);
  put(kQueueVector, 2, interrupts_.queue_vector(state_.queue_select));
  // A queue that does not exist reads as size 0 (4.1.4.3.1).
  if (const QueueRegisters* registers = selected(); registers != nullptr) {
    put(kQueueSize, 2, registers->layout.size);
    put(kQueueEnable, 2, registers->enabled ? 1 : 0);
    put(kQueueNotifyOff, 2, state_.queue_select);
    put(kQueueDesc, 8, registers->layout.descriptors);
    put(kQueueDriver, 8, registers->layout.driver);
    put(kQueueDevice, 8, registers->layout.device);
  }
  std::ranges::copy(bytes.subspan(offset, data.size()), data.begin());
}

void CommonConfig::write(std::uint64_t offset, std::span<const std::byte> data) {
  const std::lock_guard lock(mutex_);
  if (data.size() == 8 && offset >= kQueueDesc) {
    write_field(offset, 4, read_le(data.first(4)));
    write_field(offset + 4, 4, read_le(data.last(4)));
    return;
  }
  write_field(offset, data.size(), read_le(data));
}

void CommonConfig::write_field(std::uint64_t offset, std::size_t width, std::uint64_t value) {
  switch (offset) {
    case kDeviceFeatureSelect:
      if (width == 4) state_.device_feature_select = static_cast<std::uint32_t>(value);
      return;
    case kDriverFeatureSelect:
      if (width == 4) state_.driver_feature_select = static_cast<std::uint32_t>(value);
      return;
    case kDriverFeature:
      if (width == 4) write_driver_feature(static_cast<std::uint32_t>(value));
      return;
    case kConfigVector:
      if (width == 2) interrupts_.set_config_vector(static_cast<std::uint16_t>(value));
      return;
    case kDeviceStatus:
      if (width == 1) write_status(static_cast<std::uint8_t>(value));
      return;
    case kQueueSelect:
      if (width == 2) state_.queue_select = static_cast<std::uint16_t>(value);
      return;
    default:
      write_queue_field(offset, width, value);
      return;
  }
}

void CommonConfig::write_queue_field(std::uint64_t offset, std::size_t width, std::uint64_t value) {
  QueueRegisters* registers = selected();
  if (registers == nullptr) return;
  if (width == 2 && offset == kQueueVector) {
    interrupts_.set_queue_vector(state_.queue_select, static_cast<std::uint16_t>(value));
    return;
  }
  // An enabled queue's layout was checked and must stay what it was.
  if (registers->enabled) return;
  QueueLayout& layout = registers->layout;
  if (width == 2 && offset == kQueueSize) layout.size = static_cast<std::uint16_t>(value);
  if (width == 2 && offset == kQueueEnable && value == 1) enable(*registers);
  if (width != 4) return;
  const std::uint64_t field = offset & ~std::uint64_t{7};
  const bool high = offset % 8 == 4;
  if (offset % 4 != 0) return;
  if (field == kQueueDesc) set_half(layout.descriptors, high, value);
  if (field == kQueueDriver) set_half(layout.driver, high, value);
  if (field == kQueueDevice) set_half(layout.device, high, value);
}

void CommonConfig::write_driver_feature(std::uint32_t value) {
  // 3.1.1: what was accepted with FEATURES_OK stays.
  if ((interrupts_.status() & kStatusFeaturesOk) != 0) return;
  if (state_.driver_feature_select < 2) {
    set_half(state_.driver_features, state_.driver_feature_select == 1, value);
  } else if (value != 0) {
    state_.unknown_features = true;
  }
}

void CommonConfig::write_status(std::uint8_t value) {
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

bool CommonConfig::features_acceptable(const CommonConfigState& state) const {
  return !state.unknown_features && (state.driver_features & ~offered()) == 0 &&
         (state.driver_features & kFeatureVersion1) != 0;
}

void CommonConfig::enable(QueueRegisters& registers) {
  // 3.1.1: queues are set up before DRIVER_OK.
  if ((interrupts_.status() & kStatusDriverOk) != 0) return;
  const std::uint16_t max_size = max_sizes_[state_.queue_select];
  if (check_split_layout(memory_, registers.layout, max_size) != QueueFault::kNone) {
    interrupts_.needs_reset();
    return;
  }
  registers.enabled = true;
}

std::vector<VirtQueue*> CommonConfig::make_queues(const CommonConfigQueues& saved) {
  const QueueFeatures features{.indirect = (state_.driver_features & kFeatureIndirectDesc) != 0,
                               .event_index = (state_.driver_features & kFeatureEventIdx) != 0};
  std::vector<VirtQueue*> queues;
  for (std::size_t i = 0; i < queues_.size(); ++i) {
    if (state_.queues[i].enabled) {
      const QueueState state =
          i < saved.queues.size() && saved.queues[i] ? *saved.queues[i] : QueueState{};
      queues_[i] = make_split_queue(memory_, state_.queues[i].layout, features, interrupts_, state);
    }
    queues.push_back(queues_[i].get());
  }
  return queues;
}

void CommonConfig::activate() {
  if ((interrupts_.status() & kStatusNeedsReset) != 0) return;
  const std::vector<VirtQueue*> queues = make_queues({});
  state_.active = true;
  device_.activate(state_.driver_features, queues, interrupts_);
}

void CommonConfig::reset() {
  if (state_.active) device_.reset();
  interrupts_.reset();
  CommonConfigState fresh;
  for (const std::uint16_t size : max_sizes_) fresh.queues.push_back({.layout = {.size = size}});
  state_ = std::move(fresh);
  for (auto& queue : queues_) queue.reset();
}

void CommonConfig::save(StateWriter& writer) const {
  const std::lock_guard lock(mutex_);
  writer.save(state_);
  CommonConfigQueues saved;
  for (const auto& queue : queues_) {
    saved.queues.push_back(queue == nullptr ? std::nullopt : std::optional(queue->state()));
  }
  writer.save(saved);
  device_.save(writer);
}

void CommonConfig::check(const CommonConfigState& state, const CommonConfigQueues& saved,
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
  for (std::size_t i = 0; i < max_sizes_.size(); ++i) {
    const QueueRegisters& registers = state.queues[i];
    if (registers.enabled &&
        check_split_layout(memory_, registers.layout, max_sizes_[i]) != QueueFault::kNone) {
      reader.fail("queue " + std::to_string(i) + " lies where no queue can");
    }
    if (saved.queues[i].has_value() != (state.active && registers.enabled)) {
      reader.fail("queue " + std::to_string(i) + " has a position and is not in use, or reversed");
    }
    if (saved.queues[i] && saved.queues[i]->fault > QueueFault::kBufferTooLarge) {
      reader.fail("queue " + std::to_string(i) + " has a fault of no known kind");
    }
  }
}

void CommonConfig::load(StateReader& reader) {
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

void CommonConfig::resume() {
  const std::lock_guard lock(mutex_);
  device_.resume();
}

}  // namespace kvitest
