// What a device offers to the PIO and MMIO buses.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace kvitest {

// Called on vCPU threads, concurrently for SMP guests: a device locks itself. data.size() is 1, 2,
// 4 or 8 on MMIO, 1, 2 or 4 on PIO. offset is relative to the device's base. Must not block for
// long and never on the guest's own progress, unless stop() of the machine is guaranteed to cancel
// the wait.
class IoDevice {
 public:
  virtual ~IoDevice() = default;
  virtual void io_read(std::uint64_t offset, std::span<std::byte> data) = 0;
  virtual void io_write(std::uint64_t offset, std::span<const std::byte> data) = 0;
};

}  // namespace kvitest
