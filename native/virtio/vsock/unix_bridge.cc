#include "native/virtio/vsock/unix_bridge.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <optional>
#include <string_view>
#include <utility>

#include "native/error.h"

namespace kvitest {
namespace {

constexpr StreamSockets::Id kListener = 1;
constexpr int kBacklog = 64;
constexpr std::size_t kMaxStreams = 256;
constexpr std::string_view kConnect = "CONNECT ";
// "CONNECT 4294967295", without its end.
constexpr std::size_t kMaxLine = 18;

UniqueFd make_socket() {
  return UniqueFd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
}

// validate() has seen to the length.
sockaddr_un address_of(const std::string& path) {
  sockaddr_un at{};
  at.sun_family = AF_UNIX;
  path.copy(at.sun_path, sizeof at.sun_path - 1);
  return at;
}

UniqueFd listen_at(const VsockSpec& spec) {
  UniqueFd fd = make_socket();
  const sockaddr_un at = address_of(spec.path);
  if (!fd || ::bind(fd.get(), reinterpret_cast<const sockaddr*>(&at), sizeof at) != 0 ||
      ::listen(fd.get(), kBacklog) != 0) {
    throw Error("listen for vsock", errno, spec.name + ": " + spec.path + " of this host",
                errno == EADDRINUSE
                    ? "remove it when nobody uses it; give this one, or this fork, another path"
                    : "");
  }
  return fd;
}

// None for what is no request.
std::optional<std::uint32_t> requested_port(std::string_view line) {
  if (!line.starts_with(kConnect)) return std::nullopt;
  std::uint32_t port = 0;
  const char* const end = line.data() + line.size();
  const auto [rest, error] = std::from_chars(line.data() + kConnect.size(), end, port);
  if (error != std::errc() || rest != end) return std::nullopt;
  return port;
}

}  // namespace

UnixBridge::UnixBridge(const VsockSpec& spec, VsockSink& owner)
    : path_(spec.path),
      owner_(owner),
      sockets_(std::make_unique<StreamSockets>(spec.name, static_cast<StreamSockets::Owner&>(*this),
                                               kVsockWindow)),
      listener_(listen_at(spec)) {}

UnixBridge::~UnixBridge() {
  stop();
  ::unlink(path_.c_str());
}

void UnixBridge::serve(VsockDevice& device) {
  device_ = &device;
  sockets_->listen(kListener, std::move(listener_));
}

// Their thread calls us, and we them, until it has ended: not before is there anything to take
// away.
void UnixBridge::stop() {
  sockets_->stop();
}

StreamSockets::Id UnixBridge::socket_of(VsockConnection connection) {
  const std::lock_guard lock(mutex_);
  const auto found = by_connection_.find(connection);
  return found == by_connection_.end() ? 0 : found->second;
}

// ---- what the guest does, with the device's lock held

bool UnixBridge::vsock_wanted(const std::string&, std::uint32_t host_port) {
  UniqueFd fd = make_socket();
  const sockaddr_un at = address_of(path_ + "_" + std::to_string(host_port));
  // Without waiting: one whose backlog is full refuses.
  if (!fd || ::connect(fd.get(), reinterpret_cast<const sockaddr*>(&at), sizeof at) != 0) {
    return false;
  }
  const std::lock_guard lock(mutex_);
  offered_ = std::move(fd);
  return true;
}

void UnixBridge::vsock_open(const std::string& device, VsockConnection connection,
                            std::uint32_t host_port, std::uint32_t guest_port) {
  Id socket = socket_of(connection);
  if (socket != 0) {
    const std::string answer = "OK " + std::to_string(host_port) + "\n";
    {
      const std::lock_guard lock(mutex_);
      own_bytes_[socket] = answer.size();
    }
    const std::size_t gone = sockets_->write(socket, std::as_bytes(std::span(answer)));
    const std::lock_guard lock(mutex_);
    own_bytes_[socket] -= gone;
    return;
  }
  UniqueFd fd;
  {
    const std::lock_guard lock(mutex_);
    if (offered_) {
      socket = next_++;
      by_connection_[connection] = socket;
      fd = std::move(offered_);
    }
  }
  if (!fd) {
    owner_.vsock_open(device, connection, host_port, guest_port);
    return;
  }
  sockets_->post([this, socket, connection] { streams_[socket].connection = connection; });
  sockets_->add(socket, std::move(fd));
}

std::size_t UnixBridge::vsock_data(const std::string& device, VsockConnection connection,
                                   std::span<const iovec> pieces) {
  const Id socket = socket_of(connection);
  return socket != 0 ? sockets_->write(socket, pieces)
                     : owner_.vsock_data(device, connection, pieces);
}

void UnixBridge::vsock_end(const std::string& device, VsockConnection connection) {
  if (const Id socket = socket_of(connection); socket != 0) {
    sockets_->shut(socket);
  } else {
    owner_.vsock_end(device, connection);
  }
}

void UnixBridge::vsock_close(const std::string& device, VsockConnection connection) {
  const Id socket = socket_of(connection);
  if (socket == 0) {
    owner_.vsock_close(device, connection);
    return;
  }
  // What the guest sent before still goes there.
  sockets_->remove(socket);
  sockets_->post([this, socket, connection] {
    device_->close(connection, true);
    forget(socket);
    const std::lock_guard lock(mutex_);
    by_connection_.erase(connection);
  });
}

void UnixBridge::vsock_writable(const std::string& device, VsockConnection connection) {
  if (const Id socket = socket_of(connection); socket != 0) {
    sockets_->post([this, socket] { give_guest(socket); });
  } else {
    owner_.vsock_writable(device, connection);
  }
}

// ---- what the sockets do

void UnixBridge::accepted(Id, UniqueFd fd) {
  // Whoever comes when there are that many is hung up on, as one whom the guest refuses.
  if (streams_.size() >= kMaxStreams) return;
  Id socket = 0;
  {
    const std::lock_guard lock(mutex_);
    socket = next_++;
  }
  streams_[socket] = {};
  sockets_->add(socket, std::move(fd));
}

void UnixBridge::received(Id socket, std::span<const std::byte> data) {
  const auto found = streams_.find(socket);
  if (found == streams_.end()) return;
  Stream& stream = found->second;
  if (stream.connection != 0) {
    stream.to_guest.insert(stream.to_guest.end(), data.begin(), data.end());
    give_guest(socket);
    return;
  }
  for (std::size_t i = 0; i < data.size(); ++i) {
    const char c = static_cast<char>(data[i]);
    if (c == '\n') {
      sockets_->taken(socket, stream.line.size() + 1);
      ask_guest(socket, stream, data.subspan(i + 1));
      return;
    }
    if (stream.line.size() == kMaxLine) break;
    stream.line += c;
    if (i + 1 == data.size()) return;
  }
  // No request.
  sockets_->remove(socket);
  forget(socket);
}

void UnixBridge::ask_guest(Id socket, Stream& stream, std::span<const std::byte> rest) {
  const auto port = requested_port(stream.line);
  try {
    if (!port) throw Error("connect vsock", EINVAL, stream.line);
    stream.to_guest.assign(rest.begin(), rest.end());
    stream.connection = device_->connect_as(*port, [this, socket](VsockConnection connection) {
      const std::lock_guard lock(mutex_);
      by_connection_[connection] = socket;
    });
    give_guest(socket);
  } catch (const Error&) {
    // No request, no driver in the guest, or too many connections: hung up on, as the convention
    // has it.
    sockets_->remove(socket);
    forget(socket);
  }
}

void UnixBridge::give_guest(Id socket) {
  const auto found = streams_.find(socket);
  if (found == streams_.end() || found->second.connection == 0) return;
  Stream& stream = found->second;
  std::size_t given = 0;
  while (given < stream.to_guest.size()) {
    const std::size_t taken =
        device_->host_write(stream.connection, std::span(stream.to_guest).subspan(given));
    if (taken == 0) break;
    given += taken;
  }
  stream.to_guest.erase(stream.to_guest.begin(),
                        stream.to_guest.begin() + static_cast<std::ptrdiff_t>(given));
  sockets_->taken(socket, given);
  if (!stream.to_guest.empty()) return;
  if (stream.gone) {
    device_->close(stream.connection, true);
    sockets_->remove(socket);
    forget(socket);
  } else if (stream.at_end && !std::exchange(stream.end_told, true)) {
    device_->close(stream.connection, false);
  }
}

void UnixBridge::sent(Id socket, std::size_t bytes) {
  {
    const std::lock_guard lock(mutex_);
    const auto own = own_bytes_.find(socket);
    if (own != own_bytes_.end()) {
      const std::size_t part = std::min(own->second, bytes);
      bytes -= part;
      own->second -= part;
    }
  }
  const auto found = streams_.find(socket);
  if (found != streams_.end() && bytes != 0) device_->consumed(found->second.connection, bytes);
}

void UnixBridge::ended(Id socket) {
  const auto found = streams_.find(socket);
  if (found == streams_.end()) return;
  found->second.at_end = true;
  give_guest(socket);
}

void UnixBridge::closed(Id socket) {
  const auto found = streams_.find(socket);
  if (found == streams_.end()) return;
  found->second.gone = true;
  if (found->second.connection != 0) {
    give_guest(socket);
    return;
  }
  sockets_->remove(socket);
  forget(socket);
}

void UnixBridge::forget(Id socket) {
  streams_.erase(socket);
  const std::lock_guard lock(mutex_);
  own_bytes_.erase(socket);
}

std::unique_ptr<Vsock> make_unix_vsock(const VsockSpec& spec, VsockSink& sink) {
  return std::make_unique<UnixVsock>(spec, sink);
}

}  // namespace kvitest
