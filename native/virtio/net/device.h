// The net device itself; others use net.h.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "native/virtio/net/header.h"
#include "native/virtio/net/net.h"
#include "native/virtio/net/state.h"
#include "native/virtio/queue.h"

namespace kvitest {

// Locks itself; the link is called with the lock held, and calls nobody back but `wake`.
class NetDevice : public Net {
 public:
  NetDevice(const NetSpec& spec, std::unique_ptr<Link> link, FramesWaiting wake);

  std::uint32_t type() const override;
  std::uint64_t features() const override;
  std::span<const FeatureName> feature_names() const override { return net_feature_names(); }
  bool in_order() const override { return true; }
  bool resets_queues() const override { return true; }
  std::vector<std::uint16_t> queue_sizes() const override;
  void read_config(std::uint64_t offset, std::span<std::byte> data) override;
  std::uint8_t config_generation() override;
  void activate(std::uint64_t features, std::span<VirtQueue* const> queues,
                VirtioInterrupts& interrupts) override;
  void notify(std::uint16_t queue) override;
  void reset() override;
  void reset_queue(std::uint16_t index) override;
  void enable_queue(std::uint16_t index, VirtQueue& queue) override;
  void save(StateWriter& writer) const override;
  void load(StateReader& reader, const VirtioActivation* active) override;
  void resume() override;

  void set_link(bool up) override;
  void set_mac(const MacAddress& mac) override;
  void deliver() override;
  NetCounts counts() const override;

 private:
  // A receive queue's buffers that were taken from the ring and not yet used.
  struct Receive {
    std::deque<DescriptorChain> held;
    std::vector<ChainState> saved;  // between load() and resume(): what `held` was
  };

  // A transmit queue whose driver sends one frame after the other and gets none is not asked for a
  // doorbell each: the device loop looks at it until nothing comes.
  struct Stream {
    std::size_t run = 0;        // frames since one went to the driver
    bool running = false;       // no doorbell is asked for
    std::size_t fruitless = 0;  // looks that found nothing, one after the other
  };

  // With mutex_ held.
  bool negotiated(std::uint64_t feature) const { return (features_ & feature) != 0; }
  VirtQueue* queue(std::size_t index) const;
  std::size_t control_queue() const;
  void interrupt(std::size_t index);
  void config_changed();
  void forget_driver();
  void attach(const VirtioActivation& active);

  void pump(std::uint16_t index);

  // transmit.cc
  std::size_t pump_transmit(std::size_t pair);
  void begin_stream(std::size_t pair);
  bool follow_streams();
  void transmit(DescriptorChain& chain, std::size_t pair);

  // receive.cc
  void pump_receive();
  bool next_frame();
  bool wanted(const Frame& frame) const;
  bool give(const Frame& frame, std::size_t pair);
  std::size_t gather(Receive& receive, VirtQueue& ring, std::size_t bytes);
  bool exceeds_mtu(const Frame& frame) const;
  bool discard_input();
  std::size_t pair_of(const Frame& frame) const;

  // control.cc
  void pump_control();
  bool handle_control(std::span<const std::byte> request);
  bool handle_rx_mode(std::uint8_t command, std::span<const std::byte> data);
  bool handle_mac(std::uint8_t command, std::span<const std::byte> data);
  bool handle_vlan(std::uint8_t command, std::span<const std::byte> data);

  const NetSpec spec_;
  const std::unique_ptr<Link> link_;
  const FramesWaiting wake_;
  mutable std::mutex mutex_;
  NetState state_;
  NetCounts counts_;
  std::uint64_t features_ = 0;
  std::vector<VirtQueue*> queues_;  // empty while not active
  VirtioInterrupts* interrupts_ = nullptr;
  std::vector<Receive> receive_;  // by pair
  std::vector<Stream> streams_;   // by pair
  std::deque<Frame> pending_;     // on their way to the driver, as it can take them
  // The pair that last sent of a flow, by the flow's hash: answers go there (5.1.6.5.5).
  std::array<std::uint8_t, 256> steering_{};
};

// The same for both directions of a flow.
std::uint8_t flow_hash(std::span<const std::byte> frame);

}  // namespace kvitest
