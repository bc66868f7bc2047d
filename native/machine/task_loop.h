// A thread that runs tasks one after the other: everything the owner asks of a machine happens on
// it.
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <thread>

namespace kvitest {

class TaskLoop {
 public:
  using Task = std::function<void()>;  // must not throw

  // last_words: called on the loop's thread as its last action.
  TaskLoop(std::string thread_name, std::function<void()> last_words);
  // Ends and joins it. Not on the loop's own thread.
  ~TaskLoop();

  // Runs the task on the loop's thread; after the loop ended, on the caller's.
  void post(Task task);
  // Runs the task on the loop's thread after `delay`; a loop that ends first drops it.
  void post_later(std::chrono::milliseconds delay, Task task);
  // The loop ends when no task is left. On the loop's own thread.
  void finish();
  // Waits for the thread's end. Once; not on the loop's own thread.
  void join();

 private:
  void run();
  // The next task, or none when the loop ends.
  Task next();

  std::string name_;
  std::function<void()> last_words_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Task> tasks_;
  std::multimap<std::chrono::steady_clock::time_point, Task> later_;
  bool finishing_ = false;
  bool ended_ = false;
  std::thread thread_;
};

// Names the calling thread as ps and /proc show it: "kvitest-NAME/SUFFIX", NAME cut to the kernel's
// 15 bytes.
void name_this_thread(const std::string& machine, const std::string& suffix);

}  // namespace kvitest
