// The host's own network stack at the other end of a tap, in a network namespace of the test.
#include "native/net/tap.h"

#include <arpa/inet.h>
#include <doctest/doctest.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <condition_variable>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "native/error.h"
#include "native/net/peer.h"
#include "native/net/test_frames.h"
#include "native/unique_fd.h"

namespace kvitest {
namespace {

bool no_namespace() {
  bool made = false;
  std::thread([&] { made = ::unshare(CLONE_NEWNET) == 0; }).join();
  return !made || ::access("/dev/net/tun", R_OK | W_OK) != 0;
}

// On a thread in a network namespace of its own. A socket, and an interface, stay in the namespace
// that they were made in.
void in_namespace(auto action) {
  std::thread([&] {
    REQUIRE(::unshare(CLONE_NEWNET) == 0);
    action();
  }).join();
}

sockaddr_in address(const char* text, std::uint16_t port = 0) {
  sockaddr_in out{};
  out.sin_family = AF_INET;
  out.sin_port = htons(port);
  REQUIRE(::inet_pton(AF_INET, text, &out.sin_addr) == 1);
  return out;
}

void set_up(const char* interface, const char* with) {
  const UniqueFd fd(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  ifreq request{};
  std::ranges::copy(std::string_view(interface), request.ifr_name);
  const sockaddr_in own = address(with);
  std::memcpy(&request.ifr_addr, &own, sizeof own);
  REQUIRE(::ioctl(fd.get(), SIOCSIFADDR, &request) == 0);
  const sockaddr_in mask = address("255.255.255.0");
  std::memcpy(&request.ifr_netmask, &mask, sizeof mask);
  REQUIRE(::ioctl(fd.get(), SIOCSIFNETMASK, &request) == 0);
  request.ifr_flags = IFF_UP | IFF_RUNNING;
  REQUIRE(::ioctl(fd.get(), SIOCSIFFLAGS, &request) == 0);
}

// The peer of native/net behind a tap: what a guest's device would do between them.
class Pump {
 public:
  Pump() : tap_(open_tap("kvitest-tap", [this] { wake(); })) {
    set_up("kvitest-tap", "192.0.2.7");
    thread_ = std::thread([this] { run(); });
  }
  ~Pump() {
    ending_ = true;
    wake();
    thread_.join();
  }
  std::atomic<int> segmented_from_host{0}, segmented_to_host{0}, unfinished_from_host{0};
  LinkCounts counts() const { return tap_->counts(); }

 private:
  void wake() {
    const std::lock_guard lock(mutex_);
    woken_ = true;
    changed_.notify_all();
  }
  void run() {
    while (!ending_) {
      {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [this] { return woken_; });
        woken_ = false;
      }
      while (auto frame = tap_->receive()) {
        if (frame->segmentation) ++segmented_from_host;
        if (frame->checksum) ++unfinished_from_host;
        peer_->send(std::move(*frame));
        while (auto answer = peer_->receive()) {
          if (answer->segmentation) ++segmented_to_host;
          tap_->send(std::move(*answer));
        }
      }
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  bool woken_ = false;
  std::atomic<bool> ending_{false};
  std::unique_ptr<Link> peer_ = make_peer();
  std::unique_ptr<Link> tap_;
  std::thread thread_;
};

// Sends all of it to the echo service and returns what came back.
std::string echoed(int fd, const std::string& data) {
  std::string back;
  std::size_t sent = 0;
  while (back.size() < data.size()) {
    const bool more = sent < data.size();
    pollfd ready{fd, static_cast<short>(POLLIN | (more ? POLLOUT : 0)), 0};
    if (::poll(&ready, 1, 10'000) != 1) break;
    if ((ready.revents & POLLOUT) != 0) {
      const ssize_t n = ::send(fd, data.data() + sent, data.size() - sent, MSG_DONTWAIT);
      if (n > 0) sent += static_cast<std::size_t>(n);
    }
    if ((ready.revents & POLLIN) != 0) {
      std::array<char, 65536> piece;
      const ssize_t n = ::recv(fd, piece.data(), piece.size(), MSG_DONTWAIT);
      if (n <= 0) break;
      back.append(piece.data(), static_cast<std::size_t>(n));
    }
  }
  return back;
}

TEST_CASE("tap: the host's TCP goes out and comes back, in large segments with sums left to do" *
          doctest::skip(no_namespace())) {
  in_namespace([] {
    Pump pump;
    const UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const sockaddr_in to = address("192.0.2.1", 7);
    REQUIRE(::connect(fd.get(), reinterpret_cast<const sockaddr*>(&to), sizeof to) == 0);
    std::string data(500'000, '\0');
    for (std::size_t i = 0; i < data.size(); ++i) {
      data[i] = static_cast<char>(i * 31 + i / 251);
    }
    CHECK(echoed(fd.get(), data) == data);
    CHECK(pump.segmented_from_host.load() > 0);
    CHECK(pump.segmented_to_host.load() > 0);
    CHECK(pump.unfinished_from_host.load() > 0);
    CHECK(pump.counts().dropped == 0);
  });
}

TEST_CASE("tap: a datagram of the host comes back" * doctest::skip(no_namespace())) {
  in_namespace([] {
    Pump pump;
    const UniqueFd fd(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    const sockaddr_in to = address("192.0.2.1", 7);
    REQUIRE(::connect(fd.get(), reinterpret_cast<const sockaddr*>(&to), sizeof to) == 0);
    const std::string data = "over the tap";
    REQUIRE(::send(fd.get(), data.data(), data.size(), 0) == static_cast<ssize_t>(data.size()));
    pollfd ready{fd.get(), POLLIN, 0};
    REQUIRE(::poll(&ready, 1, 10'000) == 1);
    std::array<char, 64> back{};
    const ssize_t n = ::recv(fd.get(), back.data(), back.size(), 0);
    CHECK(std::string(back.data(), static_cast<std::size_t>(std::max<ssize_t>(n, 0))) == data);
    CHECK(pump.counts().received >= 2);  // ARP before it
    // Counted once it is written, which is when the host has it.
    while (pump.counts().sent < 2) std::this_thread::yield();
  });
}

TEST_CASE("tap: what cannot be opened is refused by name, with what to do" *
          doctest::skip(no_namespace())) {
  in_namespace([] {
    const auto one = open_tap("kvitest-tap", [] {});
    CHECK_THROWS_WITH_AS(open_tap("kvitest-tap", [] {}),
                         doctest::Contains("open tap: interface kvitest-tap (Device or resource "
                                           "busy); another process or guest has it"),
                         Error);
    CHECK_THROWS_WITH_AS(open_tap("lo", [] {}), doctest::Contains("is no tap"), Error);
  });
}

TEST_CASE("tap: names that no interface has are refused") {
  for (const char* name : {"", "a name", "sixteen-bytes-xx", "a/b", "tap%d", "."}) {
    CHECK_THROWS_AS(check_interface_name("test", name), Error);
  }
  CHECK_NOTHROW(check_interface_name("test", "tap-0.1"));
}

}  // namespace
}  // namespace kvitest
