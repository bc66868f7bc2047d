// Raw access to KVM: any ioctl on any KVM fd, from threads of its own, with a deadline for each
// call. What a session made goes with it, whatever state it is in.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "native/kvm/raw/call.h"
#include "native/kvm/raw/objects.h"
#include "native/kvm/raw/thread.h"

namespace kvitest::raw {

class Session {
 public:
  // Throws Error when the process may have no more threads.
  // `grace`: how long after its deadline a kicked call may take to come back.
  explicit Session(std::chrono::milliseconds grace = std::chrono::seconds{2});
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  // Any thread. Throws Error: EINVAL, ECANCELED once it is closed, too many threads.
  void submit(Call call, Done done);
  // Any thread; idempotent, and every caller returns after the end. Kicks every call, joins every
  // thread but those that do not come back within the grace, closes every fd and unmaps all memory.
  // No Done is called after it. Takes as long as KVM needs to close a VM: not for the JS thread.
  void close();
  // Threads that hang in a call and were given up.
  std::size_t lost_threads() const { return lost_; }

 private:
  using Clock = std::chrono::steady_clock;
  struct Watched {
    Clock::time_point deadline;
    Clock::time_point given_up;
    Clock::time_point next_kick;
  };
  // Shared with the threads: one that hangs may come back after the session is gone.
  struct Core {
    Objects objects;
    Threads threads;
    std::mutex mutex;
    std::condition_variable changed;
    std::map<std::shared_ptr<Job>, Watched> watched;
    bool closing = false;
  };

  std::shared_ptr<Thread> start_thread();
  void watch();
  void give_up(const std::shared_ptr<Job>& job);

  const std::chrono::milliseconds grace_;
  const std::shared_ptr<Core> core_ = std::make_shared<Core>();
  std::mutex submit_mutex_;
  std::mutex close_mutex_;
  bool closed_ = false;
  std::atomic<std::size_t> lost_{0};
  std::thread watchdog_;
};

}  // namespace kvitest::raw
