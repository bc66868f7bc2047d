#include "native/virtio/vhost.h"

#include <fcntl.h>
// Without what is no C++.
#define VIRTIO_RING_NO_LEGACY
#include <linux/vhost.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "native/counts.h"
#include "native/error.h"
#include "native/quiet_thread.h"

namespace kvitest {
namespace {

// Of an epoll event: the ring's number and which of its descriptors it is.
constexpr std::uint64_t kErrorBit = std::uint64_t{1} << 32;
constexpr std::uint64_t kEnd = ~std::uint64_t{0};

UniqueFd make_eventfd(const VhostSpec& spec) {
  UniqueFd fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!fd) throw Error("eventfd", errno, spec.device + ": a ring of " + spec.path);
  return fd;
}

UniqueFd open_device(const VhostSpec& spec) {
  UniqueFd fd(::open(spec.path.c_str(), O_RDWR | O_CLOEXEC));
  if (fd) return fd;
  const bool absent = errno == ENOENT || errno == ENODEV || errno == ENXIO;
  throw Error("open vhost", errno, spec.path + " of this host, for " + spec.device,
              absent ? "load its module (modprobe " + spec.module + "), or " + spec.instead
                     : "its group or root may open it");
}

bool take(int eventfd) {
  eventfd_t count = 0;
  return ::eventfd_read(eventfd, &count) == 0;
}

}  // namespace

Vhost::Vhost(VhostSpec spec, const GuestMemory& memory, VhostBackend& backend)
    : spec_(std::move(spec)),
      memory_(memory),
      fd_(open_device(spec_)),
      end_(make_eventfd(spec_)),
      poll_(::epoll_create1(EPOLL_CLOEXEC)),
      backend_(backend) {
  if (!poll_) throw Error("epoll_create1", errno, spec_.device);
  call_raw(VHOST_SET_OWNER, "VHOST_SET_OWNER", nullptr);
  call(VHOST_GET_FEATURES, "VHOST_GET_FEATURES", &features_);
  const auto watch = [this](int fd, std::uint64_t what) {
    epoll_event event{.events = EPOLLIN, .data = {.u64 = what}};
    if (::epoll_ctl(poll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) {
      throw Error("epoll_ctl", errno, spec_.device);
    }
  };
  for (std::uint16_t i = 0; i < spec_.queues; ++i) {
    rings_.push_back({make_eventfd(spec_), make_eventfd(spec_), make_eventfd(spec_)});
    watch(rings_[i].call.get(), i);
    watch(rings_[i].error.get(), i | kErrorBit);
  }
  watch(end_.get(), kEnd);
  thread_ = quiet_thread("vhost of " + spec_.device,
                         [this, name = "kvitest-" + spec_.device] { serve(name); });
  ++live_threads;
}

Vhost::~Vhost() {
  static_cast<void>(::eventfd_write(end_.get(), 1));
  thread_.join();
  --live_threads;
}

void Vhost::call_raw(unsigned long request, const char* name, void* argument) const {
  if (::ioctl(fd_.get(), request, argument) == 0) return;
  throw Error(name, errno, spec_.path + " of this host, for " + spec_.device);
}

int Vhost::doorbell(std::uint16_t queue) const {
  return queue < rings_.size() ? rings_[queue].kick.get() : -1;
}

void Vhost::ring(std::uint16_t queue) const {
  // Full is rung.
  if (queue < rings_.size()) static_cast<void>(::eventfd_write(rings_[queue].kick.get(), 1));
}

void Vhost::set_memory() const {
  const std::span<const RamRegion> regions = memory_.regions();
  // The table ends in as many regions as it says (VHOST_SET_MEM_TABLE).
  std::vector<std::byte> bytes(sizeof(vhost_memory) + regions.size() * sizeof(vhost_memory_region));
  vhost_memory head{};
  head.nregions = static_cast<std::uint32_t>(regions.size());
  std::memcpy(bytes.data(), &head, sizeof head);
  std::size_t at = sizeof head;
  for (const RamRegion& region : regions) {
    vhost_memory_region one{};
    one.guest_phys_addr = region.base;
    one.memory_size = region.size;
    one.userspace_addr = reinterpret_cast<std::uint64_t>(region.host);
    std::memcpy(bytes.data() + at, &one, sizeof one);
    at += sizeof one;
  }
  call(VHOST_SET_MEM_TABLE, "VHOST_SET_MEM_TABLE", bytes.data());
}

// Of a ring, which check_layout() has found to lie in RAM.
std::uint64_t Vhost::host_address(Gpa gpa) const {
  for (const RamRegion& region : memory_.regions()) {
    if (gpa >= region.base && gpa - region.base < region.size) {
      return reinterpret_cast<std::uint64_t>(region.host) + (gpa - region.base);
    }
  }
  throw Error("VHOST_SET_VRING_ADDR", EFAULT, spec_.device + ": a ring outside of RAM");
}

void Vhost::set_ring(std::uint16_t index, const VirtQueue& queue) const {
  const QueueLayout& layout = queue.layout();
  vhost_vring_state state{.index = index, .num = layout.size};
  call(VHOST_SET_VRING_NUM, "VHOST_SET_VRING_NUM", &state);
  state.num = queue.state().next;
  call(VHOST_SET_VRING_BASE, "VHOST_SET_VRING_BASE", &state);
  vhost_vring_addr address{};
  address.index = index;
  address.desc_user_addr = host_address(layout.descriptors);
  address.avail_user_addr = host_address(layout.driver);
  address.used_user_addr = host_address(layout.device);
  call(VHOST_SET_VRING_ADDR, "VHOST_SET_VRING_ADDR", &address);
  vhost_vring_file file{.index = index, .fd = rings_[index].kick.get()};
  call(VHOST_SET_VRING_KICK, "VHOST_SET_VRING_KICK", &file);
  file.fd = rings_[index].call.get();
  call(VHOST_SET_VRING_CALL, "VHOST_SET_VRING_CALL", &file);
  file.fd = rings_[index].error.get();
  call(VHOST_SET_VRING_ERR, "VHOST_SET_VRING_ERR", &file);
}

bool Vhost::may_run() const {
  return !running_ && !paused_ && !held_ && queues_.size() >= spec_.queues &&
         std::ranges::none_of(std::span(queues_).first(spec_.needed),
                              [](const VirtQueue* queue) { return queue == nullptr; });
}

void Vhost::run() {
  if (!may_run()) return;
  // The table first: features and rings are checked against it.
  set_memory();
  std::uint64_t features = driver_features_ & features_;
  call(VHOST_SET_FEATURES, "VHOST_SET_FEATURES", &features);
  for (std::uint16_t i = 0; i < spec_.queues; ++i) {
    if (queues_[i] != nullptr) set_ring(i, *queues_[i]);
  }
  running_ = true;
  // Beside the thread, to which KVM leaves what it cannot deliver itself.
  for (std::uint16_t i = 0; i < spec_.queues; ++i) {
    if (queues_[i] != nullptr) interrupts_->add_queue_irqfd(i, rings_[i].call.get());
  }
  try {
    backend_.begin(driver_features_);
  } catch (const Error&) {
    halt();
    throw;
  }
  // What waits in them nobody else tells.
  for (std::uint16_t i = 0; i < spec_.queues; ++i) ring(i);
}

// On a vCPU's thread, or where nobody could mend it: the driver is the one to be told.
void Vhost::run_or_tell() {
  try {
    run();
  } catch (const Error&) {
    interrupts_->needs_reset();
  }
}

void Vhost::halt() {
  if (!std::exchange(running_, false)) return;
  for (std::uint16_t i = 0; i < spec_.queues; ++i) interrupts_->remove_queue_irqfd(i);
  try {
    backend_.end();
    take_rings_back();
  } catch (const Error&) {
    // Neither fails but for another process's device; nobody who stops a machine can mend it.
    interrupts_->needs_reset();
  }
}

void Vhost::take_rings_back() {
  for (std::uint16_t i = 0; i < spec_.queues; ++i) {
    if (queues_[i] == nullptr) continue;
    vhost_vring_state position{.index = i, .num = 0};
    call(VHOST_GET_VRING_BASE, "VHOST_GET_VRING_BASE", &position);
    // Each request is given back before the next is taken, so that nothing is on its way. The index
    // is in RAM, as the whole ring was when it was given away.
    const auto used = memory_.load<std::uint16_t>(queues_[i]->layout().device + 2);
    QueueState state = queues_[i]->state();
    state.next = static_cast<std::uint16_t>(position.num);
    state.used = state.announced = used.value_or(state.next);
    queues_[i]->move_to(state);
    pass_on(i);
  }
}

void Vhost::load(const VirtioActivation& active) {
  const std::lock_guard lock(mutex_);
  driver_features_ = active.features;
  queues_.assign(active.queues.begin(), active.queues.end());
  interrupts_ = &active.interrupts;
}

void Vhost::activate(const VirtioActivation& active) {
  load(active);
  const std::lock_guard lock(mutex_);
  run_or_tell();
}

void Vhost::resume() {
  const std::lock_guard lock(mutex_);
  run();
}

void Vhost::reset() {
  const std::lock_guard lock(mutex_);
  halt();
  queues_.clear();
  interrupts_ = nullptr;
  driver_features_ = 0;
}

void Vhost::pause() {
  const std::lock_guard lock(mutex_);
  halt();
  paused_ = true;
}

void Vhost::unpause() {
  const std::lock_guard lock(mutex_);
  paused_ = false;
  run_or_tell();
}

void Vhost::hold(bool on) {
  const std::lock_guard lock(mutex_);
  held_ = on;
  if (on) {
    halt();
  } else {
    run_or_tell();
  }
}

// What the kernel says of a ring becomes the transport's interrupt, which knows whether its vector
// is masked.
void Vhost::pass_on(std::uint16_t index) {
  if (take(rings_[index].call.get()) && interrupts_ != nullptr) interrupts_->queue_interrupt(index);
  // The driver broke the ring's rules, or its buffers are no RAM (VHOST_SET_VRING_ERR).
  if (take(rings_[index].error.get()) && interrupts_ != nullptr) interrupts_->needs_reset();
}

void Vhost::serve(const std::string& name) {
  ::pthread_setname_np(::pthread_self(), name.substr(0, 15).c_str());
  while (true) {
    epoll_event event{};
    const int ready = ::epoll_wait(poll_.get(), &event, 1, -1);
    if (ready < 0 && errno != EINTR) return;
    if (ready != 1) continue;
    if (event.data.u64 == kEnd) return;
    const std::lock_guard lock(mutex_);
    pass_on(static_cast<std::uint16_t>(event.data.u64 & ~kErrorBit));
  }
}

}  // namespace kvitest
