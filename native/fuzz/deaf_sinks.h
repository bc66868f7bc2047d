// The host's side of devices that speak to it: hears everything and says nothing by itself.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "native/virtio/console/console.h"
#include "native/virtio/vsock/vsock.h"

namespace kvitest {

class DeafConsole : public ConsoleSink {
 public:
  void port_data(const std::string&, std::span<const std::byte> data) override {
    waiting += data.size();
  }
  void port_open(const std::string&, bool) override {}
  void port_writable(const std::string&, std::size_t) override {}

  std::size_t waiting = 0;
};

class DeafVsock : public VsockSink {
 public:
  void vsock_open(const std::string&, VsockConnection opened, std::uint32_t,
                  std::uint32_t) override {
    connection = opened;
  }
  std::size_t vsock_data(const std::string&, VsockConnection,
                         std::span<const iovec> pieces) override {
    // Read, as any owner does: they must be the guest's memory.
    for (const iovec& piece : pieces) {
      const auto* const bytes = static_cast<const std::byte*>(piece.iov_base);
      data.assign(bytes, bytes + piece.iov_len);
      waiting += data.size();
    }
    return 0;
  }
  void vsock_end(const std::string&, VsockConnection) override {}
  void vsock_close(const std::string&, VsockConnection) override {}
  void vsock_writable(const std::string&, VsockConnection) override {}

  VsockConnection connection = 0;
  std::vector<std::byte> data;
  std::size_t waiting = 0;
};

}  // namespace kvitest
