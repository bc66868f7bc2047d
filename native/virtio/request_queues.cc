#include "native/virtio/request_queues.h"

#include <algorithm>
#include <utility>

#include "native/thrown.h"
#include "native/virtio/negotiation.h"

namespace kvitest {
namespace {

constexpr std::size_t kMaxWorkers = 4;
// What a doorbell may do on its own vCPU thread: under emulation a thread's hand-off costs more
// than a small request, and a large one would keep the vCPU from its guest.
constexpr std::uint64_t kInlineBytes = 256 * 1024;
constexpr std::size_t kInlineRequests = 32;

}  // namespace

RequestQueues::RequestQueues(const std::string& name, Perform perform)
    : perform_(std::move(perform)), workers_(name, kMaxWorkers, [this] { return work(); }) {}

void RequestQueues::set_waits(bool waits) {
  const std::lock_guard lock(mutex_);
  waits_ = waits;
}

void RequestQueues::use(Engine engine) {
  engine_ = std::move(engine);
}

void RequestQueues::attach(std::uint64_t features, std::span<VirtQueue* const> queues,
                           std::uint16_t first, VirtioInterrupts& interrupts) {
  const std::lock_guard lock(mutex_);
  in_order_ = (features & kFeatureInOrder) != 0;
  queues_.assign(queues.begin(), queues.end());
  work_of_.assign(queues_.size(), {});
  first_ = first;
  interrupts_ = &interrupts;
}

void RequestQueues::notify(std::uint16_t queue) {
  std::size_t index = 0;
  bool for_workers = false;
  {
    const std::lock_guard lock(mutex_);
    if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
    if (queue < first_ || queue - first_ >= static_cast<int>(queues_.size())) return;
    index = static_cast<std::size_t>(queue - first_);
    if (queues_[index] == nullptr) return;
    for_workers = waits_ && !engine_.begin;
    if (for_workers) work_of_[index].waiting = true;
  }
  if (engine_.begin) {
    serve_by_engine(index);
  } else if (for_workers) {
    call_workers();
  } else {
    serve_inline(index);
  }
}

void RequestQueues::look_at_every_queue() {
  std::size_t count = 0;
  {
    const std::lock_guard lock(mutex_);
    count = queues_.size();
  }
  for (std::size_t i = 0; i < count; ++i) notify(static_cast<std::uint16_t>(first_ + i));
}

void RequestQueues::reset() {
  std::unique_lock lock(mutex_);
  resetting_ = true;
  idle_.wait(lock, [this] { return busy_ == 0; });
  resetting_ = false;
  queues_.clear();
  work_of_.clear();
  interrupts_ = nullptr;
}

void RequestQueues::reset_queue(std::uint16_t queue) {
  std::unique_lock lock(mutex_);
  QueueWork& work = work_of_[queue - first_];
  work.taken_back = true;
  idle_.wait(lock, [&work] { return work.busy == 0; });
  queues_[queue - first_] = nullptr;
  work = {};
}

void RequestQueues::enable_queue(std::uint16_t queue, VirtQueue& ring) {
  {
    const std::lock_guard lock(mutex_);
    queues_[queue - first_] = &ring;
  }
  notify(queue);
}

void RequestQueues::pause() {
  std::unique_lock lock(mutex_);
  paused_ = true;
  idle_.wait(lock, [this] { return busy_ == 0; });
}

void RequestQueues::unpause() {
  bool work = false;
  {
    const std::lock_guard lock(mutex_);
    paused_ = false;
    work = std::ranges::count(work_of_, true, &QueueWork::waiting) != 0;
  }
  if (work) call_workers();
}

void RequestQueues::drain() {
  std::size_t left = 0;
  std::size_t count = 0;
  {
    const std::lock_guard lock(mutex_);
    count = queues_.size();
    for (const VirtQueue* queue : queues_) left += queue == nullptr ? 0 : queue->size();
  }
  for (std::size_t queue = 0; queue < count && left != 0;) {
    std::optional<Job> job;
    {
      const std::lock_guard lock(mutex_);
      job = take(queue);
    }
    if (!job) {
      ++queue;
      continue;
    }
    perform_and_answer(*job);
    --left;
  }
  std::unique_lock lock(mutex_);
  idle_.wait(lock, [this] { return busy_ == 0; });
}

bool RequestQueues::busy() const {
  const std::lock_guard lock(mutex_);
  return busy_ != 0;
}

RequestQueues::Served RequestQueues::served() const {
  const std::lock_guard lock(mutex_);
  return served_;
}

RequestQueues::Server RequestQueues::server() const {
  if (engine_.begin) return Server::kEngine;
  const std::lock_guard lock(mutex_);
  return waits_ ? Server::kThreads : Server::kVcpu;
}

std::optional<RequestQueues::Job> RequestQueues::take(std::size_t queue) {
  if (paused_ || resetting_ || queue >= queues_.size() || queues_[queue] == nullptr) return {};
  QueueWork& work = work_of_[queue];
  if (work.taken_back) return {};
  std::optional<DescriptorChain> chain = queues_[queue]->pop();
  if (!chain) return {};
  ++busy_;
  ++work.busy;
  const std::uint64_t number = work.first + work.order.size();
  if (in_order_) work.order.emplace_back();
  return Job{queue, number, std::move(*chain)};
}

// On the thread of a doorbell, whose request a pause must not lose.
std::optional<RequestQueues::Job> RequestQueues::take_here(std::size_t queue) {
  const std::lock_guard lock(mutex_);
  std::optional<Job> job = take(queue);
  if (paused_ && queue < work_of_.size()) work_of_[queue].waiting = true;
  return job;
}

void RequestQueues::perform_and_answer(Job& job) {
  answer(job, perform_(job.chain), &Served::vcpu);
}

void RequestQueues::answer(Job& job, std::uint32_t length, std::uint64_t Served::*by) {
  const std::lock_guard lock(mutex_);
  ++(served_.*by);
  // Whoever waits for it has to wait for the lock too.
  --busy_;
  if (--work_of_[job.queue].busy == 0) idle_.notify_all();
  VirtQueue& queue = *queues_[job.queue];
  if (in_order_) {
    give_back_in_order(job, length);
  } else {
    queue.push_used(job.chain, length);
  }
  if (queue.needs_interrupt()) {
    interrupts_->queue_interrupt(static_cast<std::uint16_t>(first_ + job.queue));
  }
}

void RequestQueues::give_back_in_order(Job& job, std::uint32_t length) {
  QueueWork& work = work_of_[job.queue];
  work.order[job.number - work.first] = {std::move(job.chain), length};
  for (; !work.order.empty() && work.order.front().chain; ++work.first) {
    queues_[job.queue]->push_used(*work.order.front().chain, work.order.front().length);
    work.order.pop_front();
  }
}

void RequestQueues::give_back(Job& job, std::uint32_t length) {
  finish(job, length, &Served::engine);
}

void RequestQueues::finish(Job& job, std::uint32_t length, std::uint64_t Served::*by) {
  // An interrupt that cannot be raised ends the machine; the next doorbell's thread can say so.
  std::exception_ptr error = thrown_by([&] { answer(job, length, by); });
  if (!error) return;
  const std::lock_guard lock(mutex_);
  failure_ = std::move(error);
}

// One request of any queue; on the workers.
bool RequestQueues::work() {
  std::optional<Job> job;
  bool waits = false;
  {
    const std::lock_guard lock(mutex_);
    if (!for_threads_.empty()) {
      job = std::move(for_threads_.front());
      for_threads_.pop_front();
    } else if (paused_ || resetting_) {
      return false;
    }
    for (std::size_t i = 0; i < queues_.size() && !job; ++i) {
      const std::size_t queue = next_queue_++ % queues_.size();
      if (!work_of_[queue].waiting) continue;
      job = take(queue);
      if (!job) work_of_[queue].waiting = false;
    }
    waits = waits_;
  }
  if (!job) return false;
  // Others may do the ones behind it meanwhile.
  if (job->chain.readable() + job->chain.writable() > kInlineBytes || waits) workers_.wake();
  finish(*job, perform_(job->chain), &Served::threads);
  return true;
}

void RequestQueues::serve_inline(std::size_t queue) {
  std::uint64_t bytes = 0;
  for (std::size_t done = 0; done < kInlineRequests && bytes < kInlineBytes; ++done) {
    std::optional<Job> job = take_here(queue);
    if (!job) return;
    bytes += job->chain.readable() + job->chain.writable();
    perform_and_answer(*job);
  }
  leave_to_workers(queue);
}

// All that is there, at once; what the engine does not do is for threads.
void RequestQueues::serve_by_engine(std::size_t queue) {
  std::size_t left = engine_.entries;
  for (; left != 0; --left) {
    std::optional<Job> job = take_here(queue);
    if (!job) break;
    if (engine_.begin(*job)) continue;
    {
      const std::lock_guard lock(mutex_);
      for_threads_.push_back(std::move(*job));
    }
    call_workers();
  }
  engine_.submit();
  if (left == 0) leave_to_workers(queue);
}

void RequestQueues::leave_to_workers(std::size_t queue) {
  {
    const std::lock_guard lock(mutex_);
    if (queue >= work_of_.size()) return;
    work_of_[queue].waiting = true;
  }
  call_workers();
}

void RequestQueues::call_workers() {
  if (workers_.wake()) return;
  // No thread to be had: the caller does it.
  while (work()) {
  }
}

}  // namespace kvitest
