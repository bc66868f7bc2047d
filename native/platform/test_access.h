// Port accesses for tests, as a vCPU makes them.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <span>
#include <utility>
#include <vector>

#include "native/bus/interrupts.h"
#include "native/bus/io_device.h"

namespace kvitest {

// An IN of a register of T's width.
template <typename T = std::uint8_t>
T port_in(IoDevice& device, std::uint64_t offset) {
  std::array<std::byte, sizeof(T)> bytes{};
  device.io_read(offset, bytes);
  T value;
  std::memcpy(&value, bytes.data(), sizeof value);
  return value;
}

// An OUT of a register of T's width.
template <typename T = std::uint8_t>
void port_out(IoDevice& device, std::uint64_t offset, std::type_identity_t<T> value) {
  std::array<std::byte, sizeof(T)> bytes;
  std::memcpy(bytes.data(), &value, sizeof value);
  device.io_write(offset, bytes);
}

// Records what devices do to their interrupt lines.
class RecordingInterrupts : public InterruptController {
 public:
  void set_irq_line(std::uint32_t gsi, bool level) override {
    const std::lock_guard lock(mutex_);
    changes_.emplace_back(gsi, level);
  }
  void signal_msi(const MsiMessage&) override {}

  std::vector<std::pair<std::uint32_t, bool>> changes() const {
    const std::lock_guard lock(mutex_);
    return changes_;
  }
  bool level() const {
    const std::lock_guard lock(mutex_);
    return !changes_.empty() && changes_.back().second;
  }

 private:
  mutable std::mutex mutex_;
  std::vector<std::pair<std::uint32_t, bool>> changes_;
};

}  // namespace kvitest
