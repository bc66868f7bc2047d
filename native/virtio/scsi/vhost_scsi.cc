#include "native/virtio/scsi/vhost_scsi.h"

// Without what is no C++.
#define VIRTIO_RING_NO_LEGACY
#include <linux/vhost.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <memory>
#include <string>

#include "native/error.h"

namespace kvitest {
namespace {

// Control, event and a first one of requests: Linux takes no more of those than it has CPUs.
constexpr std::uint16_t kNeeded = 3;
// Of the kernel's target (VHOST_SCSI_MAX_TARGET, TRANSPORT_MAX_LUNS...): a target's number is that
// of its target portal group.
constexpr ScsiConfig kConfig{.max_target = 255, .max_lun = 16383};

constexpr std::array<FeatureName, 1> kNames{{{"hotplug", kScsiHotplug}}};

struct VhostScsiState {
  static constexpr StateTag kTag{"virtio-scsi-vhost", 1};
  std::string wwpn;
  template <typename Archive>
  void fields(Archive& archive) {
    archive(wwpn);
  }
};

}  // namespace

VhostScsi::VhostScsi(const ScsiSpec& spec, const GuestMemory& memory)
    : VhostServed({.device = spec.name,
                   .path = "/dev/vhost-scsi",
                   .module = "vhost_scsi",
                   .queues = static_cast<std::uint16_t>(2 + spec.queues),
                   .needed = kNeeded,
                   .instead = "give it luns instead of its backend"},
                  memory),
      spec_(spec) {
  // Whether the target is there, before a guest's driver needs it. Without a table of memory the
  // kernel finds fault with the rings that it does not have yet.
  vhost_.set_memory();
  begin(0);
  end();
}

std::uint32_t VhostScsi::type() const {
  return kTypeScsi;
}

std::uint64_t VhostScsi::features() const {
  return vhost_.features() & kScsiHotplug;
}

std::span<const FeatureName> VhostScsi::feature_names() const {
  return kNames;
}

std::vector<std::uint16_t> VhostScsi::queue_sizes() const {
  std::vector<std::uint16_t> sizes{kScsiControlSize, kScsiEventSize};
  sizes.insert(sizes.end(), spec_.queues, spec_.queue_size);
  return sizes;
}

void VhostScsi::read_config(std::uint64_t offset, std::span<std::byte> data) {
  kvitest::read_config(spec_, kConfig, offset, data);
}

void VhostScsi::call_endpoint(unsigned long request, const char* name) const {
  vhost_scsi_target target{};
  std::ranges::copy(spec_.vhost, target.vhost_wwpn);
  try {
    vhost_.call(request, name, &target);
  } catch (const Error& error) {
    // A kernel's answer to either: 6.12 has the one, others the other.
    if (error.code() != ENODEV && error.code() != EEXIST) throw;
    throw Error(name, ENODEV, spec_.name + ": the target " + spec_.vhost + " of this host",
                "make it, with a nexus, below /sys/kernel/config/target/vhost; one guest has it at "
                "a time");
  }
}

void VhostScsi::begin(std::uint64_t) {
  call_endpoint(VHOST_SCSI_SET_ENDPOINT, "VHOST_SCSI_SET_ENDPOINT");
}

void VhostScsi::end() {
  call_endpoint(VHOST_SCSI_CLEAR_ENDPOINT, "VHOST_SCSI_CLEAR_ENDPOINT");
}

void VhostScsi::activate(std::uint64_t features, std::span<VirtQueue* const> queues,
                         VirtioInterrupts& interrupts) {
  vhost_.activate({features, queues, interrupts});
}

void VhostScsi::save(StateWriter& writer) const {
  writer.save(VhostScsiState{.wwpn = spec_.vhost});
}

void VhostScsi::load(StateReader& reader, const VirtioActivation*) {
  reader.fail("a device whose content is its host's");
}

std::unique_ptr<VirtioDevice> make_vhost_scsi(const ScsiSpec& spec, const GuestMemory& memory,
                                              bool restored) {
  if (restored) {
    throw Error("fork", ENOTSUP,
                spec.name + " is the target " + spec.vhost +
                    " of its host, whose content no checkpoint holds",
                "boot this guest (fork: none), or give it luns of its own");
  }
  return std::make_unique<VhostScsi>(spec, memory);
}

}  // namespace kvitest
