// virtio-net on a tap whose rings the host's kernel serves (vhost-net): frames go between the
// guest's buffers and the interface without us. Others use net.h.
#pragma once

#include <cstdint>
#include <mutex>
#include <span>
#include <vector>

#include "native/memory/guest_memory.h"
#include "native/unique_fd.h"
#include "native/virtio/net/net.h"
#include "native/virtio/net/state.h"
#include "native/virtio/vhost.h"

namespace kvitest {

class VhostNet : public VhostServed<Net> {
 public:
  VhostNet(const NetSpec& spec, const GuestMemory& memory);

  std::uint32_t type() const override;
  std::uint64_t features() const override;
  std::span<const FeatureName> feature_names() const override;
  std::vector<std::uint16_t> queue_sizes() const override;
  void read_config(std::uint64_t offset, std::span<std::byte> data) override;
  std::uint8_t config_generation() override;
  void activate(std::uint64_t features, std::span<VirtQueue* const> queues,
                VirtioInterrupts& interrupts) override;
  void reset() override;
  void save(StateWriter& writer) const override;
  void load(StateReader& reader, const VirtioActivation* active) override;
  void resume() override;

  void set_link(bool up) override;
  void set_mac(const MacAddress& mac) override;
  void deliver() override {}
  // The interface counts, of the host.
  NetCounts counts() const override { return {}; }

 private:
  // The tap is opened first: it is what a host lacks first.
  VhostNet(const NetSpec& spec, const GuestMemory& memory, UniqueFd tap);

  // With mutex_ held.
  void attach(const VirtioActivation& active);

  // VhostBackend
  void begin(std::uint64_t features) override;
  void end() override;
  void set_backend(int tap) const;

  const NetSpec spec_;
  const UniqueFd tap_;
  mutable std::mutex mutex_;
  VhostNetState state_;
  std::uint64_t features_ = 0;
  VirtioInterrupts* interrupts_ = nullptr;  // null while not active
};

}  // namespace kvitest
