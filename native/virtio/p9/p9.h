// virtio-9p: a directory of the host by 9P2000.L (device type 9).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "native/virtio/device.h"

namespace kvitest {

struct P9Spec {
  std::string tag;   // what the guest mounts
  std::string path;  // the directory; nothing outside of it can be reached
  bool read_only = false;
  std::vector<std::string> without_features{};
};

// Throws Error (EINVAL) naming the first thing that cannot be.
void validate(const P9Spec& spec);

// Throws Error when the directory cannot be opened (ENOENT, ENOTDIR, EACCES) or the kernel has no
// openat2 (ENOSYS).
std::unique_ptr<VirtioDevice> make_p9(const P9Spec& spec);

}  // namespace kvitest
