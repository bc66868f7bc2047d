#include "native/machine/vcpu_thread.h"

#include <signal.h>

#include <chrono>
#include <system_error>
#include <utility>

#include "native/error.h"
#include "native/kvm/kick_signal.h"
#include "native/machine/counts.h"
#include "native/machine/task_loop.h"

namespace kvitest {

VcpuThread::VcpuThread(Vcpu& vcpu, std::string machine_name, Handler handler)
    : vcpu_(vcpu), machine_name_(std::move(machine_name)), handler_(std::move(handler)) {}

VcpuThread::~VcpuThread() {
  request_stop();
  join();
}

void VcpuThread::start() {
  kick_signal();  // installed before any thread could be kicked
  sigset_t all;
  sigset_t before;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  try {
    thread_ = std::thread([this] { run(); });
  } catch (const std::system_error& error) {
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
    throw Error("pthread_create", error.code().value(),
                "vCPU " + std::to_string(vcpu_.index()) + " of machine " + machine_name_);
  }
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  ++live_threads;
}

bool VcpuThread::enter() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return stop_ || pauses_ == 0; });
  if (stop_) return false;
  // Under the lock, so that a kick meant for this entry cannot be lost: whoever kicks holds it and
  // has seen in_guest_.
  vcpu_.clear_kick();
  in_guest_ = true;
  return true;
}

void VcpuThread::leave() {
  {
    const std::lock_guard lock(mutex_);
    in_guest_ = false;
  }
  changed_.notify_all();
}

void VcpuThread::run() {
  name_this_thread(machine_name_, std::to_string(vcpu_.index()));
  try {
    block_all_but_kick();
    while (enter()) {
      struct Leave {
        VcpuThread& thread;
        ~Leave() { thread.leave(); }
      };
      const Exit exit = [this] {
        const Leave leave{*this};
        return vcpu_.run();
      }();
      if (!handler_.exit(vcpu_, exit)) break;
    }
  } catch (...) {
    handler_.failed(vcpu_, std::current_exception());
  }
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
