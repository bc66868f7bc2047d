// AF_VSOCK ports of this process, which guests behind vhost-vsock connect to. The host has each
// port once, for all its guests: a guest is told apart by its CID.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <utility>

#include "native/unique_fd.h"
#include "native/virtio/vsock/stream_sockets.h"

namespace kvitest {

class HostPorts : private StreamSockets::Owner {
 public:
  // The guest has connected from this port of its own. Must not call back.
  using Accept = std::function<void(UniqueFd socket, std::uint32_t guest_port)>;

  // The process's one, made for the first that asks and gone with the last.
  static std::shared_ptr<HostPorts> get();

  HostPorts();

  // What the guest of this CID connects to; a guest that does not listen there is hung up on.
  // Throws Error: EADDRINUSE when another process of the host has the port.
  void listen(std::uint32_t cid, std::uint32_t port, Accept accept);
  // When it returns, the last accept() has.
  void close(std::uint32_t cid, std::uint32_t port);

 private:
  struct Port {
    StreamSockets::Id listener = 0;
    std::map<std::uint32_t, Accept> guests;  // by CID
  };
  void accepted(StreamSockets::Id listener, UniqueFd socket) override;
  void received(StreamSockets::Id, std::span<const std::byte>) override {}
  void sent(StreamSockets::Id, std::size_t) override {}
  void ended(StreamSockets::Id) override {}
  void closed(StreamSockets::Id) override {}

  std::mutex mutex_;
  std::map<std::uint32_t, Port> ports_;
  StreamSockets::Id next_ = 1;
  StreamSockets sockets_;  // last: its thread uses the above
};

}  // namespace kvitest
