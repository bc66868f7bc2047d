#include "native/virtio/vsock/host_ports.h"

#include <sys/socket.h>
// After sys/socket.h, which it needs.
#include <linux/vm_sockets.h>

#include <cerrno>
#include <string>

#include "native/error.h"
#include "native/virtio/vsock/vsock.h"

namespace kvitest {
namespace {

constexpr const char* kListen = "listen on vsock";
constexpr int kBacklog = 64;

UniqueFd listening_socket(std::uint32_t port) {
  UniqueFd fd(::socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) {
    throw Error(kListen, errno, "AF_VSOCK of this host", "load its module: modprobe vhost_vsock");
  }
  sockaddr_vm at{};
  at.svm_family = AF_VSOCK;
  at.svm_cid = VMADDR_CID_ANY;
  at.svm_port = port;
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&at), sizeof at) != 0 ||
      ::listen(fd.get(), kBacklog) != 0) {
    const char* hint = errno == EADDRINUSE ? "another process of the host listens there"
                       : errno == EACCES   ? "ports below 1024 take CAP_NET_BIND_SERVICE"
                                           : "";
    throw Error(kListen, errno, "port " + std::to_string(port) + " of this host", hint);
  }
  return fd;
}

}  // namespace

std::shared_ptr<HostPorts> HostPorts::get() {
  static std::mutex mutex;
  static std::weak_ptr<HostPorts> only;
  const std::lock_guard lock(mutex);
  std::shared_ptr<HostPorts> ports = only.lock();
  if (ports == nullptr) {
    ports = std::make_shared<HostPorts>();
    only = ports;
  }
  return ports;
}

HostPorts::HostPorts() : sockets_("vsock ports", *this, 0) {}

void HostPorts::listen(std::uint32_t cid, std::uint32_t port, Accept accept) {
  const std::lock_guard lock(mutex_);
  const auto found = ports_.find(port);
  if (found != ports_.end()) {
    found->second.guests[cid] = std::move(accept);
    return;
  }
  UniqueFd fd = listening_socket(port);
  const StreamSockets::Id listener = next_++;
  ports_[port] = {listener, {{cid, std::move(accept)}}};
  sockets_.listen(listener, std::move(fd));
}

void HostPorts::close(std::uint32_t cid, std::uint32_t port) {
  const std::lock_guard lock(mutex_);
  const auto found = ports_.find(port);
  if (found == ports_.end()) return;
  found->second.guests.erase(cid);
  if (!found->second.guests.empty()) return;
  sockets_.remove(found->second.listener);
  ports_.erase(found);
}

void HostPorts::accepted(StreamSockets::Id listener, UniqueFd socket) {
  sockaddr_vm from{};
  socklen_t length = sizeof from;
  if (::getpeername(socket.get(), reinterpret_cast<sockaddr*>(&from), &length) != 0) return;
  const std::lock_guard lock(mutex_);
  for (const auto& [port, one] : ports_) {
    if (one.listener != listener) continue;
    const auto guest = one.guests.find(from.svm_cid);
    if (guest != one.guests.end()) guest->second(std::move(socket), from.svm_port);
    return;
  }
}

}  // namespace kvitest
