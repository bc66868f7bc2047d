// Rings that the host's kernel serves in the device's place (linux/vhost.h).
#pragma once

#include <cstdint>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <utility>
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
  std::uint16_t needed;  // a driver that leaves one of the first of them out gets none served
  std::string instead;   // for a host without it: "leave the device's backend out"
};

// What is each device's own of having its rings served. Called with the locks of the Vhost held,
// and of whoever called that.
class VhostBackend {
 public:
  virtual ~VhostBackend() = default;
  // The kernel knows where the rings are: it shall serve them. Throws Error.
  virtual void begin(std::uint64_t features) = 0;
  // It shall not; when this returns it has let go of every request. Also after a begin() that threw
  // halfway. Throws Error.
  virtual void end() = 0;
};

// One open /dev/vhost-*, and the life of a device's rings in the kernel. What that may touch is the
// guest's RAM, as memory.regions() has it, and nothing else of this process.
class Vhost {
 public:
  // The memory and the backend must outlive it; nothing of the backend is called here. Throws
  // Error, naming the host's file: ENOENT without the module, EACCES.
  Vhost(VhostSpec spec, const GuestMemory& memory, VhostBackend& backend);
  // Rings that the kernel has it keeps until the file is closed.
  ~Vhost();
  Vhost(const Vhost&) = delete;
  Vhost& operator=(const Vhost&) = delete;

  int fd() const { return fd_.get(); }
  // What the kernel knows, of the device and of its rings.
  std::uint64_t features() const { return features_; }
  // An eventfd: whoever signals it rings.
  int doorbell(std::uint16_t queue) const;
  void ring(std::uint16_t queue) const;

  // What the device's transport tells it. The kernel has the rings from activate() or resume() to
  // reset(), but while they are held or the device is paused; a driver that leaves one out that is
  // needed has none. When they come back the queues stand where the kernel left them, and what it
  // wanted to tell the driver was told: after that nothing calls the interrupts.
  void activate(const VirtioActivation& active);  // DEVICE_NEEDS_RESET when the kernel refuses
  void load(const VirtioActivation& active);
  void resume();  // throws Error; the rings are then nobody's
  void reset();
  void pause();
  void unpause();
  void hold(bool on);  // the device has no use for what the kernel would do

  // Tells the kernel where the guest's RAM is, as activate() does; for a device that asks something
  // of it before. Throws Error.
  void set_memory() const;
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
  std::uint64_t host_address(Gpa gpa) const;
  void set_ring(std::uint16_t index, const VirtQueue& queue) const;
  void serve(const std::string& name);
  // With mutex_ held.
  bool may_run() const;
  void run();  // throws Error
  void run_or_tell();
  void halt();
  void take_rings_back();
  void pass_on(std::uint16_t index);

  const VhostSpec spec_;
  const GuestMemory& memory_;
  UniqueFd fd_;
  std::uint64_t features_ = 0;
  std::vector<Ring> rings_;
  UniqueFd end_;
  UniqueFd poll_;
  std::mutex mutex_;
  VhostBackend& backend_;
  std::uint64_t driver_features_ = 0;
  std::vector<VirtQueue*> queues_;  // empty while not active
  VirtioInterrupts* interrupts_ = nullptr;
  bool running_ = false;  // the kernel has the rings
  bool paused_ = false;
  bool held_ = false;
  std::thread thread_;
};

// A device whose rings are in the kernel, as its transport sees it; Base is VirtioDevice, or the
// interface of its kind.
template <typename Base>
class VhostServed : public Base, protected VhostBackend {
 public:
  bool rings_are_of_host() const override { return true; }
  int doorbell(std::uint16_t queue) const override { return vhost_.doorbell(queue); }
  void notify(std::uint16_t queue) override { vhost_.ring(queue); }
  void pause() override { vhost_.pause(); }
  void unpause() override { vhost_.unpause(); }

 protected:
  VhostServed(VhostSpec spec, const GuestMemory& memory) : vhost_(std::move(spec), memory, *this) {}

  Vhost vhost_;
};

}  // namespace kvitest
