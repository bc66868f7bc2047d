#include "native/platform/exit_port.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace kvitest {

TestExit::TestExit(std::function<void(std::uint32_t)> exit) : exit_(std::move(exit)) {}

void TestExit::io_read(std::uint64_t, std::span<std::byte> data) {
  std::ranges::fill(data, std::byte{0});
}

void TestExit::io_write(std::uint64_t offset, std::span<const std::byte> data) {
  if (offset != 0) return;
  std::uint32_t code = 0;
  std::memcpy(&code, data.data(), std::min(data.size(), sizeof code));
  exit_(code);
}

}  // namespace kvitest
