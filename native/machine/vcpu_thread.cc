#include "native/machine/vcpu_thread.h"

#include <chrono>
#include <utility>
#include <variant>

#include "native/counts.h"
#include "native/error.h"
#include "native/kvm/kick_signal.h"
#include "native/machine/task_loop.h"
#include "native/quiet_thread.h"

namespace kvitest {

VcpuThread::VcpuThread(Vcpu& vcpu, std::string machine_name, Handler handler)
    : vcpu_(vcpu), machine_name_(std::move(machine_name)), handler_(std::move(handler)) {}

VcpuThread::~VcpuThread() {
  request_stop();
  join();
}

void VcpuThread::start(bool halted) {
  halted_ = halted;
  kick_signal();  // installed before any thread could be kicked
  thread_ = quiet_thread("vCPU " + std::to_string(vcpu_.index()) + " of machine " + machine_name_,
                         [this] { run(); });
  ++live_threads;
}

VcpuThread::Entry VcpuThread::enter() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] {
    if (stop_) return true;
    if (settling_ && !settled_) return true;
    return pauses_ == 0 && !settling_ && !halted_;
  });
  if (stop_) return Entry::kNone;
  if (settling_) {
    vcpu_.set_complete_only();
    return Entry::kCompletion;
  }
  // Under the lock, so that a kick meant for this entry cannot be lost: whoever kicks holds it and
  // has seen in_guest_.
  vcpu_.clear_kick();
  in_guest_ = true;
  return Entry::kGuest;
}

void VcpuThread::leave() {
  {
    const std::lock_guard lock(mutex_);
    in_guest_ = false;
  }
  changed_.notify_all();
}

void VcpuThread::settled(bool ended) {
  {
    const std::lock_guard lock(mutex_);
    settled_ = true;
    ended_ = ended;
  }
  changed_.notify_all();
}

void VcpuThread::run() {
  name_this_thread(machine_name_, std::to_string(vcpu_.index()));
  // A thread that ends is out of the guest for good.
  struct End {
    VcpuThread& thread;
    ~End() { thread.settled(true); }
  };
  const End end{*this};
  try {
    block_all_but_kick();
    for (;;) {
      const Entry entry = enter();
      if (entry == Entry::kNone) return;
      struct Leave {
        VcpuThread& thread;
        ~Leave() { thread.leave(); }
      };
      const Exit exit = [this] {
        const Leave leave{*this};
        return vcpu_.run();
      }();
      if (entry == Entry::kCompletion && std::holds_alternative<Interrupted>(exit)) {
        settled(false);
        continue;
      }
      const Next next = handler_.exit(vcpu_, exit);
      if (next == Next::kEnd) return;
      if (next == Next::kHalt) {
        const std::lock_guard lock(mutex_);
        halted_ = true;
      }
    }
  } catch (...) {
    handler_.failed(vcpu_, std::current_exception());
  }
}

void VcpuThread::request_settle() {
  std::unique_lock lock(mutex_);
  settling_ = true;
  settled_ = settled_ || !thread_.joinable();
  if (in_guest_) vcpu_.kick(thread_.native_handle());
  lock.unlock();
  changed_.notify_all();
}

void VcpuThread::wait_settled() {
  using namespace std::chrono_literals;
  std::unique_lock lock(mutex_);
  while (!changed_.wait_for(lock, 10ms, [this] { return settled_; })) {
    // As in drive_out().
    if (in_guest_) vcpu_.kick(thread_.native_handle());
  }
}

void VcpuThread::resume(bool halted) {
  {
    const std::lock_guard lock(mutex_);
    settling_ = false;
    settled_ = ended_;
    halted_ = halted;
  }
  changed_.notify_all();
}

void VcpuThread::drive_out(std::unique_lock<std::mutex>& lock) {
  using namespace std::chrono_literals;
  while (in_guest_) {
    vcpu_.kick(thread_.native_handle());
    // Once is enough by the rules; repeated, because a KVM that loses a kick must not hang its
    // user.
    changed_.wait_for(lock, 10ms, [this] { return !in_guest_; });
  }
}

void VcpuThread::while_paused(const std::function<void(Vcpu&)>& action) {
  {
    std::unique_lock lock(mutex_);
    ++pauses_;
    drive_out(lock);
  }
  struct Resume {
    VcpuThread& thread;
    ~Resume() {
      {
        const std::lock_guard lock(thread.mutex_);
        --thread.pauses_;
      }
      thread.changed_.notify_all();
    }
  };
  const Resume resume{*this};
  action(vcpu_);
}

void VcpuThread::request_stop() {
  std::unique_lock lock(mutex_);
  stop_ = true;
  if (in_guest_) vcpu_.kick(thread_.native_handle());
  changed_.notify_all();
}

void VcpuThread::join() {
  if (!thread_.joinable()) return;
  {
    std::unique_lock lock(mutex_);
    drive_out(lock);
  }
  thread_.join();
  --live_threads;
}

}  // namespace kvitest
