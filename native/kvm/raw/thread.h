// The named threads of a session, on which its calls are made.
#pragma once

#include <pthread.h>
#include <sys/types.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "native/kvm/raw/call.h"
#include "native/kvm/raw/memory.h"

namespace kvitest::raw {

// A call with who waits for it.
class Job {
 public:
  Job(Call call, Done done) : call(std::move(call)), done_(std::move(done)) {}

  // The first answer counts.
  void settle(Result result, std::exception_ptr error);
  bool is_settled() const { return settled_; }

  // What it waits in, for whoever has to get it out. Each until the next call of it.
  void in_run(std::shared_ptr<Mapping> area);
  void in_child(pid_t child);
  // Makes KVM_RUN return before it enters the guest, and ends the child.
  void interrupt();

  const Call call;
  std::atomic<bool> expired{false};
  // System calls that returned, of a call that is repeated.
  std::atomic<unsigned> returned{0};

 private:
  Done done_;
  std::atomic<bool> settled_{false};
  std::mutex mutex_;
  std::shared_ptr<Mapping> area_;
  pid_t child_ = 0;
};

// One thread. What is in here outlives the session when a call never comes back.
class Thread {
 public:
  using Execute = std::function<Result(Job&)>;
  // Called on the thread around each job.
  using Around = std::function<void(const std::shared_ptr<Job>&, bool begins)>;

  // Throws Error when the process may have no more threads.
  static std::shared_ptr<Thread> start(Execute execute, Around around);

  void submit(std::shared_ptr<Job> job);
  // Sends the kick signal if this job runs on it; null: whatever job does. False when it did not.
  bool kick(const Job* job);
  // Waits until a call runs on it; false when that took until `limit`.
  bool wait_until_busy(std::chrono::steady_clock::time_point limit);
  bool is_self() const;
  // Ends it after the call that runs, and gives back those that wait.
  std::deque<std::shared_ptr<Job>> stop();
  // False when it did not end until `limit`; it is then left alone, with all that it holds.
  bool join(std::chrono::steady_clock::time_point limit);
  std::shared_ptr<Job> current() const;

 private:
  void loop(const Execute& execute, const Around& around);

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::shared_ptr<Job>> queue_;
  std::shared_ptr<Job> current_;
  bool stopping_ = false;
  bool ended_ = false;
  pthread_t id_ = 0;
};

class Threads {
 public:
  void add(const std::string& name, std::shared_ptr<Thread> thread);
  // Null when nothing has the name.
  std::shared_ptr<Thread> find(const std::string& name) const;
  void remove(const std::string& name);
  std::size_t size() const;
  std::vector<std::shared_ptr<Thread>> all() const;
  void clear();

 private:
  mutable std::mutex mutex_;
  std::map<std::string, std::shared_ptr<Thread>> threads_;
};

}  // namespace kvitest::raw
