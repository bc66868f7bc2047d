#include "native/virtio/common_config.h"

#include <algorithm>
#include <array>

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
constexpr std::uint64_t kQueueReset = 58;  // reads as 0: a write returns when the reset is done

}  // namespace

void CommonConfig::read(std::uint64_t offset, std::span<std::byte> data) {
  std::array<std::byte, kSize> image{};
  const std::span<std::byte> bytes(image);
  const auto put = [bytes](std::uint64_t at, std::size_t width, std::uint64_t value) {
    write_le(bytes.subspan(at, width), value);
  };
  const auto held = negotiation_.hold();
  const CommonConfigState& state = negotiation_.state();
  put(kDeviceFeatureSelect, 4, state.device_feature_select);
  put(kDeviceFeature, 4, negotiation_.device_features());
  put(kDriverFeatureSelect, 4, state.driver_feature_select);
  put(kDriverFeature, 4, negotiation_.driver_features());
  put(kConfigVector, 2, interrupts_.config_vector());
  put(kNumQueues, 2, queue_count());
  put(kDeviceStatus, 1, interrupts_.status());
  if (overlaps(offset, data.size(), kConfigGeneration, 1)) {
    put(kConfigGeneration, 1, device_.config_generation());
  }
  put(kQueueSelect, 2, state.queue_select);
  put(kQueueVector, 2, interrupts_.queue_vector(state.queue_select));
  // A queue that does not exist reads as size 0 (4.1.4.3.1).
  if (const QueueRegisters* registers = negotiation_.selected(); registers != nullptr) {
    put(kQueueSize, 2, registers->layout.size);
    put(kQueueEnable, 2, registers->enabled ? 1 : 0);
    put(kQueueNotifyOff, 2, state.queue_select);
    put(kQueueDesc, 8, registers->layout.descriptors);
    put(kQueueDriver, 8, registers->layout.driver);
    put(kQueueDevice, 8, registers->layout.device);
  }
  std::ranges::copy(bytes.subspan(offset, data.size()), data.begin());
}

void CommonConfig::write(std::uint64_t offset, std::span<const std::byte> data) {
  const auto held = negotiation_.hold();
  if (data.size() == 8 && offset >= kQueueDesc) {
    write_field(offset, 4, read_le(data.first(4)));
    write_field(offset + 4, 4, read_le(data.last(4)));
    return;
  }
  write_field(offset, data.size(), read_le(data));
}

void CommonConfig::write_field(std::uint64_t offset, std::size_t width, std::uint64_t value) {
  const auto word = static_cast<std::uint32_t>(value);
  switch (offset) {
    case kDeviceFeatureSelect:
      if (width == 4) negotiation_.select_device_features(word);
      return;
    case kDriverFeatureSelect:
      if (width == 4) negotiation_.select_driver_features(word);
      return;
    case kDriverFeature:
      if (width == 4) negotiation_.set_driver_features(word);
      return;
    case kConfigVector:
      if (width == 2) interrupts_.set_config_vector(static_cast<std::uint16_t>(value));
      return;
    case kDeviceStatus:
      if (width == 1) negotiation_.set_status(static_cast<std::uint8_t>(value));
      return;
    case kQueueSelect:
      if (width == 2) negotiation_.select_queue(static_cast<std::uint16_t>(value));
      return;
    default:
      write_queue_field(offset, width, value);
      return;
  }
}

void CommonConfig::write_queue_field(std::uint64_t offset, std::size_t width, std::uint64_t value) {
  using Area = Negotiation::Area;
  if (width == 2 && offset == kQueueVector) {
    interrupts_.set_queue_vector(negotiation_.state().queue_select,
                                 static_cast<std::uint16_t>(value));
    return;
  }
  if (width == 2 && offset == kQueueSize) negotiation_.set_size(static_cast<std::uint16_t>(value));
  if (width == 2 && offset == kQueueEnable && value == 1) negotiation_.enable();
  // 2.6.1.1.1: any state of the queue, so its vector too.
  if (width == 2 && offset == kQueueReset && value == 1 && negotiation_.reset_queue()) {
    interrupts_.set_queue_vector(negotiation_.state().queue_select, kNoVector);
  }
  if (width != 4 || offset % 4 != 0) return;
  const bool high = offset % 8 == 4;
  const auto word = static_cast<std::uint32_t>(value);
  const std::uint64_t field = offset & ~std::uint64_t{7};
  if (field == kQueueDesc) negotiation_.set_address(Area::kDescriptors, high, word);
  if (field == kQueueDriver) negotiation_.set_address(Area::kDriver, high, word);
  if (field == kQueueDevice) negotiation_.set_address(Area::kDevice, high, word);
}

}  // namespace kvitest
