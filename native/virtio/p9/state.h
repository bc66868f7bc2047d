// What a virtio-9p device remembers. The directory is the host's and not part of a checkpoint.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "native/state/archive.h"

namespace kvitest {

struct P9State {
  static constexpr StateTag kTag{"virtio-9p", 1};
  struct Fid {
    std::uint32_t number = 0;
    std::string path;
    std::uint64_t inode = 0;
    bool is_open = false;
    std::uint32_t flags = 0;  // it is open with
    template <typename Archive>
    void fields(Archive& archive) {
      archive(number, path, inode, is_open, flags);
    }
  };
  std::uint32_t message_size = 0;  // 0: no version was agreed on
  std::vector<Fid> fids;
  template <typename Archive>
  void fields(Archive& archive) {
    archive(message_size, fids);
  }
};

}  // namespace kvitest
