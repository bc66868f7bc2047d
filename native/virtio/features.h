// Features by name, for machine specs that withhold some.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "native/virtio/device.h"

namespace kvitest {

// The bits of these names: the device's own, and what the transport lets go of. Throws Error
// (EINVAL) for a name that is neither, naming those there are.
std::uint64_t named_features(const VirtioDevice& device, std::span<const std::string> names);

}  // namespace kvitest
