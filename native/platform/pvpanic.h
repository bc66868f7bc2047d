// pvpanic: the guest's kernel tells of its panic (QEMU docs/specs/pvpanic).
#pragma once

#include <cstdint>
#include <functional>

#include "native/bus/io_device.h"

namespace kvitest {

inline constexpr std::uint8_t kPvpanicPanicked = 1 << 0;
inline constexpr std::uint8_t kPvpanicCrashLoaded = 1 << 1;  // a crash kernel takes over

// One port: reads say which events are supported, writes report some.
class Pvpanic : public IoDevice {
 public:
  // event: the supported bits of what was written, never 0. On the vCPU's thread.
  explicit Pvpanic(std::function<void(std::uint8_t event)> report);
  void io_read(std::uint64_t offset, std::span<std::byte> data) override;
  void io_write(std::uint64_t offset, std::span<const std::byte> data) override;

 private:
  std::function<void(std::uint8_t)> report_;
};

}  // namespace kvitest
