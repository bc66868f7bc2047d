#include "native/virtio/features.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <vector>

#include "native/error.h"
#include "native/virtio/negotiation.h"

namespace kvitest {
namespace {

// Without VERSION_1 there is no modern device.
constexpr std::array<FeatureName, 2> kTransport{
    {{"indirect_desc", kFeatureIndirectDesc}, {"event_idx", kFeatureEventIdx}}};
constexpr std::array<FeatureName, 4> kOptional{{{"ring_packed", kFeatureRingPacked},
                                                {"in_order", kFeatureInOrder},
                                                {"notification_data", kFeatureNotificationData},
                                                {"ring_reset", kFeatureRingReset}}};

// `does`: what the device does with the known ones, for the hint.
std::uint64_t bits_of(std::span<const std::string> names, std::span<const FeatureName> known,
                      const char* detail, const char* does) {
  std::uint64_t bits = 0;
  for (const std::string& name : names) {
    const auto found = std::ranges::find(known, name, &FeatureName::name);
    if (found == known.end()) {
      std::string text = does;
      for (const FeatureName& one : known) text += " " + std::string(one.name);
      throw Error("machine spec", EINVAL, detail + (" \"" + name + "\""), text);
    }
    bits |= found->bit;
  }
  return bits;
}

}  // namespace

std::uint64_t named_features(const VirtioDevice& device, std::span<const std::string> names) {
  std::vector<FeatureName> known(kTransport.begin(), kTransport.end());
  known.insert(known.end(), device.feature_names().begin(), device.feature_names().end());
  return bits_of(names, known, "a virtio device has no feature", "it can go without:");
}

std::uint64_t optional_features(const VirtioDevice& device, std::span<const std::string> names) {
  std::vector<FeatureName> known(kOptional.begin(), kOptional.end());
  known.insert(known.end(), device.optional_feature_names().begin(),
               device.optional_feature_names().end());
  const std::uint64_t bits =
      bits_of(names, known, "nobody can ask for the feature", "to ask for there are:");
  if ((bits & kFeatureInOrder) != 0 && !device.in_order()) {
    throw Error("machine spec", EINVAL, "this device does not use its buffers in order",
                "leave in_order out");
  }
  if ((bits & kFeatureRingPacked) != 0 && device.rings_are_of_host()) {
    throw Error("machine spec", EINVAL, "vhost of the host's kernel has no packed rings",
                "leave ring_packed out, or the device's vhost");
  }
  if ((bits & kFeatureRingReset) != 0 && !device.resets_queues()) {
    throw Error("machine spec", EINVAL, "this device cannot lose one of its queues",
                "leave ring_reset out");
  }
  return bits;
}

}  // namespace kvitest
