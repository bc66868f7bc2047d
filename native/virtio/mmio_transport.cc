#include "native/virtio/mmio_transport.h"

#include <algorithm>

#include "native/little_endian.h"
#include "native/virtio/mmio_interrupts.h"
#include "native/virtio/negotiation.h"

namespace kvitest {
namespace {

// Registers (4.2.2).
constexpr std::uint64_t kMagicValue = 0x000;
constexpr std::uint64_t kVersion = 0x004;
constexpr std::uint64_t kDeviceId = 0x008;
constexpr std::uint64_t kVendorId = 0x00c;
constexpr std::uint64_t kDeviceFeatures = 0x010;
constexpr std::uint64_t kDeviceFeaturesSel = 0x014;
constexpr std::uint64_t kDriverFeatures = 0x020;
constexpr std::uint64_t kDriverFeaturesSel = 0x024;
constexpr std::uint64_t kQueueSel = 0x030;
constexpr std::uint64_t kQueueSizeMax = 0x034;
constexpr std::uint64_t kQueueSize = 0x038;
constexpr std::uint64_t kQueueReady = 0x044;
constexpr std::uint64_t kQueueNotify = 0x050;
constexpr std::uint64_t kInterruptStatus = 0x060;
constexpr std::uint64_t kInterruptAck = 0x064;
constexpr std::uint64_t kStatus = 0x070;
constexpr std::uint64_t kQueueDescLow = 0x080;
constexpr std::uint64_t kQueueDescHigh = 0x084;
constexpr std::uint64_t kQueueDriverLow = 0x090;
constexpr std::uint64_t kQueueDriverHigh = 0x094;
constexpr std::uint64_t kQueueDeviceLow = 0x0a0;
constexpr std::uint64_t kQueueDeviceHigh = 0x0a4;
constexpr std::uint64_t kShmLenLow = 0x0b0;
constexpr std::uint64_t kShmBaseHigh = 0x0bc;
constexpr std::uint64_t kQueueReset = 0x0c0;  // reads as 0: a write returns when the reset is done
constexpr std::uint64_t kConfigGeneration = 0x0fc;
constexpr std::uint64_t kConfig = 0x100;

constexpr std::uint32_t kMagic = 0x7472'6976;  // "virt"
constexpr std::uint32_t kVersion2 = 2;
constexpr std::uint32_t kVendor = 0x7469'766b;  // "kvit"

class Mmio : public VirtioMmio, public IoDevice {
 public:
  Mmio(VirtioDevice& device, GuestMemory& memory, IoBus& mmio, InterruptController& interrupts,
       std::uint64_t base, std::uint32_t gsi)
      : device_(device),
        mmio_(mmio),
        base_(base),
        interrupts_(interrupts, gsi),
        negotiation_(device, memory, interrupts_) {
    mmio_.insert(base_, kVirtioMmioSize, *this);
  }
  ~Mmio() override { mmio_.remove(base_); }

  void save(StateWriter& writer) const override {
    interrupts_.save(writer);
    negotiation_.save(writer);
  }
  void load(StateReader& reader) override {
    interrupts_.load(reader);
    negotiation_.load(reader);
  }
  void resume() override {
    interrupts_.resume();
    negotiation_.resume();
  }

  // 4.2.2.2: the control registers are accessed in aligned words; other accesses mean nothing.
  void io_read(std::uint64_t offset, std::span<std::byte> data) override {
    std::ranges::fill(data, std::byte{0});
    if (offset >= kConfig) {
      device_.read_config(offset - kConfig, data);
    } else if (data.size() == 4 && offset % 4 == 0) {
      write_le(data, read_register(offset));
    }
  }

  void io_write(std::uint64_t offset, std::span<const std::byte> data) override {
    if (offset >= kConfig) {
      device_.write_config(offset - kConfig, data);
    } else if (data.size() == 4 && offset % 4 == 0) {
      write_register(offset, static_cast<std::uint32_t>(read_le(data)));
    }
  }

 private:
  std::uint32_t read_register(std::uint64_t offset) {
    switch (offset) {
      case kMagicValue:
        return kMagic;
      case kVersion:
        return kVersion2;
      case kDeviceId:
        return device_.type();
      case kVendorId:
        return kVendor;
      case kInterruptStatus:
        return interrupts_.pending();
      case kStatus:
        return interrupts_.status();
      case kConfigGeneration:
        return device_.config_generation();
      default:
        // 4.2.2: a shared memory region that does not exist has length and base -1.
        if (offset >= kShmLenLow && offset <= kShmBaseHigh) return 0xffff'ffff;
        return read_negotiated(offset);
    }
  }

  std::uint32_t read_negotiated(std::uint64_t offset) {
    const auto held = negotiation_.hold();
    const QueueRegisters* queue = negotiation_.selected();
    if (offset == kDeviceFeatures) return negotiation_.device_features();
    // 0 for a queue that does not exist.
    if (offset == kQueueSizeMax) return negotiation_.max_size();
    if (offset == kQueueReady) return queue != nullptr && queue->enabled ? 1 : 0;
    return 0;
  }

  void write_register(std::uint64_t offset, std::uint32_t value) {
    switch (offset) {
      case kQueueNotify:
        ring_doorbell(value);
        return;
      case kInterruptAck:
        interrupts_.acknowledge(static_cast<std::uint8_t>(value & 0xff));
        return;
      default:
        write_negotiated(offset, value);
        return;
    }
  }

  void write_negotiated(std::uint64_t offset, std::uint32_t value) {
    using Area = Negotiation::Area;
    const auto held = negotiation_.hold();
    switch (offset) {
      case kDeviceFeaturesSel:
        return negotiation_.select_device_features(value);
      case kDriverFeaturesSel:
        return negotiation_.select_driver_features(value);
      case kDriverFeatures:
        return negotiation_.set_driver_features(value);
      case kQueueSel:
        // No device has so many queues.
        return negotiation_.select_queue(static_cast<std::uint16_t>(std::min(value, 0xffffu)));
      case kQueueSize:
        // 0 is refused when the queue is enabled, as any number too large is.
        return negotiation_.set_size(value > 0xffff ? std::uint16_t{0}
                                                    : static_cast<std::uint16_t>(value));
      case kQueueReady:
        if (value == 1) negotiation_.enable();
        if (value == 0) negotiation_.disable();
        return;
      case kQueueReset:
        if (value == 1) negotiation_.reset_queue();
        return;
      case kStatus:
        // A value with bits that no status has is no reset.
        if (value <= 0xff) negotiation_.set_status(static_cast<std::uint8_t>(value));
        return;
      case kQueueDescLow:
      case kQueueDescHigh:
        return negotiation_.set_address(Area::kDescriptors, offset == kQueueDescHigh, value);
      case kQueueDriverLow:
      case kQueueDriverHigh:
        return negotiation_.set_address(Area::kDriver, offset == kQueueDriverHigh, value);
      case kQueueDeviceLow:
      case kQueueDeviceHigh:
        return negotiation_.set_address(Area::kDevice, offset == kQueueDeviceHigh, value);
      default:
        return;
    }
  }

  void ring_doorbell(std::uint32_t value) {
    // 2.1.1: a driver does not notify before DRIVER_OK; one that does is not heard.
    if ((interrupts_.status() & kStatusDriverOk) == 0) return;
    // 4.2.3.3: with NOTIFICATION_DATA the queue's number is the low half.
    std::uint32_t queue = value;
    {
      const auto held = negotiation_.hold();
      const std::uint64_t features = negotiation_.state().driver_features;
      if ((features & kFeatureNotificationData) != 0) queue &= 0xffff;
    }
    if (queue < negotiation_.queue_count()) device_.notify(static_cast<std::uint16_t>(queue));
  }

  VirtioDevice& device_;
  IoBus& mmio_;
  const std::uint64_t base_;
  VirtioMmioInterrupts interrupts_;
  Negotiation negotiation_;
};

}  // namespace

std::unique_ptr<VirtioMmio> make_virtio_mmio(VirtioDevice& device, GuestMemory& memory, IoBus& mmio,
                                             InterruptController& interrupts, std::uint64_t base,
                                             std::uint32_t gsi) {
  return std::make_unique<Mmio>(device, memory, mmio, interrupts, base, gsi);
}

}  // namespace kvitest
