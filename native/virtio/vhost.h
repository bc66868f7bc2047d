// Rings that the host's kernel serves in the device's place (linux/vhost.h).
#pragma once

#include <cstdint>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "native/memory/guest_memory.h"
#include "native/unique_fd.h"
#include "native/virtio/device.h"
#include "native/virtio/queue.h"

namespace kvitest {

struct VhostSpec {
  std::string device;    // of the machine, for errors and the thread's name
  std::string path;      // /dev/vhost-vsock
  std::string module;    // that makes it
  std::uint16_t queues;  // the kernel serves so many of the device's, from its first
};

// One open /dev/vhost-*. What the kernel may touch is the guest's RAM, as memory.regions() has it,
// and nothing else of this process.
class Vhost {
 public:
  // The memory must outlive it. Throws Error, naming the host's file: ENOENT without the module,
  // EACCES.
  Vhost(VhostSpec spec, const GuestMemory& memory);
  ~Vhost();
  Vhost(const Vhost&) = delete;
  Vhost& operator=(const Vhost&) = delete;

  int fd() const { return fd_.get(); }
  // What the kernel knows, of the device and of its rings.
  std::uint64_t features() const { return features_; }
  // An eventfd: whoever signals it rings.
  int doorbell(std::uint16_t queue) const;
  void ring(std::uint16_t queue) const;

  // Gives the kernel the rings, from where they stand. The caller then turns its backend on, and
  // rings each: what waits in them nobody else tells. Throws Error; the rings are then nobody's.
  void start(std::uint64_t driver_features, std::span<VirtQueue* const> queues,
             VirtioInterrupts& interrupts);
  // The backend is off: the queues stand where the kernel left them, and what it wanted to tell the
  // driver was told. After it, nothing calls the interrupts.
  void stop();

  // An ioctl of the device. Throws Error.
  template <typename Argument>
  void call(unsigned long request, const char* name, Argument* argument) const {
    call_raw(request, name, argument);
  }

 private:
  struct Ring {
    UniqueFd kick;
    UniqueFd call;
    UniqueFd error;
  };
  void call_raw(unsigned long request, const char* name, void* argument) const;
  void set_memory() const;
  void set_ring(std::uint16_t index, const VirtQueue& queue) const;
  std::uint64_t host_address(Gpa gpa) const;
  void serve(const std::string& name);
  // With mutex_ held.
  void pass_on(std::uint16_t index);

  const VhostSpec spec_;
  const GuestMemory& memory_;
  UniqueFd fd_;
  std::uint64_t features_ = 0;
  std::vector<Ring> rings_;
  UniqueFd end_;
  UniqueFd poll_;
  std::mutex mutex_;
  std::vector<VirtQueue*> queues_;  // empty while stopped
  VirtioInterrupts* interrupts_ = nullptr;
  std::thread thread_;
};

}  // namespace kvitest
