#include "native/machine/host_writes.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <map>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

namespace kvitest {
namespace {

// A device that takes `room` bytes in all until it is given more.
struct Bench {
  std::map<std::string, std::size_t> room;
  std::map<std::string, std::string> taken;
  std::vector<std::string> done;
  std::vector<std::string> failed;
  HostWrites writes{[this](const std::string& channel, std::span<const std::byte> data) {
    const std::size_t count = std::min(room[channel], data.size());
    taken[channel].append(reinterpret_cast<const char*>(data.data()), count);
    room[channel] -= count;
    return count;
  }};

  void add(const std::string& channel, const std::string& text) {
    const auto bytes = std::as_bytes(std::span(text));
    writes.add(channel, {bytes.begin(), bytes.end()},
               [this, text](std::exception_ptr error) { (error ? failed : done).push_back(text); });
  }
};

TEST_CASE("host writes: what the device takes at once is done at once") {
  Bench bench;
  bench.room["a"] = 10;

  bench.add("a", "hello");

  CHECK(bench.taken["a"] == "hello");
  CHECK(bench.done == std::vector<std::string>{"hello"});
}

TEST_CASE("host writes: an empty write is done at once, behind those before it") {
  Bench bench;

  bench.add("a", "x");
  bench.add("a", "");
  CHECK(bench.done.empty());
  bench.room["a"] = 1;
  bench.writes.pump("a");

  CHECK(bench.done == std::vector<std::string>{"x", ""});
}

TEST_CASE("host writes: a full device gets the rest in order when it has room") {
  Bench bench;
  bench.room["a"] = 3;

  bench.add("a", "hello");
  bench.add("a", "world");
  CHECK(bench.done.empty());
  bench.room["a"] = 4;
  bench.writes.pump("a");
  CHECK(bench.done == std::vector<std::string>{"hello"});
  bench.room["a"] = 100;
  bench.writes.pump("a");

  CHECK(bench.taken["a"] == "helloworld");
  CHECK(bench.done == std::vector<std::string>{"hello", "world"});
}

TEST_CASE("host writes: a full channel does not hold up another") {
  Bench bench;
  bench.room["b"] = 10;

  bench.add("a", "stuck");
  bench.add("b", "free");

  CHECK(bench.done == std::vector<std::string>{"free"});
}

TEST_CASE("host writes: all that wait fail, those that are done do not") {
  Bench bench;
  bench.room["a"] = 5;
  bench.add("a", "first");
  bench.add("a", "second");
  bench.add("b", "third");

  bench.writes.fail(Error("write", 0, "ended"));
  bench.writes.fail(Error("write", 0, "again"));

  CHECK(bench.done == std::vector<std::string>{"first"});
  CHECK(bench.failed == std::vector<std::string>{"second", "third"});
}

}  // namespace
}  // namespace kvitest
