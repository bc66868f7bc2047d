#include "native/virtio/pci_transport.h"

#include <algorithm>
#include <array>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "native/bus/pci_config.h"
#include "native/error.h"
#include "native/little_endian.h"
#include "native/virtio/common_config.h"
#include "native/virtio/pci_interrupts.h"

namespace kvitest {
namespace {

constexpr std::uint64_t kBarSize = 512 * 1024;

// One structure inside BAR0.
struct Region {
  std::uint64_t offset;
  std::uint64_t size;
};
constexpr Region kCommonRegion{0x0000, CommonConfig::kSize};
constexpr Region kIsrRegion{0x2000, 4};
constexpr Region kDeviceRegion{0x4000, 0x1000};
constexpr Region kNotifyRegion{0x6000, 0x1000};
constexpr Region kMsixTableRegion{0x8000, kMsixMaxVectors* kMsixEntrySize};
constexpr Region kMsixPendingRegion{0x4'8000, kMsixMaxVectors / 8};
constexpr std::uint32_t kNotifyMultiplier = 4;

// cfg_type of struct virtio_pci_cap (virtio 1.3, 4.1.4).
constexpr std::uint8_t kCapCommon = 1;
constexpr std::uint8_t kCapNotify = 2;
constexpr std::uint8_t kCapIsr = 3;
constexpr std::uint8_t kCapDevice = 4;
constexpr std::uint8_t kCapPci = 5;
constexpr std::uint8_t kVendorCapabilityId = 0x09;
// Offsets within struct virtio_pci_cap.
constexpr std::uint8_t kCapBar = 4;
constexpr std::uint8_t kCapOffset = 8;
constexpr std::uint8_t kCapLength = 12;
constexpr std::uint8_t kCapData = 16;  // notify_off_multiplier or pci_cfg_data
constexpr std::uint8_t kCapHeader = 2;

constexpr std::uint16_t kVirtioVendor = 0x1af4;
constexpr std::uint16_t kVirtioDeviceBase = 0x1040;

std::uint32_t class_code(std::uint32_t type) {
  switch (type) {
    case 1:
      return 0x02'0000;  // network: Ethernet
    case 2:
      return 0x01'8000;  // mass storage: other
    case 3:
      return 0x07'8000;  // communication: other
    default:
      return 0xff'0000;  // unassigned
  }
}

PciIdentity identity(const VirtioDevice& device, std::uint32_t intx_gsi) {
  const auto id = static_cast<std::uint16_t>(kVirtioDeviceBase + device.type());
  return {.vendor = kVirtioVendor,
          .device = id,
          .revision = 1,
          .class_code = class_code(device.type()),
          .subsystem_vendor = kVirtioVendor,
          .subsystem = id,
          .interrupt_pin = 1,
          .interrupt_line = static_cast<std::uint8_t>(intx_gsi)};
}

std::optional<std::uint64_t> within(const Region& region, std::uint64_t offset,
                                    std::size_t length) {
  if (offset < region.offset || offset + length > region.offset + region.size) return std::nullopt;
  return offset - region.offset;
}

struct VirtioPciState {
  static constexpr StateTag kTag{"virtio-pci", 1};
  // Not a consequence of the configuration space: of two functions that a guest put at one place
  // only the first decodes.
  bool mapped = false;
  template <typename Archive>
  void fields(Archive& archive) {
    archive(mapped);
  }
};

class VirtioPci : public PciFunction, public IoDevice {
 public:
  VirtioPci(VirtioDevice& device, GuestMemory& memory, IoBus& mmio, InterruptController& interrupts,
            std::uint64_t bar_address, std::uint32_t intx_gsi)
      : device_(device),
        mmio_(mmio),
        interrupts_(interrupts, intx_gsi, device.queue_sizes().size(), device.queue_vectors()),
        common_(device, memory, interrupts_),
        config_(identity(device, intx_gsi)) {
    config_.add_memory_bar64(0, kBarSize, bar_address);
    add_capability(kCapCommon, kCommonRegion, 0);
    add_capability(kCapNotify, notify_region(), 4);
    add_capability(kCapIsr, {kIsrRegion.offset, 1}, 0);
    add_capability(kCapDevice, kDeviceRegion, 0);
    pci_cap_ = add_capability(kCapPci, {0, 0}, 4);
    msix_cap_ = add_msix_capability();
    if (device.personality().status_clears_capabilities) config_.clear_any_status_bit();
    // Firmware leaves a BAR it has placed decoding.
    config_.set_command(kPciCommandMemory);
    mmio_.insert(bar_address, kBarSize, *this);
    set_mapped(bar_address);
  }

  ~VirtioPci() override { unmap(); }

  void config_read(std::uint8_t offset, std::span<std::byte> data) override {
    if (touches_window(offset, data.size())) read_window();
    const std::lock_guard lock(mutex_);
    config_.set_interrupt_status(interrupts_.interrupt_pending());
    config_.read(offset, data);
  }

  void config_write(std::uint8_t offset, std::span<const std::byte> data) override {
    std::uint16_t command = 0;
    std::optional<std::uint16_t> msix_control;
    {
      const std::lock_guard lock(mutex_);
      config_.write(offset, data);
      remap();
      command = config_.command();
      if (overlaps(offset, data.size(), msix_cap_ + kCapHeader, 2)) {
        msix_control = static_cast<std::uint16_t>(load(msix_cap_ + kCapHeader, 2));
      }
    }
    interrupts_.set_intx_disabled((command & kPciCommandIntxDisable) != 0);
    if (msix_control) interrupts_.set_msix_control(*msix_control);
    if (touches_window(offset, data.size())) write_window();
  }

  void save(StateWriter& writer) const override {
    {
      const std::lock_guard lock(mutex_);
      config_.save(writer);
      writer.save(VirtioPciState{.mapped = mapped_.has_value()});
    }
    interrupts_.save(writer);
    common_.save(writer);
  }

  void load(StateReader& reader) override {
    {
      const std::lock_guard lock(mutex_);
      config_.load(reader);
      unmap();
      place_ = reader.load<VirtioPciState>().mapped;
      if (place_ && (config_.command() & kPciCommandMemory) == 0) {
        reader.fail("a BAR that decodes while memory decoding is off");
      }
    }
    interrupts_.load(reader);
    common_.load(reader);
  }

  void place() override {
    const std::lock_guard lock(mutex_);
    if (!std::exchange(place_, false)) return;
    const std::uint64_t bar = config_.memory_bar64(0);
    if (!mmio_.try_insert(bar, kBarSize, *this)) {
      throw Error("load checkpoint", EBADMSG, "two PCI functions decode one place",
                  "take the checkpoint again");
    }
    set_mapped(bar);
  }

  void resume() override {
    interrupts_.resume();
    common_.resume();
  }

  void unplug() override {
    {
      const std::lock_guard lock(mutex_);
      gone_ = true;
      unmap();
    }
    common_.reset();
    interrupts_.set_msix_control(0);
  }

  void io_read(std::uint64_t offset, std::span<std::byte> data) override {
    std::ranges::fill(data, std::byte{0});
    if (const auto at = within(kCommonRegion, offset, data.size())) {
      common_.read(*at, data);
    } else if (within(kIsrRegion, offset, data.size()) && offset == kIsrRegion.offset) {
      data[0] = std::byte{interrupts_.read_isr()};
    } else if (const auto at = within(kDeviceRegion, offset, data.size())) {
      device_.read_config(*at, data);
    } else if (const auto at = within(kMsixTableRegion, offset, data.size())) {
      interrupts_.msix().table_read(*at, data);
    } else if (const auto at = within(kMsixPendingRegion, offset, data.size())) {
      interrupts_.msix().pending_read(*at, data);
    }
  }

  void io_write(std::uint64_t offset, std::span<const std::byte> data) override {
    if (const auto at = within(notify_region(), offset, data.size())) {
      ring_doorbell(*at, data.size());
    } else if (const auto at = within(kCommonRegion, offset, data.size())) {
      common_.write(*at, data);
    } else if (const auto at = within(kDeviceRegion, offset, data.size())) {
      device_.write_config(*at, data);
    } else if (const auto at = within(kMsixTableRegion, offset, data.size())) {
      interrupts_.msix().table_write(*at, data);
    }
  }

 private:
  Region notify_region() const {
    return {kNotifyRegion.offset, std::uint64_t{kNotifyMultiplier} * common_.queue_count()};
  }

  // Appends a struct virtio_pci_cap, with `extra` bytes of data behind it.
  std::uint8_t add_capability(std::uint8_t type, const Region& region, std::size_t extra) {
    std::array<std::byte, kCapData + 4> cap{};
    std::array<std::byte, kCapData + 4> writable{};
    const std::size_t length = kCapData + extra;
    cap[2] = static_cast<std::byte>(length);
    cap[3] = std::byte{type};
    write_le(std::span(cap).subspan(kCapOffset, 4), region.offset);
    write_le(std::span(cap).subspan(kCapLength, 4), region.size);
    if (type == kCapNotify) write_le(std::span(cap).subspan(kCapData, 4), kNotifyMultiplier);
    if (type == kCapPci) {
      // 4.1.4.9: the driver aims this window itself.
      writable[kCapBar] = std::byte{0xff};
      std::ranges::fill(std::span(writable).subspan(kCapOffset, 12), std::byte{0xff});
    }
    return config_.add_capability(kVendorCapabilityId,
                                  std::span(cap).subspan(kCapHeader, length - kCapHeader),
                                  std::span(writable).subspan(kCapHeader, length - kCapHeader));
  }

  std::uint8_t add_msix_capability() {
    std::array<std::byte, 10> body{};
    std::array<std::byte, 10> writable{};
    write_le(std::span(body).subspan(0, 2), interrupts_.msix().control());
    write_le(std::span(body).subspan(2, 4), kMsixTableRegion.offset);    // BAR 0
    write_le(std::span(body).subspan(6, 4), kMsixPendingRegion.offset);  // BAR 0
    write_le(std::span(writable).subspan(0, 2), 0xc000);
    return config_.add_capability(kMsixCapabilityId, body, writable);
  }

  std::uint64_t load(std::size_t offset, std::size_t length) const {
    std::array<std::byte, 8> bytes{};
    config_.read(static_cast<std::uint8_t>(offset), std::span(bytes).first(length));
    return read_le(std::span(bytes).first(length));
  }

  // Follows the BAR and the memory-enable bit. A BAR that the guest puts over another device's
  // decodes nothing until it is moved again.
  void remap() {
    std::optional<std::uint64_t> wanted;
    if ((config_.command() & kPciCommandMemory) != 0 && !gone_) wanted = config_.memory_bar64(0);
    if (wanted == mapped_) return;
    unmap();
    if (wanted && mmio_.try_insert(*wanted, kBarSize, *this)) set_mapped(*wanted);
  }

  // The BAR decodes at this place from now on, doorbells included.
  void set_mapped(std::uint64_t bar) {
    mapped_ = bar;
    for_each_doorbell([&](std::uint64_t offset, int fd) { mmio_.add_doorbell(bar + offset, fd); });
  }

  void unmap() {
    if (!mapped_) return;
    for_each_doorbell(
        [&](std::uint64_t offset, int fd) { mmio_.remove_doorbell(*mapped_ + offset, fd); });
    mmio_.remove(*mapped_);
    mapped_.reset();
  }

  template <typename Do>
  void for_each_doorbell(Do action) {
    for (std::uint16_t queue = 0; queue < common_.queue_count(); ++queue) {
      const int fd = device_.doorbell(queue);
      if (fd >= 0) action(kNotifyRegion.offset + std::uint64_t{kNotifyMultiplier} * queue, fd);
    }
  }

  void ring_doorbell(std::uint64_t offset, std::size_t width) {
    const bool aligned = offset % kNotifyMultiplier == 0 && (width == 2 || width == 4);
    // 2.1.1: a driver does not notify before DRIVER_OK; one that does is not heard.
    if (!aligned || (interrupts_.status() & kStatusDriverOk) == 0) return;
    device_.notify(static_cast<std::uint16_t>(offset / kNotifyMultiplier));
  }

  bool touches_window(std::uint8_t offset, std::size_t length) const {
    return overlaps(offset, length, pci_cap_ + kCapData, 4);
  }

  struct Window {
    std::uint64_t offset;
    std::size_t length;
    std::array<std::byte, 4> data;
  };

  // Where the driver aimed the PCI configuration access capability; none when it names nothing.
  std::optional<Window> window() {
    const std::lock_guard lock(mutex_);
    const std::uint64_t bar = load(pci_cap_ + kCapBar, 1);
    const std::uint64_t offset = load(pci_cap_ + kCapOffset, 4);
    const std::uint64_t length = load(pci_cap_ + kCapLength, 4);
    const bool valid = bar == 0 && (length == 1 || length == 2 || length == 4) &&
                       offset % length == 0 && offset + length <= kBarSize;
    if (!valid) return std::nullopt;
    Window window{offset, static_cast<std::size_t>(length), {}};
    write_le(window.data, load(pci_cap_ + kCapData, 4));
    return window;
  }

  void read_window() {
    auto aimed = window();
    if (!aimed) return;
    io_read(aimed->offset, std::span(aimed->data).first(aimed->length));
    const std::lock_guard lock(mutex_);
    config_.store(static_cast<std::uint8_t>(pci_cap_ + kCapData), aimed->data);
  }

  void write_window() {
    const auto aimed = window();
    if (aimed) io_write(aimed->offset, std::span(aimed->data).first(aimed->length));
  }

  VirtioDevice& device_;
  IoBus& mmio_;
  VirtioPciInterrupts interrupts_;
  CommonConfig common_;

  mutable std::mutex
      mutex_;  // the configuration space and the BAR; never held while the device works
  PciConfigSpace config_;
  std::uint8_t pci_cap_ = 0;
  std::uint8_t msix_cap_ = 0;
  std::optional<std::uint64_t> mapped_;
  bool gone_ = false;   // unplugged
  bool place_ = false;  // between load() and place(): it was mapped
};

}  // namespace

std::unique_ptr<PciFunction> make_virtio_pci(VirtioDevice& device, GuestMemory& memory, IoBus& mmio,
                                             InterruptController& interrupts,
                                             std::uint64_t bar_address, std::uint32_t intx_gsi) {
  return std::make_unique<VirtioPci>(device, memory, mmio, interrupts, bar_address, intx_gsi);
}

}  // namespace kvitest
