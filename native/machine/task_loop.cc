#include "native/machine/task_loop.h"

#include <pthread.h>

#include <utility>

#include "native/counts.h"
#include "native/quiet_thread.h"

namespace kvitest {

void name_this_thread(const std::string& machine, const std::string& suffix) {
  constexpr std::size_t kKernelLimit = 15;
  const std::string prefix = "kvitest-";
  const std::size_t room = kKernelLimit - prefix.size() - suffix.size() - 1;
  const std::string name = prefix + machine.substr(0, room) + "/" + suffix;
  ::pthread_setname_np(::pthread_self(), name.c_str());
}

TaskLoop::TaskLoop(std::string thread_name, std::function<void()> last_words)
    : name_(std::move(thread_name)), last_words_(std::move(last_words)) {
  thread_ = quiet_thread("device loop of machine " + name_, [this] { run(); });
  ++live_threads;
}

TaskLoop::~TaskLoop() {
  post([this] { finish(); });
  join();
}

void TaskLoop::post(Task task) {
  {
    const std::lock_guard lock(mutex_);
    if (!ended_) {
      tasks_.push_back(std::move(task));
      wake_.notify_one();
      return;
    }
  }
  task();
}

void TaskLoop::post_later(std::chrono::milliseconds delay, Task task) {
  const std::lock_guard lock(mutex_);
  if (ended_) return;
  later_.emplace(std::chrono::steady_clock::now() + delay, std::move(task));
  wake_.notify_one();
}

void TaskLoop::finish() {
  const std::lock_guard lock(mutex_);
  finishing_ = true;
}

void TaskLoop::join() {
  if (!thread_.joinable()) return;
  thread_.join();
  --live_threads;
}

TaskLoop::Task TaskLoop::next() {
  std::unique_lock lock(mutex_);
  for (;;) {
    if (!tasks_.empty()) {
      Task task = std::move(tasks_.front());
      tasks_.pop_front();
      return task;
    }
    if (finishing_) {
      ended_ = true;
      return nullptr;
    }
    if (later_.empty()) {
      wake_.wait(lock);
      continue;
    }
    const auto first = later_.begin();
    if (std::chrono::steady_clock::now() >= first->first) {
      tasks_.push_back(std::move(first->second));
      later_.erase(first);
      continue;
    }
    // A copy: the entry may be gone when the wait reads the deadline again.
    const auto deadline = first->first;
    wake_.wait_until(lock, deadline);
  }
}

void TaskLoop::run() {
  name_this_thread(name_, "d");
  while (const Task task = next()) task();
  last_words_();
}

}  // namespace kvitest
