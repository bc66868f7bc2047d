#include "native/net/switch.h"

#include <doctest/doctest.h>

#include "native/net/test_frames.h"

namespace kvitest {
namespace {

struct Guest {
  explicit Guest(const std::string& network) : link(join_network(network, [this] { ++woken; })) {}
  void send(std::uint8_t to, std::uint8_t from, std::size_t size = 60) {
    link->send(plain(ethernet({2, 0, 0, 0, 0, to}, {2, 0, 0, 0, 0, from}, 0x88b5, Bytes(size))));
  }
  void broadcast(std::uint8_t from) {
    MacAddress all;
    all.fill(0xff);
    link->send(plain(ethernet(all, {2, 0, 0, 0, 0, from}, 0x88b5, Bytes(60))));
  }
  int take() {
    int frames = 0;
    while (link->receive()) ++frames;
    return frames;
  }
  int woken = 0;
  std::unique_ptr<Link> link;
};

TEST_CASE("switch: an unknown address is flooded, a known one is not, nobody hears itself") {
  Guest a("lan"), b("lan"), c("lan");
  a.send(2, 1);
  CHECK(a.take() == 0);
  CHECK(b.take() == 1);
  CHECK(c.take() == 1);
  b.send(1, 2);
  CHECK(a.take() == 1);
  CHECK(c.take() == 0);
  a.send(2, 1);
  CHECK(b.take() == 1);
  CHECK(c.take() == 0);
  a.send(1, 1);
  CHECK(a.take() == 0);
  a.broadcast(1);
  CHECK(a.take() == 0);
  CHECK(b.take() == 1);
  CHECK(c.take() == 1);
}

TEST_CASE("switch: an address is where it was seen last, and forgotten with its guest") {
  Guest a("lan");
  auto b = std::make_unique<Guest>("lan");
  Guest c("lan");
  b->send(9, 2);
  c.send(9, 2);
  a.take();
  b->take();
  c.take();
  a.send(2, 1);
  CHECK(b->take() == 0);
  CHECK(c.take() == 1);
  b->send(9, 2);
  c.take();
  b.reset();
  a.send(2, 1);
  CHECK(c.take() == 1);
}

TEST_CASE("switch: networks of other names hear nothing") {
  Guest a("one"), b("two");
  a.broadcast(1);
  CHECK(b.take() == 0);
}

TEST_CASE("switch: a guest that does not read loses frames, the others none") {
  Guest a("lan"), deaf("lan"), c("lan");
  int heard = 0;
  for (int i = 0; i < 2000; ++i) {
    a.broadcast(1);
    heard += c.take();
  }
  CHECK(heard == 2000);
  CHECK(deaf.link->counts().dropped == 2000 - kSwitchBacklog);
  CHECK(deaf.take() == kSwitchBacklog);
  // By bytes as well.
  for (int i = 0; i < 100; ++i) {
    a.send(7, 1, 65000);
    c.take();
  }
  CHECK(deaf.take() == kSwitchBacklogBytes / 65014);
}

TEST_CASE("switch: a flood of addresses is forgotten, not kept") {
  Guest a("lan"), b("lan");
  for (unsigned i = 0; i < 10'000; ++i) {
    const MacAddress from{
        2, 0, 0, 9, static_cast<std::uint8_t>(i >> 8), static_cast<std::uint8_t>(i)};
    a.link->send(plain(ethernet({2, 0, 0, 0, 0, 2}, from, 0x88b5, {})));
    b.take();
  }
  b.send(1, 2);
  CHECK(a.take() == 1);
  a.send(2, 1);
  CHECK(b.take() == 1);
}

TEST_CASE("switch: a frame without a header goes nowhere") {
  Guest a("lan"), b("lan");
  a.link->send(plain(Bytes(13)));
  CHECK(b.take() == 0);
}

}  // namespace
}  // namespace kvitest
