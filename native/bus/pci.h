// PCI bus 0 behind configuration mechanism 1 (ports 0xcf8-0xcff), function 0 only.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "native/bus/io_bus.h"
#include "native/state/archive.h"

namespace kvitest {

// MMIO windows the host bridge decodes; acpi tables (_CRS) name the same.
inline constexpr std::uint64_t kPciMmio32Base = 0xC000'0000;
inline constexpr std::uint64_t kPciMmio32Size = 0x2000'0000;  // ends at 0xE000'0000
inline constexpr std::uint16_t kPciConfigAddressPort = 0xcf8;

// One function's 256-byte configuration space.
class PciFunction {
 public:
  virtual ~PciFunction() = default;
  // offset + data.size() <= 256, data.size() is 1, 2 or 4; the bus has checked both.
  virtual void config_read(std::uint8_t offset, std::span<std::byte> data) = 0;
  virtual void config_write(std::uint8_t offset, std::span<const std::byte> data) = 0;

  // For checkpoints, with no vCPU running. load() and place() go to a function just built; they
  // leave guest memory and interrupts alone and throw Error (EBADMSG).
  virtual void save(StateWriter& writer) const = 0;
  // The function decodes no BAR until place(): others may still sit where its own belong.
  virtual void load(StateReader& reader) = 0;
  virtual void place() {}
  // The whole machine is loaded: work that was waiting goes on.
  virtual void resume() {}

  // It was taken off the bus while the guest ran: it decodes nothing and interrupts no more, and
  // its device has let go of guest memory. On any thread; another may still be in it.
  virtual void unplug() {}
};

struct PciBusState {
  static constexpr StateTag kTag{"pci-bus", 1};
  std::uint32_t address = 0;
  std::vector<std::uint8_t> slots;  // the taken ones, ascending
  template <typename Archive>
  void fields(Archive& archive) {
    archive(address, slots);
  }
};

// Registers itself on the PIO bus; slot 0 is a host bridge of its own.
class PciBus : public IoDevice {
 public:
  explicit PciBus(IoBus& pio);
  ~PciBus() override;
  // slot 1..31. Throws Error (EEXIST, EINVAL). The function must outlive the bus.
  void attach(std::uint8_t slot, PciFunction& function);
  // From now on the slot reads as all ones. A thread that found the function before may still be in
  // it.
  void detach(std::uint8_t slot);
  void io_read(std::uint64_t offset, std::span<std::byte> data) override;
  void io_write(std::uint64_t offset, std::span<const std::byte> data) override;

  // The bus and every function on it, see PciFunction.
  void save(StateWriter& writer) const;
  void load(StateReader& reader);
  void resume();

 private:
  std::vector<std::uint8_t> taken_slots() const;
  // The function that the address register selects, or nullptr; which register the port reaches.
  PciFunction* select(std::uint64_t port_offset, std::uint8_t& register_offset);

  mutable std::mutex mutex_;  // address_ and slots_; never held while a function works
  IoBus& pio_;
  std::uint32_t address_ = 0;
  std::array<PciFunction*, 32> slots_{};
  std::unique_ptr<PciFunction> bridge_;
};

}  // namespace kvitest
