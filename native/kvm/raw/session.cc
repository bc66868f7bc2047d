#include "native/kvm/raw/session.h"

#include <algorithm>
#include <cerrno>
#include <utility>
#include <vector>

#include "native/error.h"
#include "native/kvm/raw/execute.h"
#include "native/quiet_thread.h"

namespace kvitest::raw {
namespace {

// A kick that comes between the look at immediate_exit and the sleep of another ioctl is lost.
constexpr std::chrono::milliseconds kBetweenKicks{20};

void interrupt(Thread& thread, Job& job) {
  job.expired = true;
  job.interrupt();
  thread.kick(&job);
}

void settle_as_hung(Job& job) {
  Result result;
  result.value = -1;
  result.expired = true;
  result.hung = true;
  job.settle(std::move(result), nullptr);
}

std::exception_ptr cancelled() {
  return std::make_exception_ptr(Error("raw KVM access", ECANCELED, "the session was closed"));
}

}  // namespace

Session::Session(std::chrono::milliseconds grace) : grace_(grace) {
  watchdog_ = quiet_thread("the deadlines of raw KVM access", [this] { watch(); });
}

Session::~Session() {
  close();
}

void Session::submit(Call call, Done done) {
  const std::lock_guard lock(submit_mutex_);
  if (closed_) std::rethrow_exception(cancelled());
  std::shared_ptr<Thread> thread = core_->threads.find(call.thread);
  if (thread == nullptr) {
    if (core_->threads.size() >= kMaxThreads) {
      throw Error("raw KVM access", EAGAIN,
                  "a session has at most " + std::to_string(kMaxThreads) + " threads");
    }
    thread = start_thread();
    core_->threads.add(call.thread, thread);
  }
  thread->submit(std::make_shared<Job>(std::move(call), std::move(done)));
}

std::shared_ptr<Thread> Session::start_thread() {
  const std::shared_ptr<Core> core = core_;
  return Thread::start([core](Job& job) { return execute(job, core->objects, core->threads); },
                       [core, grace = grace_](const std::shared_ptr<Job>& job, bool begins) {
                         const std::lock_guard lock(core->mutex);
                         if (!begins) {
                           core->watched.erase(job);
                           return;
                         }
                         // Whoever closes kicks what is watched by then; what begins later gets no
                         // time at all.
                         const auto deadline =
                             Clock::now() +
                             (core->closing ? std::chrono::milliseconds{0} : job->call.deadline);
                         core->watched.emplace(job, Watched{deadline, deadline + grace, deadline});
                         core->changed.notify_all();
                       });
}

void Session::watch() {
  ::pthread_setname_np(::pthread_self(), "kvitest-raw");
  std::unique_lock lock(core_->mutex);
  while (!core_->closing) {
    auto next = Clock::time_point::max();
    std::vector<std::shared_ptr<Job>> to_kick;
    std::vector<std::shared_ptr<Job>> hung;
    const auto now = Clock::now();
    for (auto& [job, times] : core_->watched) {
      if (times.given_up <= now) {
        hung.push_back(job);
        continue;
      }
      if (times.next_kick <= now) {
        times.next_kick = now + kBetweenKicks;
        to_kick.push_back(job);
      }
      next = std::min(next, times.next_kick);
    }
    for (const auto& job : hung) core_->watched.erase(job);
    if (to_kick.empty() && hung.empty()) {
      if (next == Clock::time_point::max()) {
        core_->changed.wait(lock);
      } else {
        core_->changed.wait_until(lock, next);
      }
      continue;
    }
    lock.unlock();
    for (const auto& job : to_kick) {
      const std::shared_ptr<Thread> thread = core_->threads.find(job->call.thread);
      if (thread != nullptr) interrupt(*thread, *job);
    }
    for (const auto& job : hung) give_up(job);
    lock.lock();
  }
}

void Session::give_up(const std::shared_ptr<Job>& job) {
  {
    const std::lock_guard lock(submit_mutex_);
    const std::shared_ptr<Thread> thread = core_->threads.find(job->call.thread);
    if (thread != nullptr && thread->current() == job) {
      // What waited behind it gets a thread of the same name.
      std::deque<std::shared_ptr<Job>> waiting = thread->stop();
      core_->threads.remove(job->call.thread);
      ++lost_;
      if (!waiting.empty()) {
        try {
          const std::shared_ptr<Thread> next = start_thread();
          core_->threads.add(job->call.thread, next);
          for (auto& waits : waiting) next->submit(std::move(waits));
        } catch (const Error& error) {
          for (const auto& waits : waiting) waits->settle({}, std::make_exception_ptr(error));
        }
      }
    }
  }
  settle_as_hung(*job);
}

void Session::close() {
  const std::lock_guard close_lock(close_mutex_);
  {
    const std::lock_guard lock(submit_mutex_);
    if (std::exchange(closed_, true)) return;
  }
  {
    const std::lock_guard lock(core_->mutex);
    core_->closing = true;
    core_->changed.notify_all();
  }
  watchdog_.join();
  // From here on nobody else changes what threads there are.
  const std::vector<std::shared_ptr<Thread>> threads = core_->threads.all();
  for (const auto& thread : threads) {
    for (const auto& job : thread->stop()) job->settle({}, cancelled());
  }
  const auto limit = Clock::now() + grace_;
  for (const auto& thread : threads) {
    // All of them are kicked first, so that they end side by side.
    if (const std::shared_ptr<Job> job = thread->current()) interrupt(*thread, *job);
  }
  for (const auto& thread : threads) {
    while (!thread->join(Clock::now() + kBetweenKicks)) {
      const std::shared_ptr<Job> job = thread->current();
      if (job == nullptr) continue;
      if (Clock::now() >= limit) {
        ++lost_;
        settle_as_hung(*job);
        break;
      }
      interrupt(*thread, *job);
    }
  }
  core_->threads.clear();
  core_->objects.clear();
}

}  // namespace kvitest::raw
