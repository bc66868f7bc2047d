// A few threads that a device calls when there is work for them.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace kvitest {

// Locks itself, and holds no lock while it calls `work`.
class Workers {
 public:
  // work: does one piece of work; false when there is none. Called by several threads at once.
  Workers(std::string name, std::size_t limit, std::function<bool()> work);
  // Joins them; each finishes what it is at.
  ~Workers();
  Workers(const Workers&) = delete;
  Workers& operator=(const Workers&) = delete;

  // There may be work: one more thread looks, which is started if all are busy and the limit allows
  // it. False when there is no thread at all, and none can be started.
  bool wake();

 private:
  void run();

  const std::string name_;
  const std::size_t limit_;
  const std::function<bool()> work_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::size_t idle_ = 0;
  std::size_t calls_ = 0;  // wake() calls that nobody has answered
  bool ending_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace kvitest
