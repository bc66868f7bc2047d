// A config space as an image of its bytes.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

namespace kvitest {

// What VirtioDevice::read_config() answers: bytes beyond the image are 0.
inline void read_image(std::span<const std::byte> image, std::uint64_t offset,
                       std::span<std::byte> data) {
  std::ranges::fill(data, std::byte{0});
  if (offset >= image.size()) return;
  const auto there = std::min<std::uint64_t>(data.size(), image.size() - offset);
  std::ranges::copy(image.subspan(offset, there), data.begin());
}

}  // namespace kvitest
