// virtio-vsock (virtio 1.3, 5.10): stream sockets between the guest and the host.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "native/memory/guest_memory.h"
#include "native/virtio/device.h"

namespace kvitest {

inline constexpr std::uint64_t kVsockHostCid = 2;
inline constexpr std::uint32_t kVsockFirstGuestCid = 3;
inline constexpr std::uint32_t kVsockAnyCid = 0xffff'ffff;

enum class VsockBackend : std::uint8_t {
  kStreams,  // this device's own connections, which its owner listens for and makes
  kVhost,    // the host's kernel
  kUnix,     // as kStreams, and Unix sockets of the host: unix_bridge.h
};

inline constexpr std::size_t kVsockMaxPath = 96;

struct VsockSpec {
  std::string name;  // of the machine's devices
  std::uint32_t cid = kVsockFirstGuestCid;
  VsockBackend backend = VsockBackend::kStreams;
  std::string path{};  // of kUnix
  std::vector<std::string> without_features{};
};

// Throws Error (EINVAL) naming the first thing that no vsock can be.
void validate(const VsockSpec& spec);

// Names one connection for as long as its device lives.
using VsockConnection = std::uint32_t;

// What the guest does, in order. Called with the device's lock held: must not block, and not call
// the device.
class VsockSink {
 public:
  virtual ~VsockSink() = default;
  // The guest connected to a port that the host listens on, or accepted what connect() asked for.
  virtual void vsock_open(const std::string& device, VsockConnection connection,
                          std::uint32_t host_port, std::uint32_t guest_port) = 0;
  // Bytes, where they lie: in the guest's memory, which it changes meanwhile. Returns how many need
  // no consumed() any more.
  virtual std::size_t vsock_data(const std::string& device, VsockConnection connection,
                                 std::span<const iovec> pieces) = 0;
  // The guest sends no more.
  virtual void vsock_end(const std::string& device, VsockConnection connection) = 0;
  // It is over; of one that was never open: refused.
  virtual void vsock_close(const std::string& device, VsockConnection connection) = 0;
  // host_write() takes more again.
  virtual void vsock_writable(const std::string& device, VsockConnection connection) = 0;
  // Whether somebody takes a connection to a port of the host that nobody listens on; if so,
  // vsock_open() follows at once.
  virtual bool vsock_wanted(const std::string&, std::uint32_t) { return false; }
};

// Bytes of a connection that may be on their way to the host before it says consumed(), and that
// may wait for the guest.
inline constexpr std::size_t kVsockWindow = 256 * 1024;

class Vsock : public VirtioDevice {
 public:
  // A packet out and the credit for it that comes in are one interrupt, where two vectors are two.
  std::size_t queue_vectors() const override { return 1; }
  // Of a device that was restored, before resume().
  virtual void set_cid(std::uint32_t cid) = 0;
  // Whether connections of the guest to a port of the host are accepted.
  virtual void listen(std::uint32_t host_port, bool on) = 0;
  // Asks the guest; vsock_open() or vsock_close() follows. Throws Error: EAGAIN when there are too
  // many connections, ENETDOWN when the guest has no driver.
  virtual VsockConnection connect(std::uint32_t guest_port) = 0;
  // How many of the bytes were taken: all, to nowhere, of a connection that is over.
  virtual std::size_t host_write(VsockConnection connection, std::span<const std::byte> data) = 0;
  virtual void consumed(VsockConnection connection, std::size_t bytes) = 0;
  // Once for each connection, also for one that is over. No more bytes of the host come; with
  // `whole`, nor are any of the guest taken. What was written before is sent.
  virtual void close(VsockConnection connection, bool whole) = 0;
  virtual bool has(VsockConnection connection) const = 0;
};

std::unique_ptr<Vsock> make_vsock(const VsockSpec& spec, VsockSink& sink);
// Throws Error: EADDRINUSE when something is at the spec's path.
std::unique_ptr<Vsock> make_unix_vsock(const VsockSpec& spec, VsockSink& sink);
// The memory must outlive it; restored: load() follows, and the CID is claimed by resume() only.
// Throws Error: ENOENT where the host has no vhost-vsock, EADDRINUSE for a CID that the host has
// given to another guest.
std::unique_ptr<Vsock> make_vhost_vsock(const VsockSpec& spec, VsockSink& sink,
                                        const GuestMemory& memory, bool restored);

}  // namespace kvitest
