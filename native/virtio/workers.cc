#include "native/virtio/workers.h"

#include <pthread.h>

#include <system_error>
#include <utility>

#include "native/counts.h"

namespace kvitest {

Workers::Workers(std::string name, std::size_t limit, std::function<bool()> work)
    : name_(std::move(name)), limit_(limit), work_(std::move(work)) {}

Workers::~Workers() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  changed_.notify_all();
  for (std::thread& thread : threads_) thread.join();
  live_threads -= static_cast<int>(threads_.size());
}

bool Workers::wake() {
  const std::lock_guard lock(mutex_);
  // More calls than threads say nothing new: each looks until it finds no work.
  if (calls_ < limit_) ++calls_;
  if (calls_ > idle_ && threads_.size() < limit_) {
    try {
      threads_.emplace_back([this] { run(); });
      ++live_threads;
    } catch (const std::system_error&) {
      // Those there are do it all, one after the other.
    }
  }
  changed_.notify_one();
  return !threads_.empty();
}

void Workers::run() {
  ::pthread_setname_np(::pthread_self(), ("kvitest-" + name_).substr(0, 13).append("/b").c_str());
  std::unique_lock lock(mutex_);
  while (true) {
    ++idle_;
    changed_.wait(lock, [this] { return calls_ != 0 || ending_; });
    --idle_;
    if (ending_) return;
    --calls_;
    lock.unlock();
    while (work_()) {
    }
    lock.lock();
  }
}

}  // namespace kvitest
