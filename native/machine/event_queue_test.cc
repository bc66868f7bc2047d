#include "native/machine/event_queue.h"

#include <doctest/doctest.h>

#include <string>
#include <thread>

namespace kvitest {
namespace {

struct Bench {
  int wakes = 0;
  int wakes_soon = 0;
  EventQueue queue{[this] { ++wakes; }, [this] { ++wakes_soon; }};

  void data(const std::string& channel, const std::string& text) {
    queue.push_data(channel, std::as_bytes(std::span(text)));
  }
  void credited(const std::string& channel, const std::string& text) {
    queue.push_data_with_credit(channel, std::as_bytes(std::span(text)));
  }
};

std::string text_of(const Event& event) {
  const auto& data = std::get<DataEvent>(event).data;
  return {reinterpret_cast<const char*>(data.data()), data.size()};
}

TEST_CASE(
    "event queue: consecutive data of one channel is one event, other channels keep the order") {
  Bench bench;

  bench.data("a", "1");
  bench.data("a", "2");
  bench.data("b", "3");
  bench.data("a", "4");
  const auto events = bench.queue.take();

  REQUIRE(events.size() == 3);
  CHECK(text_of(events[0]) == "12");
  CHECK(text_of(events[1]) == "3");
  CHECK(text_of(events[2]) == "4");
  CHECK(bench.queue.take().empty());
}

TEST_CASE("event queue: the owner is woken once until it takes") {
  Bench bench;

  bench.data("a", "1");
  bench.data("a", "2");
  CHECK(bench.wakes == 1);
  bench.queue.take();
  bench.data("a", "3");

  CHECK(bench.wakes == 2);
}

TEST_CASE("event queue: single bytes wake soon, many bytes or another event wake now") {
  Bench bench;

  bench.credited("serial", "x");
  CHECK(bench.wakes == 0);
  CHECK(bench.wakes_soon == 1);
  bench.credited("serial", std::string(4096, 'x'));
  CHECK(bench.wakes == 1);
  bench.queue.take();
  bench.credited("serial", "x");
  bench.queue.push(PvpanicEvent{1});

  CHECK(bench.wakes == 2);
  CHECK(bench.wakes_soon == 2);
}

TEST_CASE("event queue: a writer without credit waits until the owner acknowledges") {
  Bench bench;
  bench.credited("serial", std::string(kOutputWindow, 'x'));
  std::atomic<bool> written{false};

  std::thread writer([&] {
    bench.credited("serial", "y");
    written = true;
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  const bool before = written;
  bench.queue.consumed("serial", 1);
  writer.join();

  CHECK_FALSE(before);
  CHECK(written);
}

TEST_CASE("event queue: another channel has credit of its own") {
  Bench bench;
  bench.credited("serial", std::string(kOutputWindow, 'x'));

  bench.credited("debug", "y");

  CHECK(bench.queue.take().size() == 2);
}

TEST_CASE("event queue: cancelled waits keep their bytes") {
  Bench bench;
  bench.credited("serial", std::string(kOutputWindow, 'x'));

  std::thread writer([&] { bench.credited("serial", "y"); });
  bench.queue.cancel_waits();
  writer.join();

  CHECK(text_of(bench.queue.take().at(0)).size() == kOutputWindow + 1);
}

TEST_CASE("event queue: acknowledging more than was sent is no credit on top") {
  Bench bench;

  bench.queue.consumed("serial", 1 << 30);
  bench.credited("serial", std::string(kOutputWindow, 'x'));
  std::atomic<bool> written{false};
  std::thread writer([&] {
    bench.credited("serial", "y");
    written = true;
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  const bool before = written;
  bench.queue.cancel_waits();
  writer.join();

  CHECK_FALSE(before);
}

TEST_CASE("event queue: a port that flaps without end stays bounded and ends in its last state") {
  Bench bench;

  for (int i = 0; i < 10'001; ++i) bench.queue.push_port("port", i % 2 == 0);
  const auto events = bench.queue.take();

  CHECK(events.size() == 16);
  CHECK(std::get<PortEvent>(events.back()).open);
}

}  // namespace
}  // namespace kvitest
