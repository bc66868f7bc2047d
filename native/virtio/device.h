// What a virtio device is to its transport: a type, features, queues, a config space and handlers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "native/state/archive.h"
#include "native/virtio/personality.h"

namespace kvitest {

class VirtQueue;

// How a device reaches back to its transport. Callable from any thread and with the device's own
// lock held: the transport never calls the device from here.
class VirtioInterrupts {
 public:
  virtual ~VirtioInterrupts() = default;
  virtual void queue_interrupt(std::uint16_t queue) = 0;  // used buffer notification
  virtual void config_interrupt() = 0;                    // configuration change notification
  virtual void needs_reset() = 0;                         // sets DEVICE_NEEDS_RESET (2.1.2)
  // Whatever signals the eventfd is queue_interrupt() for this queue, where the transport can have
  // that without us; who reads the eventfd finds the rest, and passes it on. Until
  // remove_queue_irqfd(), or a reset of the device.
  virtual void add_queue_irqfd(std::uint16_t, int) {}
  virtual void remove_queue_irqfd(std::uint16_t) {}
};

// What activate() hands a device, for one that is restored.
struct VirtioActivation {
  std::uint64_t features;
  std::span<VirtQueue* const> queues;
  VirtioInterrupts& interrupts;
};

// A feature bit by the name that a machine spec uses: the specification's, in lower case, without
// its prefix (VIRTIO_BLK_F_DISCARD is "discard").
struct FeatureName {
  std::string_view name;
  std::uint64_t bit;
};

// Every method may be called on any vCPU thread or the device loop: the device locks itself.
class VirtioDevice {
 public:
  virtual ~VirtioDevice() = default;
  virtual std::uint32_t type() const = 0;      // virtio 1.3 section 5
  virtual std::uint64_t features() const = 0;  // device bits only; the transport adds its own
  // What can be withheld of features().
  virtual std::span<const FeatureName> feature_names() const { return {}; }
  // What is offered only when asked for, beside what the transport has of that kind.
  virtual std::span<const FeatureName> optional_feature_names() const { return {}; }
  // Features, of the device or of its transport, that the driver is not offered. Set before the
  // transport is made.
  void withhold(std::uint64_t features) { withheld_ = features; }
  std::uint64_t withheld() const { return withheld_; }
  // Features that are offered because someone asked for them; as withhold().
  void ask_for(std::uint64_t features) { asked_for_ = features; }
  std::uint64_t asked_for() const { return asked_for_; }
  // Its deliberate oddities, which its transport and queues act out; as withhold().
  void take_on(const Personality& personality) { personality_ = personality; }
  const Personality& personality() const { return personality_; }
  // It uses the buffers of each queue in the order in which it got them, so that IN_ORDER may be
  // offered.
  virtual bool in_order() const { return false; }
  // It can lose one queue and get it back, so that RING_RESET may be offered (2.6.1).
  virtual bool resets_queues() const { return false; }
  // The host's kernel uses its rings (vhost), which knows split ones alone, and no oddities.
  virtual bool rings_are_of_host() const { return false; }
  // An eventfd that stands for notify() of this queue, for a transport that can have it signalled
  // without us; none below 0. As long as the device lives.
  virtual int doorbell(std::uint16_t) const { return -1; }
  virtual std::vector<std::uint16_t> queue_sizes() const = 0;
  // The MSI-X vectors for its queues: one each, or, of queues that interrupt together, fewer, which
  // a driver then shares between them.
  virtual std::size_t queue_vectors() const { return queue_sizes().size(); }
  // Bytes beyond the config space read as 0 and are not written.
  virtual void read_config(std::uint64_t offset, std::span<std::byte> data) = 0;
  virtual void write_config(std::uint64_t, std::span<const std::byte>) {}
  // Changes whenever a byte of the config space changes by itself, before anyone can read that byte
  // (2.5).
  virtual std::uint8_t config_generation() { return 0; }
  // DRIVER_OK was set. queues[i] is null when the driver did not enable queue i. The pointers and
  // the interrupts stay valid until reset() returns. The driver may have filled queues already, so
  // activate() looks at each of them as if it had been notified.
  virtual void activate(std::uint64_t features, std::span<VirtQueue* const> queues,
                        VirtioInterrupts& interrupts) = 0;
  // The driver rang the doorbell of a queue. May come for any queue number and, from another vCPU,
  // just before activate() or just after reset(): such a call does nothing.
  virtual void notify(std::uint16_t queue) = 0;
  virtual void reset() = 0;
  // The driver takes back one queue of an active device. When it returns nothing touches that queue
  // nor any buffer of its requests; the others go on.
  virtual void reset_queue(std::uint16_t) {}
  // It gives it again, of any size; as activate(), for this one.
  virtual void enable_queue(std::uint16_t, VirtQueue&) {}
  // The transport of an active device goes away, with the machine: as reset(), but nobody is told.
  virtual void detach() { reset(); }

  // For a device with threads of its own: finishes what they have taken, and they take no more
  // until unpause(). While no vCPU is in the device.
  virtual void pause() {}
  virtual void unpause() {}

  // For checkpoints, while no vCPU is in the device and it is paused; what to save is in README.md.
  // save() appends at least one section.
  virtual void save(StateWriter& writer) const = 0;
  // On a device just built. active: what the driver had activated it with, null when it had not;
  // it stays valid until reset(), as activate()'s. Looks at no queue, raises no interrupt and
  // leaves guest memory alone. Throws Error (EBADMSG); the device is then of no use.
  virtual void load(StateReader& reader, const VirtioActivation* active) = 0;
  // Everything is restored: looks at every queue, as activate() does.
  virtual void resume() = 0;

 private:
  std::uint64_t withheld_ = 0;
  std::uint64_t asked_for_ = 0;
  Personality personality_;
};

}  // namespace kvitest
