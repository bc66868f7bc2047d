#include "native/platform/debug_port.h"

#include <algorithm>
#include <utility>

namespace kvitest {

DebugPort::DebugPort(std::function<void(std::span<const std::byte>)> output)
    : output_(std::move(output)) {}

void DebugPort::io_read(std::uint64_t, std::span<std::byte> data) {
  std::ranges::fill(data, std::byte{0xe9});
}

void DebugPort::io_write(std::uint64_t, std::span<const std::byte> data) {
  output_(data);
}

}  // namespace kvitest
