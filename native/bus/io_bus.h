// Dispatch of one address space (PIO or MMIO) to devices.
#pragma once

#include <cstdint>
#include <map>
#include <shared_mutex>
#include <span>

#include "native/bus/io_device.h"

namespace kvitest {

class IoBus {
 public:
  // Throws Error (EEXIST) when the range overlaps one that is there. The device must outlive its entry.
  void insert(std::uint64_t base, std::uint64_t length, IoDevice& device);
  // BARs move: drops the range that starts at base, if any.
  void remove(std::uint64_t base);

  // False when no device covers the whole access; the caller then answers all ones.
  bool read(std::uint64_t address, std::span<std::byte> data);
  bool write(std::uint64_t address, std::span<const std::byte> data);

 private:
  struct Range {
    std::uint64_t length;
    IoDevice* device;
  };
  const std::pair<const std::uint64_t, Range>* find(std::uint64_t address, std::uint64_t length) const;
  mutable std::shared_mutex mutex_;
  std::map<std::uint64_t, Range> ranges_;
};

}  // namespace kvitest
