// What every transport does with the registers of a device, wherever it has them: feature
// negotiation, the device status state machine (virtio 1.3, 3.1) and the queues.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "native/memory/guest_memory.h"
#include "native/virtio/device.h"
#include "native/virtio/queue.h"
#include "native/virtio/transport_interrupts.h"

namespace kvitest {

inline constexpr std::uint64_t kFeatureIndirectDesc = std::uint64_t{1} << 28;
inline constexpr std::uint64_t kFeatureEventIdx = std::uint64_t{1} << 29;
inline constexpr std::uint64_t kFeatureVersion1 = std::uint64_t{1} << 32;
inline constexpr std::uint64_t kFeatureRingPacked = std::uint64_t{1} << 34;
inline constexpr std::uint64_t kFeatureInOrder = std::uint64_t{1} << 35;
inline constexpr std::uint64_t kFeatureNotificationData = std::uint64_t{1} << 38;
inline constexpr std::uint64_t kFeatureRingReset = std::uint64_t{1} << 40;

// The transport's features that a driver is offered unless they are withheld, and those that a
// machine spec must ask for.
inline constexpr std::uint64_t kUsualTransportFeatures =
    kFeatureIndirectDesc | kFeatureEventIdx | kFeatureVersion1;
inline constexpr std::uint64_t kOptionalTransportFeatures =
    kFeatureRingPacked | kFeatureInOrder | kFeatureNotificationData | kFeatureRingReset;

struct QueueRegisters {
  QueueLayout layout;
  bool enabled = false;
  bool was_reset = false;  // alone or taken back, and not enabled since
  template <typename Archive>
  void fields(Archive& archive) {
    archive(layout, enabled, was_reset);
  }
};

struct CommonConfigState {
  static constexpr StateTag kTag{"virtio-common", 2};
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
  static constexpr StateTag kTag{"virtio-queues", 2};
  std::vector<std::optional<QueueState>> queues;
  template <typename Archive>
  void fields(Archive& archive) {
    archive(queues);
  }
};

// Not locked but by hold(): a transport's access to its registers is one step. What a queue
// register means where no such queue is selected is the transport's to say: selected() is null.
class Negotiation {
 public:
  Negotiation(VirtioDevice& device, GuestMemory& memory, TransportInterrupts& interrupts);
  // Detaches an active device: its queues end with this object.
  ~Negotiation();
  Negotiation(const Negotiation&) = delete;
  Negotiation& operator=(const Negotiation&) = delete;

  // For everything below, up to the checkpoints.
  [[nodiscard]] std::unique_lock<std::mutex> hold() const { return std::unique_lock(mutex_); }

  std::uint16_t queue_count() const { return static_cast<std::uint16_t>(state_.queues.size()); }
  const CommonConfigState& state() const { return state_; }
  // The word that the driver has selected.
  std::uint32_t device_features() const;
  std::uint32_t driver_features() const;
  const QueueRegisters* selected() const;
  // Of the selected queue; 0 where there is none.
  std::uint16_t max_size() const;

  void select_device_features(std::uint32_t word) { state_.device_feature_select = word; }
  void select_driver_features(std::uint32_t word) { state_.driver_feature_select = word; }
  void set_driver_features(std::uint32_t value);
  void set_status(std::uint8_t value);
  void select_queue(std::uint16_t queue) { state_.queue_select = queue; }
  // Of the selected queue, as long as it is not enabled; after that they do nothing.
  void set_size(std::uint16_t size);
  enum class Area { kDescriptors, kDriver, kDevice };
  void set_address(Area area, bool high, std::uint32_t word);
  void enable();
  // 4.2.2: a driver of virtio-mmio takes a queue back by QueueReady, and may give it again; after
  // DRIVER_OK only from a device that resets_queues().
  void disable();
  // 2.6.1: the selected queue alone, with RING_RESET; it may then be enabled again. False when
  // there is none or the feature was not negotiated. Returns when the device has let go of it.
  bool reset_queue();

  // For checkpoints, the device included; they lock. load() wants the state of the interrupts
  // loaded before, and throws Error (EBADMSG).
  void save(StateWriter& writer) const;
  void load(StateReader& reader);
  void resume();

 private:
  QueueRegisters* writable();
  void activate();
  void reset();
  std::uint64_t offered() const;
  QueueFeatures queue_features(std::uint64_t driver_features) const;
  bool features_acceptable(const CommonConfigState& state) const;
  bool driver_ok() const { return (interrupts_.status() & kStatusDriverOk) != 0; }
  std::vector<VirtQueue*> make_queues(const CommonConfigQueues& saved);
  void check(const CommonConfigState& state, const CommonConfigQueues& saved,
             const StateReader& reader) const;

  VirtioDevice& device_;
  GuestMemory& memory_;
  TransportInterrupts& interrupts_;
  std::vector<std::uint16_t> max_sizes_;

  mutable std::mutex mutex_;
  CommonConfigState state_;
  std::vector<std::unique_ptr<VirtQueue>> queues_;
};

}  // namespace kvitest
