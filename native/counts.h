// Live native resources of this process, so that tests can see that nothing is left behind.
#pragma once

#include <atomic>

namespace kvitest {

inline std::atomic<int> live_threads{0};   // started and not yet joined
inline std::atomic<int> live_machines{0};  // Machine objects that hold KVM fds or guest RAM
inline std::atomic<int> live_checkpoints{0};

// Counts for as long as it lives.
class Counted {
 public:
  explicit Counted(std::atomic<int>& counter) : counter_(counter) { ++counter_; }
  ~Counted() { --counter_; }
  Counted(const Counted&) = delete;
  Counted& operator=(const Counted&) = delete;

 private:
  std::atomic<int>& counter_;
};

}  // namespace kvitest
