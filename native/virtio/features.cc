#include "native/virtio/features.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <vector>

#include "native/error.h"
#include "native/virtio/common_config.h"

namespace kvitest {
namespace {

// Without VERSION_1 there is no modern device.
constexpr std::array<FeatureName, 2> kTransport{
    {{"indirect_desc", kFeatureIndirectDesc}, {"event_idx", kFeatureEventIdx}}};

}  // namespace

std::uint64_t named_features(const VirtioDevice& device, std::span<const std::string> names) {
  std::vector<FeatureName> known(kTransport.begin(), kTransport.end());
  known.insert(known.end(), device.feature_names().begin(), device.feature_names().end());
  std::uint64_t bits = 0;
  for (const std::string& name : names) {
    const auto found = std::ranges::find(known, name, &FeatureName::name);
    if (found == known.end()) {
      std::string text = "it can go without:";
      for (const FeatureName& one : known) text += " " + std::string(one.name);
      throw Error("machine spec", EINVAL, "a virtio device has no feature \"" + name + "\"", text);
    }
    bits |= found->bit;
  }
  return bits;
}

}  // namespace kvitest
