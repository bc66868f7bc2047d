// Connections of a vsock that are Unix sockets of the host, by Firecracker's convention: whoever
// connects to PATH and writes "CONNECT PORT\n" is answered "OK HOSTPORT\n" and is then connected to
// that port of the guest; whoever listens at PATH_PORT has what the guest connects to that port of
// the host.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "native/unique_fd.h"
#include "native/virtio/vsock/device.h"
#include "native/virtio/vsock/stream_sockets.h"
#include "native/virtio/vsock/vsock.h"

namespace kvitest {

// Stands between the device and its owner, who sees nothing of these connections.
class UnixBridge : public VsockSink, private StreamSockets::Owner {
 public:
  // Listens at once. Throws Error: EADDRINUSE when something is at the path.
  UnixBridge(const VsockSpec& spec, VsockSink& owner);
  ~UnixBridge() override;

  // The device must outlive stop().
  void serve(VsockDevice& device);
  void stop();

  void vsock_open(const std::string& device, VsockConnection connection, std::uint32_t host_port,
                  std::uint32_t guest_port) override;
  std::size_t vsock_data(const std::string& device, VsockConnection connection,
                         std::span<const iovec> pieces) override;
  void vsock_end(const std::string& device, VsockConnection connection) override;
  void vsock_close(const std::string& device, VsockConnection connection) override;
  void vsock_writable(const std::string& device, VsockConnection connection) override;
  bool vsock_wanted(const std::string& device, std::uint32_t host_port) override;

 private:
  using Id = StreamSockets::Id;
  // Of the sockets' thread alone.
  struct Stream {
    std::string line;                // before the guest was asked
    VsockConnection connection = 0;  // 0: not asked yet
    std::vector<std::byte> to_guest;
    bool at_end = false;  // nothing more comes from the socket
    bool end_told = false;
    bool gone = false;  // the socket
  };

  void accepted(Id listener, UniqueFd socket) override;
  void received(Id socket, std::span<const std::byte> data) override;
  void sent(Id socket, std::size_t bytes) override;
  void ended(Id socket) override;
  void closed(Id socket) override;
  // On the sockets' thread.
  void ask_guest(Id socket, Stream& stream, std::span<const std::byte> rest);
  void give_guest(Id socket);
  void forget(Id socket);

  // 0 when it is the owner's.
  Id socket_of(VsockConnection connection);

  const std::string path_;
  VsockSink& owner_;
  VsockDevice* device_ = nullptr;
  std::map<Id, Stream> streams_;  // of the sockets' thread
  std::mutex mutex_;
  std::map<VsockConnection, Id> by_connection_;  // until the device says that it is over
  std::map<Id, std::size_t> own_bytes_;          // of the answer, which the guest has no part in
  UniqueFd offered_;                             // for the vsock_open() that follows vsock_wanted()
  Id next_ = 2;
  std::unique_ptr<StreamSockets> sockets_;
  UniqueFd listener_;  // until serve()
};

// The device with its bridge.
class UnixVsock : private UnixBridge, public VsockDevice {
 public:
  UnixVsock(const VsockSpec& spec, VsockSink& owner)
      : UnixBridge(spec, owner), VsockDevice(spec, static_cast<UnixBridge&>(*this)) {
    serve(*this);
  }
  // The sockets' thread first, which calls the device.
  ~UnixVsock() override { stop(); }
};

}  // namespace kvitest
