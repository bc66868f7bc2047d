#include "native/virtio/common_config.h"

#include <algorithm>
#include <array>

#include "native/bus/little_endian.h"
#include "native/bus/pci_config.h"

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
  for (const std::uint16_t size : device.queue_sizes()) {
    QueueRegisters registers;
    registers.max_size = size;
    registers.layout.size = size;
    queues_.push_back(std::move(registers));
  }
}

CommonConfig::~CommonConfig() {
  const std::lock_guard lock(mutex_);
  if (active_) device_.detach();
}

std::uint64_t CommonConfig::offered() const {
  return device_.features() | kFeatureIndirectDesc | kFeatureEventIdx | kFeatureVersion1;
}

CommonConfig::QueueRegisters* CommonConfig::selected() {
  return queue_select_ < queues_.size() ? &queues_[queue_select_] : nullptr;
}

void CommonConfig::read(std::uint64_t offset, std::span<std::byte> data) {
  std::array<std::byte, kSize> image{};
  const std::span<std::byte> bytes(image);
  const auto put = [bytes](std::uint64_t at, std::size_t width, std::uint64_t value) {
    write_le(bytes.subspan(at, width), value);
  };
  const std::lock_guard lock(mutex_);
  put(kDeviceFeatureSelect, 4, device_feature_select_);
  put(kDeviceFeature, 4, half(offered(), device_feature_select_));
  put(kDriverFeatureSelect, 4, driver_feature_select_);
  put(kDriverFeature, 4, half(driver_features_, driver_feature_select_));
  put(kConfigVector, 2, interrupts_.config_vector());
  put(kNumQueues, 2, queues_.size());
  put(kDeviceStatus, 1, interrupts_.status());
  if (overlaps(offset, data.size(), kConfigGeneration, 1)) {
    put(kConfigGeneration, 1, device_.config_generation());
  }
  put(kQueueSelect, 2, queue_select_);
  put(kQueueVector, 2, interrupts_.queue_vector(queue_select_));
  // A queue that does not exist reads as size 0 (4.1.4.3.1).
  if (const QueueRegisters* registers = selected(); registers != nullptr) {
    put(kQueueSize, 2, registers->layout.size);
    put(kQueueEnable, 2, registers->enabled ? 1 : 0);
    put(kQueueNotifyOff, 2, queue_select_);
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
      if (width == 4) device_feature_select_ = static_cast<std::uint32_t>(value);
      return;
    case kDriverFeatureSelect:
      if (width == 4) driver_feature_select_ = static_cast<std::uint32_t>(value);
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
      if (width == 2) queue_select_ = static_cast<std::uint16_t>(value);
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
    interrupts_.set_queue_vector(queue_select_, static_cast<std::uint16_t>(value));
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
  if (driver_feature_select_ < 2) {
    set_half(driver_features_, driver_feature_select_ == 1, value);
  } else if (value != 0) {
    unknown_features_ = true;
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
  const bool acceptable = !unknown_features_ && (driver_features_ & ~offered()) == 0 &&
                          (driver_features_ & kFeatureVersion1) != 0;
  if (!acceptable) added &= static_cast<std::uint8_t>(~kStatusFeaturesOk);
  if (((current | added) & kStatusFeaturesOk) == 0) {
    added &= static_cast<std::uint8_t>(~kStatusDriverOk);
  }
  // The bit first: a device that finds a queue broken while it activates tells the driver.
  interrupts_.add_status(added);
  if ((added & kStatusDriverOk) != 0) activate();
}

void CommonConfig::enable(QueueRegisters& registers) {
  // 3.1.1: queues are set up before DRIVER_OK.
  if ((interrupts_.status() & kStatusDriverOk) != 0) return;
  if (check_split_layout(memory_, registers.layout, registers.max_size) != QueueFault::kNone) {
    interrupts_.needs_reset();
    return;
  }
  registers.enabled = true;
}

void CommonConfig::activate() {
  if ((interrupts_.status() & kStatusNeedsReset) != 0) return;
  const QueueFeatures features{.indirect = (driver_features_ & kFeatureIndirectDesc) != 0,
                               .event_index = (driver_features_ & kFeatureEventIdx) != 0};
  std::vector<VirtQueue*> queues;
  for (QueueRegisters& registers : queues_) {
    if (registers.enabled) {
      registers.queue = make_split_queue(memory_, registers.layout, features, interrupts_);
    }
    queues.push_back(registers.queue.get());
  }
  active_ = true;
  device_.activate(driver_features_, queues, interrupts_);
}

void CommonConfig::reset() {
  if (active_) device_.reset();
  active_ = false;
  interrupts_.reset();
  device_feature_select_ = 0;
  driver_feature_select_ = 0;
  driver_features_ = 0;
  unknown_features_ = false;
  queue_select_ = 0;
  for (QueueRegisters& registers : queues_) {
    registers.queue.reset();
    registers.enabled = false;
    registers.layout = QueueLayout{.size = registers.max_size};
  }
}

}  // namespace kvitest
