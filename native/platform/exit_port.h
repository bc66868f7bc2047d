// The test-exit port: a guest ends itself with a code.
#pragma once

#include <cstdint>
#include <functional>

#include "native/bus/io_device.h"

namespace kvitest {

inline constexpr std::uint64_t kTestExitPorts = 4;

// A write to the first port, 1, 2 or 4 bytes wide, is the code, zero-extended. Reads give zeros.
class TestExit : public IoDevice {
 public:
  explicit TestExit(std::function<void(std::uint32_t code)> exit);  // on the vCPU's thread
  void io_read(std::uint64_t offset, std::span<std::byte> data) override;
  void io_write(std::uint64_t offset, std::span<const std::byte> data) override;

 private:
  std::function<void(std::uint32_t)> exit_;
};

}  // namespace kvitest
