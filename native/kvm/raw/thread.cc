#include "native/kvm/raw/thread.h"

#include <signal.h>

#include <array>
#include <thread>
#include <utility>

#include "native/kvm/kick_signal.h"
#include "native/quiet_thread.h"
#include "native/thrown.h"

namespace kvitest::raw {
namespace {

// struct kvm_run: request_interrupt_window, immediate_exit
constexpr std::uint64_t kImmediateExit = 1;

sigset_t kick_set() {
  sigset_t set;
  ::sigemptyset(&set);
  ::sigaddset(&set, kick_signal());
  return set;
}

// While a call is made the kick reaches the thread; a kick that comes too late is dropped before
// the next call, which it was not meant for.
class Kickable {
 public:
  Kickable() : set_(kick_set()) { ::pthread_sigmask(SIG_UNBLOCK, &set_, nullptr); }
  ~Kickable() {
    ::pthread_sigmask(SIG_BLOCK, &set_, nullptr);
    const timespec now{};
    while (::sigtimedwait(&set_, nullptr, &now) > 0) {
    }
  }

 private:
  sigset_t set_;
};

}  // namespace

void Job::settle(Result result, std::exception_ptr error) {
  if (!settled_.exchange(true)) done_(std::move(result), std::move(error));
}

void Job::in_run(std::shared_ptr<Mapping> area) {
  const std::lock_guard lock(mutex_);
  area_ = std::move(area);
}

void Job::in_child(pid_t child) {
  const std::lock_guard lock(mutex_);
  child_ = child;
}

void Job::interrupt() {
  const std::lock_guard lock(mutex_);
  constexpr std::array one{std::byte{1}};
  if (area_ != nullptr) area_->write(kImmediateExit, one);
  if (child_ != 0) ::kill(child_, SIGKILL);
}

std::shared_ptr<Thread> Thread::start(Execute execute, Around around) {
  auto thread = std::make_shared<Thread>();
  kick_signal();  // may throw: not on the new thread
  std::thread started =
      quiet_thread("a thread for raw KVM access",
                   [thread, execute = std::move(execute), around = std::move(around)]() mutable {
                     ::pthread_setname_np(::pthread_self(), "kvitest-raw");
                     thread->loop(execute, around);
                     // What these hold goes before anybody may believe that the thread has ended.
                     execute = {};
                     around = {};
                     const std::lock_guard lock(thread->mutex_);
                     thread->ended_ = true;
                     thread->changed_.notify_all();
                   });
  {
    const std::lock_guard lock(thread->mutex_);
    thread->id_ = started.native_handle();
  }
  // Joined by its `ended_`: a std::thread cannot be waited for with a limit.
  started.detach();
  return thread;
}

void Thread::submit(std::shared_ptr<Job> job) {
  const std::lock_guard lock(mutex_);
  queue_.push_back(std::move(job));
  changed_.notify_all();
}

bool Thread::kick(const Job* job) {
  const std::lock_guard lock(mutex_);
  if (current_ == nullptr || (job != nullptr && current_.get() != job)) return false;
  // EAGAIN: as many signals wait for it already as this user may have.
  return ::pthread_kill(id_, kick_signal()) == 0;
}

bool Thread::wait_until_busy(std::chrono::steady_clock::time_point limit) {
  std::unique_lock lock(mutex_);
  return changed_.wait_until(lock, limit, [this] { return current_ != nullptr; });
}

bool Thread::is_self() const {
  const std::lock_guard lock(mutex_);
  return ::pthread_equal(id_, ::pthread_self()) != 0;
}

std::deque<std::shared_ptr<Job>> Thread::stop() {
  const std::lock_guard lock(mutex_);
  stopping_ = true;
  changed_.notify_all();
  return std::exchange(queue_, {});
}

bool Thread::join(std::chrono::steady_clock::time_point limit) {
  std::unique_lock lock(mutex_);
  return changed_.wait_until(lock, limit, [this] { return ended_; });
}

std::shared_ptr<Job> Thread::current() const {
  const std::lock_guard lock(mutex_);
  return current_;
}

void Thread::loop(const Execute& execute, const Around& around) {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
    if (stopping_) return;
    const std::shared_ptr<Job> job = std::move(queue_.front());
    queue_.pop_front();
    current_ = job;
    changed_.notify_all();
    lock.unlock();

    Result result;
    around(job, true);
    std::exception_ptr error = thrown_by([&] {
      const Kickable kickable;
      result = execute(*job);
    });
    around(job, false);
    lock.lock();
    current_ = nullptr;
    lock.unlock();
    // After it counts as done: who hears of it may ask for the next call at once.
    job->settle(std::move(result), std::move(error));
    lock.lock();
  }
}

void Threads::add(const std::string& name, std::shared_ptr<Thread> thread) {
  const std::lock_guard lock(mutex_);
  threads_.insert_or_assign(name, std::move(thread));
}

std::shared_ptr<Thread> Threads::find(const std::string& name) const {
  const std::lock_guard lock(mutex_);
  const auto found = threads_.find(name);
  return found == threads_.end() ? nullptr : found->second;
}

void Threads::remove(const std::string& name) {
  const std::lock_guard lock(mutex_);
  threads_.erase(name);
}

std::size_t Threads::size() const {
  const std::lock_guard lock(mutex_);
  return threads_.size();
}

std::vector<std::shared_ptr<Thread>> Threads::all() const {
  const std::lock_guard lock(mutex_);
  std::vector<std::shared_ptr<Thread>> all;
  for (const auto& [name, thread] : threads_) all.push_back(thread);
  return all;
}

void Threads::clear() {
  const std::lock_guard lock(mutex_);
  threads_.clear();
}

}  // namespace kvitest::raw
