#include "native/virtio/vsock/stream_sockets.h"

#include <doctest/doctest.h>
#include <poll.h>
#include <sys/socket.h>

#include <array>
#include <chrono>
#include <condition_variable>
#include <optional>
#include <string>

namespace kvitest {
namespace {

using Id = StreamSockets::Id;
constexpr std::size_t kWindow = 100'000;
constexpr std::chrono::seconds kLimit{20};

// Writes down what it is told, and waits for it.
struct Log : StreamSockets::Owner {
  void accepted(Id listener, UniqueFd) override { add("accepted " + std::to_string(listener)); }
  void connected(Id id) override { add("connected " + std::to_string(id)); }
  void received(Id, std::span<const std::byte> data) override {
    const std::lock_guard lock(mutex);
    text.append(reinterpret_cast<const char*>(data.data()), data.size());
    changed.notify_all();
  }
  void sent(Id, std::size_t bytes) override {
    const std::lock_guard lock(mutex);
    total += bytes;
    changed.notify_all();
  }
  void ended(Id id) override { add("ended " + std::to_string(id)); }
  void closed(Id id) override { add("closed " + std::to_string(id)); }

  void add(std::string line) {
    const std::lock_guard lock(mutex);
    lines += line + "; ";
    changed.notify_all();
  }
  template <typename Is>
  bool wait(Is is) {
    std::unique_lock lock(mutex);
    return changed.wait_for(lock, kLimit, is);
  }
  bool wait_lines(const std::string& wanted) {
    return wait([&] { return lines == wanted; });
  }

  std::mutex mutex;
  std::condition_variable changed;
  std::string lines;
  std::string text;
  std::size_t total = 0;
};

struct Pair {
  Log log;
  StreamSockets sockets{"test", log, kWindow};
  UniqueFd other;

  Pair() {
    std::array<int, 2> fds{};
    REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds.data()) == 0);
    other = UniqueFd(fds[1]);
    sockets.add(7, UniqueFd(fds[0]));
  }
  void say(const std::string& text) const {
    REQUIRE(::send(other.get(), text.data(), text.size(), 0) == static_cast<ssize_t>(text.size()));
  }
  // So many bytes; fewer at the end of the stream.
  std::string hear(std::size_t bytes) const {
    std::string text(bytes, '\0');
    text.resize(static_cast<std::size_t>(
        std::max<ssize_t>(::recv(other.get(), text.data(), bytes, MSG_WAITALL), 0)));
    return text;
  }
  std::size_t write(const std::string& text) {
    return sockets.write(7, std::as_bytes(std::span(text)));
  }
};

}  // namespace

TEST_CASE("stream sockets: bytes go both ways, and each direction ends by itself") {
  Pair pair;
  pair.say("from there");
  CHECK(pair.write("from here") == 9);
  CHECK(pair.hear(9) == "from here");
  CHECK(pair.log.wait([&] { return pair.log.text == "from there"; }));

  ::shutdown(pair.other.get(), SHUT_WR);
  CHECK(pair.log.wait_lines("ended 7; "));
  pair.write("still");
  pair.sockets.shut(7);
  CHECK(pair.hear(100) == "still");
  CHECK(pair.log.wait_lines("ended 7; closed 7; "));
  CHECK(!pair.sockets.has(7));
}

TEST_CASE(
    "stream sockets: the other side's close is the end of both directions, behind its bytes") {
  Pair pair;
  pair.say("last words");
  pair.other.reset();
  CHECK(pair.log.wait_lines("ended 7; closed 7; "));
  CHECK(pair.log.text == "last words");
}

TEST_CASE("stream sockets: one that was only half closed is over when its other half goes") {
  Pair pair;
  ::shutdown(pair.other.get(), SHUT_WR);
  CHECK(pair.log.wait_lines("ended 7; "));
  pair.other.reset();
  CHECK(pair.log.wait_lines("ended 7; closed 7; "));
}

TEST_CASE("stream sockets: no more than a window is received before it is taken") {
  Pair pair;
  const std::string much(4 * kWindow, 'x');
  std::thread writer([&] { pair.say(much); });
  CHECK(pair.log.wait([&] { return pair.log.text.size() == kWindow; }));
  pair.sockets.taken(7, kWindow);
  CHECK(pair.log.wait([&] { return pair.log.text.size() == 2 * kWindow; }));
  {
    const std::lock_guard lock(pair.log.mutex);
    CHECK(pair.log.text.size() == 2 * kWindow);
  }
  pair.sockets.taken(7, 2 * kWindow);
  pair.sockets.taken(7, 2 * kWindow);
  CHECK(pair.log.wait([&] { return pair.log.text.size() >= 3 * kWindow; }));
  pair.sockets.taken(7, 2 * kWindow);
  CHECK(pair.log.wait([&] { return pair.log.text.size() == 4 * kWindow; }));
  writer.join();
}

TEST_CASE("stream sockets: what waits is sent before one that was removed is closed") {
  Pair pair;
  const std::string much(1'000'000, 'x');
  pair.write(much);
  pair.sockets.remove(7);
  CHECK(!pair.sockets.has(7));
  CHECK(pair.hear(much.size() + 1).size() == much.size());
  CHECK(pair.log.lines.empty());
}

TEST_CASE("stream sockets: pieces that do not all go at once go on in order, and are told of") {
  std::string much(1'000'000, '\0');
  for (std::size_t i = 0; i < much.size(); ++i) much[i] = static_cast<char>(i * 31 + i / 251);
  Pair pair;
  // The first one alone is more than goes, or a little of the last is.
  for (const std::size_t first : {std::size_t{900'000}, std::size_t{1}, much.size() - 1}) {
    CAPTURE(first);
    {
      const std::lock_guard lock(pair.log.mutex);
      pair.log.total = 0;
    }
    const std::array pieces{iovec{much.data(), first},
                            iovec{much.data() + first, much.size() - first}};
    const std::size_t gone = pair.sockets.write(7, std::span<const iovec>(pieces));
    CHECK(gone > 0);
    CHECK(gone < much.size());
    CHECK(pair.write("behind") == 0);
    CHECK(pair.hear(much.size() + 6) == much + "behind");
    CHECK(pair.log.wait([&] { return pair.log.total == much.size() + 6 - gone; }));
  }
}

TEST_CASE("stream sockets: nothing waits for a side that is gone") {
  Pair pair;
  pair.other.reset();
  pair.write(std::string(1000, 'x'));
  CHECK(pair.log.wait_lines("ended 7; closed 7; "));
  CHECK(pair.sockets.waiting(7) == 0);
}

TEST_CASE("stream sockets: a listener accepts until it is removed") {
  Log log;
  StreamSockets sockets("test", log, kWindow);
  sockaddr at{};
  at.sa_family = AF_UNIX;  // and no name: the kernel gives an abstract one
  const auto short_length = static_cast<socklen_t>(sizeof at.sa_family);
  UniqueFd listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  REQUIRE(::bind(listener.get(), &at, short_length) == 0);
  REQUIRE(::listen(listener.get(), 4) == 0);
  socklen_t length = sizeof at;
  REQUIRE(::getsockname(listener.get(), &at, &length) == 0);
  sockets.listen(3, std::move(listener));
  const UniqueFd client(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  CHECK(::connect(client.get(), &at, length) == 0);
  CHECK(log.wait_lines("accepted 3; "));
  sockets.remove(3);
  const UniqueFd late(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  CHECK(::connect(late.get(), &at, length) == -1);
}

}  // namespace kvitest
