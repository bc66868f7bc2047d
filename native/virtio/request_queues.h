// Request queues of a device whose requests can be done side by side: on the vCPU that rang the
// doorbell while that is quick, else by a few threads, or by something that does them on its own.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "native/virtio/device.h"
#include "native/virtio/queue.h"
#include "native/virtio/workers.h"

namespace kvitest {

// Locks itself, and holds no lock while it performs a request.
class RequestQueues {
 public:
  // A request that was taken from a queue.
  struct Job {
    std::size_t queue;
    std::uint64_t number;  // of the queue's requests, with IN_ORDER
    DescriptorChain chain;
  };
  // Does what the request asks; returns the used length. Called by several threads at once.
  using Perform = std::function<std::uint32_t(DescriptorChain& chain)>;
  // What does requests on its own and ends each by give_back().
  struct Engine {
    std::function<bool(Job&)> begin;  // false: left as it was, for a thread
    std::function<void()> submit;     // those that began
    std::size_t entries = 0;          // at most so many between two calls of submit()
  };

  RequestQueues(const std::string& name, Perform perform);
  RequestQueues(const RequestQueues&) = delete;
  RequestQueues& operator=(const RequestQueues&) = delete;

  // Who did the requests so far, since the device was built.
  struct Served {
    std::uint64_t vcpu = 0;  // the one that rang
    std::uint64_t threads = 0;
    std::uint64_t engine = 0;
  };
  // Who gets a request first.
  enum class Server : std::uint8_t { kVcpu, kThreads, kEngine };

  // Requests may wait for a device of the host: no vCPU does them then.
  void set_waits(bool waits);
  // Before attach(). It must be gone before this is.
  void use(Engine engine);
  // first: the number of the first of the queues, among the device's.
  void attach(std::uint64_t features, std::span<VirtQueue* const> queues, std::uint16_t first,
              VirtioInterrupts& interrupts);
  // Of the device's number. Throws what a thread has met.
  void notify(std::uint16_t queue);
  void look_at_every_queue();
  // Of a job that the engine began. What it meets, the next notify() throws.
  void give_back(Job& job, std::uint32_t length);
  // What is under way ends; nothing touches the queues afterwards.
  void reset();
  // As VirtioDevice's, of the device's number.
  void reset_queue(std::uint16_t queue);
  void enable_queue(std::uint16_t queue, VirtQueue& ring);
  void pause();
  void unpause();
  // Whatever the driver has made available by now is done when it returns.
  void drain();
  bool busy() const;
  Served served() const;
  Server server() const;

 private:
  struct Finished {
    std::optional<DescriptorChain> chain;  // none while it is under way
    std::uint32_t length = 0;
  };
  struct QueueWork {
    bool waiting = false;     // the workers look at it
    bool taken_back = false;  // by the driver: what is under way is the last
    std::size_t busy = 0;     // of its requests, as busy_
    // With IN_ORDER: those taken and not given back, the oldest first.
    std::deque<Finished> order;
    std::uint64_t first = 0;  // the number of order's first
  };

  // These two with the lock held: the next request of the queue; the request, and those behind it
  // that had to wait for it.
  std::optional<Job> take(std::size_t queue);
  void give_back_in_order(Job& job, std::uint32_t length);
  void perform_and_answer(Job& job);
  void answer(Job& job, std::uint32_t length, std::uint64_t Served::*by);
  void finish(Job& job, std::uint32_t length, std::uint64_t Served::*by);
  bool work();
  void serve_inline(std::size_t queue);
  void serve_by_engine(std::size_t queue);
  void leave_to_workers(std::size_t queue);
  void call_workers();
  std::optional<Job> take_here(std::size_t queue);

  const Perform perform_;
  mutable std::mutex mutex_;
  std::condition_variable idle_;
  bool waits_ = false;
  Engine engine_;
  bool in_order_ = false;  // was negotiated
  std::vector<VirtQueue*> queues_;
  std::vector<QueueWork> work_of_;  // by queue
  std::uint16_t first_ = 0;
  VirtioInterrupts* interrupts_ = nullptr;
  std::size_t next_queue_ = 0;
  std::size_t busy_ = 0;  // requests that were popped and not given back
  Served served_;
  bool paused_ = false;
  bool resetting_ = false;
  std::exception_ptr failure_;   // of a thread
  std::deque<Job> for_threads_;  // that the engine left

  Workers workers_;  // last: its threads use all of the above
};

}  // namespace kvitest
