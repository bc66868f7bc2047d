// The common configuration structure (virtio 1.3, 4.1.4.3): feature negotiation, the device status
// state machine (3.1) and the queues' registers. Transport registers only; PCI itself is in
// pci_transport.cc.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "native/memory/guest_memory.h"
#include "native/virtio/device.h"
#include "native/virtio/pci_interrupts.h"
#include "native/virtio/queue.h"

namespace kvitest {

inline constexpr std::uint64_t kFeatureIndirectDesc = std::uint64_t{1} << 28;
inline constexpr std::uint64_t kFeatureEventIdx = std::uint64_t{1} << 29;
inline constexpr std::uint64_t kFeatureVersion1 = std::uint64_t{1} << 32;

struct QueueRegisters {
  QueueLayout layout;
  bool enabled = false;
  template <typename Archive>
  void fields(Archive& archive) {
    archive(layout, enabled);
  }
};

struct CommonConfigState {
  static constexpr StateTag kTag{"virtio-common", 1};
  std::uint32_t device_feature_select = 0;
  std::uint32_t driver_feature_select = 0;
  std::uint64_t driver_features = 0;
  bool unknown_features = false;  // the driver set a bit beyond the 64 that exist
  std::uint16_t queue_select = 0;
  bool active = false;
  std::vector<QueueRegisters> queues;
  template <typename Archive>
  void fields(Archive& archive) {
    archive(device_feature_select, driver_feature_select, driver_features, unknown_features,
            queue_select, active, queues);
  }
};

// The queues of an active device, by number; none where the driver enabled none.
struct CommonConfigQueues {
  static constexpr StateTag kTag{"virtio-queues", 1};
  std::vector<std::optional<QueueState>> queues;
  template <typename Archive>
  void fields(Archive& archive) {
    archive(queues);
  }
};

class CommonConfig {
 public:
  static constexpr std::uint64_t kSize = 64;  // up to admin_queue_num

  CommonConfig(VirtioDevice& device, GuestMemory& memory, VirtioPciInterrupts& interrupts);
  // Detaches an active device: its queues end with this object.
  ~CommonConfig();
  CommonConfig(const CommonConfig&) = delete;
  CommonConfig& operator=(const CommonConfig&) = delete;

  std::uint16_t queue_count() const { return static_cast<std::uint16_t>(state_.queues.size()); }

  // offset + data.size() <= kSize. Reads may have any width. Writes count only at a field's own
  // offset and width, 64-bit fields whole or in halves (4.1.3.1); others do nothing.
  void read(std::uint64_t offset, std::span<std::byte> data);
  void write(std::uint64_t offset, std::span<const std::byte> data);

  // For checkpoints, the device included. load() wants the state of `interrupts` loaded before, and
  // throws Error (EBADMSG).
  void save(StateWriter& writer) const;
  void load(StateReader& reader);
  void resume();

 private:
  QueueRegisters* selected();
  std::uint64_t offered() const;
  void write_field(std::uint64_t offset, std::size_t width, std::uint64_t value);
  void write_queue_field(std::uint64_t offset, std::size_t width, std::uint64_t value);
  void write_driver_feature(std::uint32_t value);
  void write_status(std::uint8_t value);
  void enable(QueueRegisters& registers);
  bool features_acceptable(const CommonConfigState& state) const;
  void check(const CommonConfigState& state, const CommonConfigQueues& saved,
             const StateReader& reader) const;
  // One for each enabled queue, going on where `saved` says, if it says so.
  std::vector<VirtQueue*> make_queues(const CommonConfigQueues& saved);
  void activate();
  void reset();

  VirtioDevice& device_;
  GuestMemory& memory_;
  VirtioPciInterrupts& interrupts_;

  // Held while the device activates and resets; the device never calls back into this object.
  mutable std::mutex mutex_;
  CommonConfigState state_;
  std::vector<std::uint16_t> max_sizes_;            // by queue
  std::vector<std::unique_ptr<VirtQueue>> queues_;  // by queue, while active
};

}  // namespace kvitest
