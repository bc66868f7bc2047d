// Features by name, for machine specs that withhold some or ask for more.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "native/virtio/device.h"

namespace kvitest {

// The bits of these names: the device's own, and what the transport lets go of. Throws Error
// (EINVAL) for a name that is neither, naming those there are.
std::uint64_t named_features(const VirtioDevice& device, std::span<const std::string> names);

// The bits of features, the transport's or the device's, that are offered only when asked for.
// Throws Error (EINVAL) for other names, and for in_order when the device does not keep to it.
std::uint64_t optional_features(const VirtioDevice& device, std::span<const std::string> names);

}  // namespace kvitest
