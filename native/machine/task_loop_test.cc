#include "native/machine/task_loop.h"

#include <doctest/doctest.h>
#include <pthread.h>

#include <atomic>
#include <chrono>
#include <future>
#include <string>
#include <thread>
#include <vector>

#include "native/counts.h"

namespace kvitest {
namespace {

using std::chrono::milliseconds;

TEST_CASE("task loop: tasks run in order, on a thread that carries the machine's name") {
  TaskLoop loop("a-long-machine-name", [] {});
  std::promise<std::string> name;
  std::vector<int> order;

  loop.post([&] { order.push_back(1); });
  loop.post([&] {
    order.push_back(2);
    char text[16] = {};
    ::pthread_getname_np(::pthread_self(), text, sizeof text);
    name.set_value(text);
  });

  CHECK(name.get_future().get() == "kvitest-a-lon/d");
  CHECK(order == std::vector<int>{1, 2});
}

TEST_CASE("task loop: last words come after every task, and joining leaves no thread") {
  const int before = live_threads;
  std::atomic<int> tasks{0};
  std::atomic<int> tasks_before_last_words{-1};
  {
    TaskLoop loop("m", [&] { tasks_before_last_words = tasks.load(); });
    for (int i = 0; i < 100; ++i) loop.post([&] { ++tasks; });
  }

  CHECK(tasks_before_last_words == 100);
  CHECK(live_threads == before);
}

TEST_CASE("task loop: after its end tasks run on the caller's thread") {
  TaskLoop loop("m", [] {});
  loop.post([&loop] { loop.finish(); });
  loop.join();
  std::thread::id ran_on;

  loop.post([&] { ran_on = std::this_thread::get_id(); });

  CHECK(ran_on == std::this_thread::get_id());
}

TEST_CASE("task loop: a delayed task waits, others go first") {
  TaskLoop loop("m", [] {});
  std::promise<void> delayed;
  std::vector<std::string> order;
  const auto begin = std::chrono::steady_clock::now();

  loop.post_later(milliseconds(30), [&] {
    order.push_back("delayed");
    delayed.set_value();
  });
  loop.post([&] { order.push_back("now"); });
  delayed.get_future().wait();

  CHECK(order == std::vector<std::string>{"now", "delayed"});
  CHECK(std::chrono::steady_clock::now() - begin >= milliseconds(30));
}

TEST_CASE("task loop: a loop that ends drops its delayed tasks at once") {
  std::atomic<bool> ran{false};
  const auto begin = std::chrono::steady_clock::now();
  {
    TaskLoop loop("m", [] {});
    loop.post_later(std::chrono::minutes(1), [&] { ran = true; });
  }

  CHECK_FALSE(ran);
  CHECK(std::chrono::steady_clock::now() - begin < std::chrono::seconds(10));
}

}  // namespace
}  // namespace kvitest
