// The machine's vsocks: their owner's calls, and what their guest does as events.
#include <cerrno>
#include <utility>

#include "native/error.h"
#include "native/machine/machine.h"

namespace kvitest {

Vsock& Machine::vsock(const std::string& name, const char* operation) const {
  require_running(operation);
  Vsock* device = board_->vsock(name);
  if (device != nullptr) return *device;
  throw Error(operation, ENOENT, "machine " + spec_.name + " has no vsock \"" + name + "\"");
}

void Machine::vsock_listen(std::string device, std::uint32_t host_port, bool on, Done done) {
  loop_.post([this, device = std::move(device), host_port, on, done = std::move(done)] {
    answer(done, [&] { vsock(device, "listen on vsock").listen(host_port, on); });
  });
}

void Machine::vsock_connect(std::string device, std::uint32_t guest_port,
                            std::function<void(std::string channel, std::exception_ptr)> done) {
  loop_.post([this, device = std::move(device), guest_port, done = std::move(done)] {
    answer(done, [&] {
      return vsock_channel(device, vsock(device, "connect vsock").connect(guest_port));
    });
  });
}

void Machine::vsock_shut(std::string channel, bool whole, Done done) {
  loop_.post([this, channel = std::move(channel), whole, done = std::move(done)] {
    answer(done, [&] {
      require_running("close vsock");
      const auto [device, connection] = board_->connection_of(channel);
      if (device != nullptr) device->close(connection, whole);
    });
  });
}

void Machine::vsock_open(const std::string& device, VsockConnection connection,
                         std::uint32_t host_port, std::uint32_t guest_port) {
  events_.push(VsockEvent{device, vsock_channel(device, connection), VsockEvent::Kind::kOpen,
                          host_port, guest_port});
}

std::size_t Machine::vsock_data(const std::string& device, VsockConnection connection,
                                std::span<const iovec> pieces) {
  events_.push_data(vsock_channel(device, connection), pieces);
  return 0;
}

void Machine::vsock_end(const std::string& device, VsockConnection connection) {
  events_.push(VsockEvent{device, vsock_channel(device, connection), VsockEvent::Kind::kEnd});
}

void Machine::vsock_close(const std::string& device, VsockConnection connection) {
  events_.push(VsockEvent{device, vsock_channel(device, connection), VsockEvent::Kind::kClose});
}

void Machine::vsock_writable(const std::string& device, VsockConnection connection) {
  port_writable(vsock_channel(device, connection), 0);
}

}  // namespace kvitest
