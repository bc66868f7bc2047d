#include "native/virtio/vsock/vhost_vsock.h"

// Without what is no C++.
#define VIRTIO_RING_NO_LEGACY
#include <linux/vhost.h>
#include <sys/socket.h>
// After sys/socket.h, which it needs.
#include <linux/vm_sockets.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include "native/error.h"
#include "native/little_endian.h"
#include "native/virtio/config_image.h"

namespace kvitest {
namespace {

constexpr std::uint32_t kTypeVsock = 19;
constexpr std::uint64_t kFeatureSeqpacket = 1 << 1;
constexpr std::array<FeatureName, 1> kNames{{{"seqpacket", kFeatureSeqpacket}}};
constexpr std::uint16_t kQueueSize = 128;
// Of the kernel; the event queue is ours.
constexpr std::uint16_t kVhostQueues = 2;
constexpr std::size_t kEvent = 2;
constexpr std::size_t kMaxConnections = 256;

std::uint32_t host_port_of(int socket) {
  sockaddr_vm own{};
  socklen_t length = sizeof own;
  ::getsockname(socket, reinterpret_cast<sockaddr*>(&own), &length);
  return own.svm_port;
}

}  // namespace

VhostVsock::VhostVsock(const VsockSpec& spec, VsockSink& sink, const GuestMemory& memory,
                       bool claim)
    : VhostServed({spec.name, "/dev/vhost-vsock", "vhost_vsock", kVhostQueues, kVhostQueues,
                   "leave the device's backend out"},
                  memory),
      spec_(spec),
      sink_(sink),
      sockets_(spec.name, *this, kVsockWindow) {
  state_.cid = spec.cid;
  if (claim) claim_cid();
}

VhostVsock::~VhostVsock() {
  for (const std::uint32_t port : listening_) ports_->close(state_.cid, port);
}

void VhostVsock::claim_cid() {
  std::uint64_t cid = state_.cid;
  try {
    vhost_.call(VHOST_VSOCK_SET_GUEST_CID, "VHOST_VSOCK_SET_GUEST_CID", &cid);
  } catch (const Error& error) {
    if (error.code() != EADDRINUSE) throw;
    throw Error(error.operation(), EADDRINUSE,
                spec_.name + ": the CID " + std::to_string(cid) + " of this host",
                "every guest of a host has its own: give this one, or this fork, another cid");
  }
}

std::uint32_t VhostVsock::type() const {
  return kTypeVsock;
}

std::uint64_t VhostVsock::features() const {
  return vhost_.features() & kFeatureSeqpacket;
}

std::span<const FeatureName> VhostVsock::feature_names() const {
  return kNames;
}

std::vector<std::uint16_t> VhostVsock::queue_sizes() const {
  return {kQueueSize, kQueueSize, kQueueSize};
}

void VhostVsock::read_config(std::uint64_t offset, std::span<std::byte> data) {
  std::array<std::byte, 8> config{};
  {
    const std::lock_guard lock(mutex_);
    store_le<std::uint64_t>(config, 0, state_.cid);
  }
  read_image(config, offset, data);
}

void VhostVsock::begin(std::uint64_t) {
  int on = 1;
  vhost_.call(VHOST_VSOCK_SET_RUNNING, "VHOST_VSOCK_SET_RUNNING", &on);
}

void VhostVsock::end() {
  int off = 0;
  vhost_.call(VHOST_VSOCK_SET_RUNNING, "VHOST_VSOCK_SET_RUNNING", &off);
}

std::unique_ptr<Vsock> make_vhost_vsock(const VsockSpec& spec, VsockSink& sink,
                                        const GuestMemory& memory, bool restored) {
  return std::make_unique<VhostVsock>(spec, sink, memory, !restored);
}

void VhostVsock::attach(const VirtioActivation& active) {
  events_ = kEvent < active.queues.size() ? active.queues[kEvent] : nullptr;
  interrupts_ = &active.interrupts;
}

void VhostVsock::activate(std::uint64_t features, std::span<VirtQueue* const> queues,
                          VirtioInterrupts& interrupts) {
  const VirtioActivation active{features, queues, interrupts};
  const std::lock_guard lock(mutex_);
  attach(active);
  vhost_.activate(active);
  pump_events();
}

void VhostVsock::notify(std::uint16_t queue) {
  if (queue < kVhostQueues) {
    vhost_.ring(queue);
    return;
  }
  const std::lock_guard lock(mutex_);
  pump_events();
}

void VhostVsock::pump_events() {
  if (events_ == nullptr || !state_.reset_due) return;
  auto chain = events_->pop();
  if (!chain) return;
  // struct virtio_vsock_event: VIRTIO_VSOCK_EVENT_TRANSPORT_RESET is 0.
  chain->write(std::array<std::byte, 4>{});
  events_->push_used(*chain, chain->written());
  state_.reset_due = false;
  if (events_->needs_interrupt()) interrupts_->queue_interrupt(kEvent);
}

void VhostVsock::reset() {
  const std::lock_guard lock(mutex_);
  forget_driver(true);
}

void VhostVsock::detach() {
  const std::lock_guard lock(mutex_);
  forget_driver(false);
}

void VhostVsock::forget_driver(bool tell) {
  vhost_.reset();
  events_ = nullptr;
  interrupts_ = nullptr;
  state_.reset_due = false;
  for (const auto& [connection, ports] : connections_) {
    if (!sockets_.has(connection)) continue;
    sockets_.remove(connection);
    if (tell) sink_.vsock_close(spec_.name, connection);
  }
}

void VhostVsock::save(StateWriter& writer) const {
  const std::lock_guard lock(mutex_);
  writer.save(state_);
}

void VhostVsock::load(StateReader& reader, const VirtioActivation* active) {
  const auto state = reader.load<VsockState>();
  if (state.cid < kVsockFirstGuestCid || state.cid == kVsockAnyCid) {
    reader.fail("a CID of no guest");
  }
  const std::lock_guard lock(mutex_);
  state_ = state;
  if (active == nullptr) return;
  attach(*active);
  vhost_.load(*active);
}

void VhostVsock::resume() {
  const std::lock_guard lock(mutex_);
  claim_cid();
  if (interrupts_ == nullptr) return;
  vhost_.resume();
  // 5.10.6.7: the guest's connections are gone, and its CID may be another one.
  state_.reset_due = true;
  pump_events();
}

void VhostVsock::set_cid(std::uint32_t cid) {
  const std::lock_guard lock(mutex_);
  state_.cid = cid;
}

// ---- the host's end

void VhostVsock::listen(std::uint32_t host_port, bool on) {
  const std::uint32_t cid = state_.cid;
  if (!on) {
    ports_->close(cid, host_port);
    const std::lock_guard lock(mutex_);
    listening_.erase(host_port);
    return;
  }
  ports_->listen(cid, host_port, [this, host_port](UniqueFd socket, std::uint32_t guest_port) {
    const std::lock_guard lock(mutex_);
    if (connections_.size() >= kMaxConnections) return;
    const VsockConnection connection = next_connection_++;
    connections_[connection] = {host_port, guest_port};
    // First: the socket's bytes follow at once.
    sink_.vsock_open(spec_.name, connection, host_port, guest_port);
    sockets_.add(connection, std::move(socket));
  });
  const std::lock_guard lock(mutex_);
  listening_.insert(host_port);
}

VsockConnection VhostVsock::connect(std::uint32_t guest_port) {
  const std::lock_guard lock(mutex_);
  if (interrupts_ == nullptr) {
    throw Error("connect vsock", ENETDOWN, "the guest has no driver for " + spec_.name);
  }
  if (connections_.size() >= kMaxConnections) {
    throw Error("connect vsock", EAGAIN, std::to_string(kMaxConnections) + " connections are open",
                "close some first");
  }
  UniqueFd fd(::socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) throw Error("connect vsock", errno, "AF_VSOCK of this host");
  sockaddr_vm to{};
  to.svm_family = AF_VSOCK;
  to.svm_cid = state_.cid;
  to.svm_port = guest_port;
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&to), sizeof to) != 0 &&
      errno != EINPROGRESS) {
    throw Error("connect vsock", errno, "port " + std::to_string(guest_port) + " of " + spec_.name);
  }
  const VsockConnection connection = next_connection_++;
  connections_[connection] = {host_port_of(fd.get()), guest_port};
  sockets_.add(connection, std::move(fd), true);
  return connection;
}

std::size_t VhostVsock::host_write(VsockConnection connection, std::span<const std::byte> data) {
  // All, to nowhere, of one that is over.
  if (!sockets_.has(connection)) return data.size();
  const std::size_t room = kVsockWindow - std::min(sockets_.waiting(connection), kVsockWindow);
  const std::span<const std::byte> taken = data.first(std::min(room, data.size()));
  sockets_.write(connection, taken);
  return taken.size();
}

void VhostVsock::consumed(VsockConnection connection, std::size_t bytes) {
  sockets_.taken(connection, bytes);
}

void VhostVsock::close(VsockConnection connection, bool whole) {
  if (!whole) {
    sockets_.shut(connection);
    return;
  }
  sockets_.remove(connection);
  const std::lock_guard lock(mutex_);
  connections_.erase(connection);
}

bool VhostVsock::has(VsockConnection connection) const {
  return sockets_.has(connection);
}

void VhostVsock::connected(StreamSockets::Id socket) {
  Ports ports{};
  {
    const std::lock_guard lock(mutex_);
    const auto found = connections_.find(socket);
    if (found == connections_.end()) return;
    ports = found->second;
  }
  sink_.vsock_open(spec_.name, socket, ports.host, ports.guest);
}

void VhostVsock::received(StreamSockets::Id socket, std::span<const std::byte> data) {
  const iovec piece{const_cast<std::byte*>(data.data()), data.size()};
  sink_.vsock_data(spec_.name, socket, std::span(&piece, 1));
}

void VhostVsock::sent(StreamSockets::Id socket, std::size_t) {
  sink_.vsock_writable(spec_.name, socket);
}

void VhostVsock::ended(StreamSockets::Id socket) {
  sink_.vsock_end(spec_.name, socket);
}

void VhostVsock::closed(StreamSockets::Id socket) {
  sink_.vsock_writable(spec_.name, socket);
  sink_.vsock_close(spec_.name, socket);
}

}  // namespace kvitest
