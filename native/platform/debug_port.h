// Port 0xe9: bytes written are output of the guest, as in Bochs and QEMU's isa-debugcon.
#pragma once

#include <cstddef>
#include <functional>
#include <span>

#include "native/bus/io_device.h"

namespace kvitest {

// Reads give 0xe9, which tells a guest that the port is there.
class DebugPort : public IoDevice {
 public:
  // output: called on the vCPU's thread with no lock held; may block it.
  explicit DebugPort(std::function<void(std::span<const std::byte>)> output);
  void io_read(std::uint64_t offset, std::span<std::byte> data) override;
  void io_write(std::uint64_t offset, std::span<const std::byte> data) override;

 private:
  std::function<void(std::span<const std::byte>)> output_;
};

}  // namespace kvitest
