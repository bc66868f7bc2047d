// What a virtio-blk device remembers. The bytes of the disk are an image of their own.
#pragma once

#include <cstdint>

#include "native/state/archive.h"

namespace kvitest {

struct BlkState {
  static constexpr StateTag kTag{"virtio-blk", 1};
  std::uint64_t size = 0;  // bytes, as load() must find the disk
  std::uint8_t config_generation = 0;
  bool writeback = true;  // the cache mode of the configuration space
  template <typename Archive>
  void fields(Archive& archive) {
    archive(size, config_generation, writeback);
  }
};

}  // namespace kvitest
