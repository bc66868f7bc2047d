// The vsock device itself; others use vsock.h.
#pragma once

#include <compare>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <span>
#include <vector>

#include "native/virtio/queue.h"
#include "native/virtio/vsock/packet.h"
#include "native/virtio/vsock/state.h"
#include "native/virtio/vsock/vsock.h"

namespace kvitest {

class VsockDevice : public Vsock {
 public:
  VsockDevice(const VsockSpec& spec, VsockSink& sink);

  std::uint32_t type() const override;
  std::uint64_t features() const override;
  std::span<const FeatureName> feature_names() const override;
  bool in_order() const override { return true; }
  bool resets_queues() const override { return true; }
  std::vector<std::uint16_t> queue_sizes() const override;
  void read_config(std::uint64_t offset, std::span<std::byte> data) override;
  void activate(std::uint64_t features, std::span<VirtQueue* const> queues,
                VirtioInterrupts& interrupts) override;
  void notify(std::uint16_t queue) override;
  void reset() override;
  void reset_queue(std::uint16_t index) override;
  void enable_queue(std::uint16_t index, VirtQueue& queue) override;
  void detach() override;
  void save(StateWriter& writer) const override;
  void load(StateReader& reader, const VirtioActivation* active) override;
  void resume() override;

  void set_cid(std::uint32_t cid) override;
  void listen(std::uint32_t host_port, bool on) override;
  VsockConnection connect(std::uint32_t guest_port) override { return connect_as(guest_port, {}); }
  // named: called with the lock held, before the guest can answer.
  VsockConnection connect_as(std::uint32_t guest_port,
                             const std::function<void(VsockConnection)>& named);
  std::size_t host_write(VsockConnection connection, std::span<const std::byte> data) override;
  void consumed(VsockConnection connection, std::size_t bytes) override;
  void close(VsockConnection connection, bool whole) override;
  bool has(VsockConnection connection) const override;

 private:
  struct Ports {
    std::uint32_t host;
    std::uint32_t guest;
    auto operator<=>(const Ports&) const = default;
  };
  struct Stream {
    Ports ports;
    bool open = false;  // both sides know of it
    bool request_due = false;
    bool response_due = false;
    bool credit_due = false;
    bool credit_asked = false;       // the guest was asked for credit, and has not answered
    std::uint32_t shutdown_due = 0;  // flags to be sent once to_guest is empty
    std::uint32_t shutdown_sent = 0;
    std::uint32_t guest_shutdown = 0;
    std::deque<std::byte> to_guest;
    // Free-running, as the fields of the header.
    std::uint32_t sent = 0;             // bytes to the guest
    std::uint32_t guest_buffer = 0;     // as it said last
    std::uint32_t guest_forwarded = 0;  // as it said last
    std::uint32_t received = 0;         // bytes from it
    std::uint32_t forwarded = 0;        // of these, consumed by the host
    std::uint32_t told = 0;             // `forwarded` as the guest was told last

    std::uint32_t credit() const;
    bool has_output() const;
  };
  using Streams = std::map<VsockConnection, Stream>;

  // All with mutex_ held.
  VirtQueue* queue(std::size_t index) const;
  void interrupt(std::size_t index);
  void attach(const VirtioActivation& active);
  void forget_driver(bool tell);
  void pump_everything();
  void pump_transmit();
  void pump_receive();
  void pump_events();
  // A packet of the guest, as long as its buffer says.
  void handle(DescriptorChain& chain);
  void handle_request(const VsockHeader& header);
  void handle_stream(Streams::iterator stream, const VsockHeader& header, DescriptorChain& chain);
  void take_data(Streams::iterator stream, const VsockHeader& header, DescriptorChain& chain);
  Streams::iterator find(const Ports& ports);
  VsockConnection add(Stream stream);
  void end(Streams::iterator stream);
  void refuse(const VsockHeader& header);
  // So many bytes of the guest need no credit any more.
  static void forward(Stream& stream, std::size_t bytes);
  VsockHeader header_of(Stream& stream, VsockOperation operation);
  // Writes the next packet of a stream into the chain.
  void send(Stream& stream, VsockConnection connection, DescriptorChain& chain);

  const VsockSpec spec_;
  VsockSink& sink_;
  mutable std::mutex mutex_;
  VsockState state_;
  std::vector<VirtQueue*> queues_;  // empty while not active
  VirtioInterrupts* interrupts_ = nullptr;
  std::set<std::uint32_t> listening_;
  Streams streams_;
  std::map<Ports, VsockConnection> by_ports_;
  // Over, and not yet closed by the host: they count, or a guest that opens and ends connections
  // without end would fill the host's memory with news of them.
  std::set<VsockConnection> ended_;
  std::deque<VsockHeader> resets_;  // for what is no connection
  VsockConnection next_connection_ = 1;
  VsockConnection last_served_ = 0;  // connections take turns
  std::uint32_t next_host_port_ = 0x4000'0000;
};

}  // namespace kvitest
