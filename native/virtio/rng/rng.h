// virtio-rng, the entropy device (virtio 1.3, 5.4).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "native/virtio/device.h"

namespace kvitest {

struct RngSpec {
  std::vector<std::string> without_features{};
};

std::unique_ptr<VirtioDevice> make_rng(const RngSpec& spec);

}  // namespace kvitest
