#include "native/platform/pvpanic.h"

#include <algorithm>
#include <utility>

namespace kvitest {
namespace {

constexpr std::uint8_t kSupported = kPvpanicPanicked | kPvpanicCrashLoaded;

}  // namespace

Pvpanic::Pvpanic(std::function<void(std::uint8_t)> report) : report_(std::move(report)) {}

void Pvpanic::io_read(std::uint64_t, std::span<std::byte> data) {
  std::ranges::fill(data, std::byte{0});
  data[0] = std::byte{kSupported};
}

void Pvpanic::io_write(std::uint64_t, std::span<const std::byte> data) {
  const auto event = static_cast<std::uint8_t>(std::to_integer<unsigned>(data[0]) & kSupported);
  if (event != 0) report_(event);
}

}  // namespace kvitest
