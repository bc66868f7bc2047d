// The common configuration structure (virtio 1.3, 4.1.4.3): where a PCI driver has the registers of
// negotiation.h, and the vectors.
#pragma once

#include <cstdint>
#include <span>

#include "native/virtio/negotiation.h"
#include "native/virtio/pci_interrupts.h"

namespace kvitest {

class CommonConfig {
 public:
  static constexpr std::uint64_t kSize = 64;  // up to admin_queue_num

  CommonConfig(VirtioDevice& device, GuestMemory& memory, VirtioPciInterrupts& interrupts)
      : device_(device), interrupts_(interrupts), negotiation_(device, memory, interrupts) {}

  std::uint16_t queue_count() const { return negotiation_.queue_count(); }

  // offset + data.size() <= kSize. Reads may have any width. Writes count only at a field's own
  // offset and width, 64-bit fields whole or in halves (4.1.3.1); others do nothing.
  void read(std::uint64_t offset, std::span<std::byte> data);
  void write(std::uint64_t offset, std::span<const std::byte> data);

  // As if the driver had reset the device.
  void reset() { negotiation_.set_status(0); }

  // For checkpoints, see Negotiation.
  void save(StateWriter& writer) const { negotiation_.save(writer); }
  void load(StateReader& reader) { negotiation_.load(reader); }
  void resume() { negotiation_.resume(); }

 private:
  void write_field(std::uint64_t offset, std::size_t width, std::uint64_t value);
  void write_queue_field(std::uint64_t offset, std::size_t width, std::uint64_t value);

  VirtioDevice& device_;
  VirtioPciInterrupts& interrupts_;
  Negotiation negotiation_;
};

}  // namespace kvitest
