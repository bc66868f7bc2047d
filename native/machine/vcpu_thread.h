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
  struct Handler {
    // Acts on one exit; false ends the thread. On the vCPU's thread.
    std::function<bool(Vcpu&, const Exit&)> exit;
    // Something threw on the vCPU's thread, which ends.
    std::function<void(Vcpu&, std::exception_ptr)> failed;
  };

  VcpuThread(Vcpu& vcpu, std::string machine_name, Handler handler);
  ~VcpuThread();  // stops and joins
  VcpuThread(const VcpuThread&) = delete;
  VcpuThread& operator=(const VcpuThread&) = delete;

  // Throws Error (EAGAIN) when the process may have no more threads.
  void start();

  // Runs `action` while the vCPU is outside KVM_RUN and cannot enter it: at once when its thread is
  // handling an exit or waiting, else after a kick. Not on the vCPU's own thread.
  void while_paused(const std::function<void(Vcpu&)>& action);

  // The thread ends as soon as it comes out of the guest and of its handler. Does not wait.
  void request_stop();
  void join();

 private:
  void run();
  bool enter();
  void leave();
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
  std::thread thread_;
};

}  // namespace kvitest
