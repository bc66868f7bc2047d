// Dispatch of one address space (PIO or MMIO) to devices.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <shared_mutex>
#include <span>

#include "native/bus/doorbells.h"
#include "native/bus/io_device.h"

namespace kvitest {

class IoBus {
 public:
  // doorbells: null where there are none; must outlive the bus.
  explicit IoBus(Doorbells* doorbells = nullptr) : doorbells_(doorbells) {}

  // Throws Error: EEXIST when the range overlaps one that is there, EINVAL when it is empty or
  // wraps around. The device must outlive the bus: an access that began before remove() may still
  // reach it.
  void insert(std::uint64_t base, std::uint64_t length, IoDevice& device);
  // The same for a range that the guest chose (a BAR): false where insert() throws.
  [[nodiscard]] bool try_insert(std::uint64_t base, std::uint64_t length, IoDevice& device);
  // BARs move: drops the range that starts at base, if any.
  void remove(std::uint64_t base);

  // False when no device covers the whole access; the caller then answers all ones. No lock of the
  // bus is held while the device works, so a device may insert and remove ranges.
  bool read(std::uint64_t address, std::span<std::byte> data);
  bool write(std::uint64_t address, std::span<const std::byte> data);

  // Of a device that is on the bus there: see Doorbells.
  void add_doorbell(std::uint64_t address, int eventfd) {
    if (doorbells_ != nullptr) doorbells_->add(address, eventfd);
  }
  void remove_doorbell(std::uint64_t address, int eventfd) {
    if (doorbells_ != nullptr) doorbells_->remove(address, eventfd);
  }

 private:
  struct Range {
    std::uint64_t last;  // inclusive: a range may end at the top of the address space
    IoDevice* device;
  };
  struct Target {
    IoDevice* device;
    std::uint64_t offset;
  };
  std::optional<Target> find(std::uint64_t address, std::size_t length) const;

  Doorbells* const doorbells_;
  mutable std::shared_mutex mutex_;
  std::map<std::uint64_t, Range> ranges_;  // by base, never overlapping
};

}  // namespace kvitest
