// virtio-vsock whose rings the host's kernel serves (vhost-vsock): its connections are AF_VSOCK
// sockets of the host, anybody's. Others use vsock.h.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <span>
#include <vector>

#include "native/memory/guest_memory.h"
#include "native/virtio/queue.h"
#include "native/virtio/vhost.h"
#include "native/virtio/vsock/host_ports.h"
#include "native/virtio/vsock/state.h"
#include "native/virtio/vsock/stream_sockets.h"
#include "native/virtio/vsock/vsock.h"

namespace kvitest {

class VhostVsock : public VhostServed<Vsock>, private StreamSockets::Owner {
 public:
  // claim: the CID at once; of a device that is to be restored, in resume().
  VhostVsock(const VsockSpec& spec, VsockSink& sink, const GuestMemory& memory, bool claim);
  ~VhostVsock() override;

  std::uint32_t type() const override;
  std::uint64_t features() const override;
  std::span<const FeatureName> feature_names() const override;
  std::vector<std::uint16_t> queue_sizes() const override;
  void read_config(std::uint64_t offset, std::span<std::byte> data) override;
  void activate(std::uint64_t features, std::span<VirtQueue* const> queues,
                VirtioInterrupts& interrupts) override;
  void notify(std::uint16_t queue) override;
  void reset() override;
  void detach() override;
  void save(StateWriter& writer) const override;
  void load(StateReader& reader, const VirtioActivation* active) override;
  void resume() override;

  void set_cid(std::uint32_t cid) override;
  void listen(std::uint32_t host_port, bool on) override;
  VsockConnection connect(std::uint32_t guest_port) override;
  std::size_t host_write(VsockConnection connection, std::span<const std::byte> data) override;
  void consumed(VsockConnection connection, std::size_t bytes) override;
  void close(VsockConnection connection, bool whole) override;
  bool has(VsockConnection connection) const override;

 private:
  struct Ports {
    std::uint32_t host;
    std::uint32_t guest;
  };

  // With mutex_ held.
  void claim_cid();
  void attach(const VirtioActivation& active);
  void forget_driver(bool tell);
  void pump_events();

  // VhostBackend
  void begin(std::uint64_t features) override;
  void end() override;

  // StreamSockets::Owner
  void accepted(StreamSockets::Id, UniqueFd) override {}
  void connected(StreamSockets::Id socket) override;
  void received(StreamSockets::Id socket, std::span<const std::byte> data) override;
  void sent(StreamSockets::Id socket, std::size_t bytes) override;
  void ended(StreamSockets::Id socket) override;
  void closed(StreamSockets::Id socket) override;

  const VsockSpec spec_;
  VsockSink& sink_;
  mutable std::mutex mutex_;
  VsockState state_;
  VirtQueue* events_ = nullptr;
  VirtioInterrupts* interrupts_ = nullptr;  // null while not active
  std::set<std::uint32_t> listening_;
  std::map<VsockConnection, Ports> connections_;  // until the host has said close()
  VsockConnection next_connection_ = 1;
  const std::shared_ptr<HostPorts> ports_ = HostPorts::get();
  StreamSockets sockets_;  // last: its thread uses the above
};

}  // namespace kvitest
