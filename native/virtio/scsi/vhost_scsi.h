// virtio-scsi whose requests the host's kernel serves (vhost-scsi): its logical units are those of
// a target of the host. Others use scsi.h.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "native/memory/guest_memory.h"
#include "native/virtio/device.h"
#include "native/virtio/scsi/config.h"
#include "native/virtio/scsi/scsi.h"
#include "native/virtio/vhost.h"

namespace kvitest {

class VhostScsi : public VhostServed<VirtioDevice> {
 public:
  VhostScsi(const ScsiSpec& spec, const GuestMemory& memory);

  std::uint32_t type() const override;
  std::uint64_t features() const override;
  std::span<const FeatureName> feature_names() const override;
  std::vector<std::uint16_t> queue_sizes() const override;
  void read_config(std::uint64_t offset, std::span<std::byte> data) override;
  // write_config() does nothing: the kernel's requests have the sizes that are there by default.
  void activate(std::uint64_t features, std::span<VirtQueue* const> queues,
                VirtioInterrupts& interrupts) override;
  void reset() override { vhost_.reset(); }
  // What its units hold is no part of a checkpoint, which therefore has no forks: make_vhost_scsi()
  // refuses them. A checkpoint without forks is a core dump.
  void save(StateWriter& writer) const override;
  void load(StateReader& reader, const VirtioActivation* active) override;
  void resume() override {}

 private:
  // VhostBackend
  void begin(std::uint64_t features) override;
  void end() override;
  void call_endpoint(unsigned long request, const char* name) const;

  const ScsiSpec spec_;
};

}  // namespace kvitest
