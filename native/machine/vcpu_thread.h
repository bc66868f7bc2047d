// The thread that runs one vCPU, and the ways to take it out of the guest.
#pragma once

#include <condition_variable>
#include <exception>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

#include "native/kvm/vcpu.h"

namespace kvitest {

class VcpuThread {
 public:
  enum class Next {
    kRun,
    kHalt,  // never runs again, unless a reset takes it back to where it did
    kEnd,   // of the thread
  };
  struct Handler {
    // Acts on one exit. On the vCPU's thread.
    std::function<Next(Vcpu&, const Exit&)> exit;
    // Something threw on the vCPU's thread, which ends.
    std::function<void(Vcpu&, std::exception_ptr)> failed;
  };

  VcpuThread(Vcpu& vcpu, std::string machine_name, Handler handler);
  ~VcpuThread();  // stops and joins
  VcpuThread(const VcpuThread&) = delete;
  VcpuThread& operator=(const VcpuThread&) = delete;

  // halted: as after Next::kHalt. Throws Error (EAGAIN) when the process may have no more threads.
  void start(bool halted = false);

  // Runs `action` while the vCPU is outside KVM_RUN and cannot enter it: at once when its thread is
  // handling an exit or waiting, else after a kick. Not on the vCPU's own thread.
  void while_paused(const std::function<void(Vcpu&)>& action);

  // Asks the vCPU to come out of the guest and of its handler and to complete the exit it came out
  // with: the state KVM gives of it is then whole. wait_settled() waits for that; until resume() it
  // stays there. Not on the vCPU's own thread; not while it is settled.
  void request_settle();
  void wait_settled();
  void resume(bool halted);
  // While it is settled, or before it started.
  bool is_halted() const { return halted_; }

  // The thread ends as soon as it comes out of the guest and of its handler. Does not wait.
  void request_stop();
  void join();

 private:
  enum class Entry { kGuest, kCompletion, kNone };

  void run();
  // Waits for what the vCPU may do next.
  Entry enter();
  void leave();
  void settled(bool ended);
  // Kicks until the vCPU is out of KVM_RUN. mutex_ is held.
  void drive_out(std::unique_lock<std::mutex>& lock);

  Vcpu& vcpu_;
  std::string machine_name_;
  Handler handler_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool in_guest_ = false;
  bool stop_ = false;
  int pauses_ = 0;
  bool settling_ = false;
  bool settled_ = false;
  bool ended_ = false;
  bool halted_ = false;
  std::thread thread_;
};

}  // namespace kvitest
