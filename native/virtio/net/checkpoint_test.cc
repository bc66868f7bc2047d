// A net device in a checkpoint.
#include <doctest/doctest.h>

#include "native/state/test_checkpoint.h"
#include "native/virtio/net/test_net.h"

namespace kvitest {
namespace {

constexpr std::uint64_t kFeatures =
    kNetMrgRxbuf | kNetStatus | kNetCtrlVq | kNetCtrlRx | kNetCtrlMacAddr | kNetGuestAnnounce;
constexpr MacAddress kNewMac{0x02, 0, 0, 0, 0, 0x99};

void fork(NetBench& child, const NetBench& parent, const std::optional<MacAddress>& mac = {}) {
  child.board.copy_memory(parent.board);
  load(child.board, saved(parent.board));
  if (mac) child.net->set_mac(*mac);
  child.board.resume();
  child.driver.adopt(parent.driver);
}

TEST_CASE("net checkpoint: a fork goes on with link, filter and the positions of its queues") {
  NetBench parent;
  parent.start(kFeatures);
  CHECK(parent.control(0, 0, number(0, 1)) == 0);
  parent.driver.offer(kReceive, 2048);
  parent.send(udp(1000, kPortEcho, bytes("one")));
  CHECK(parent.receive().has_value());
  parent.driver.offer(kReceive, 2048);

  NetBench child;
  fork(child, parent);
  child.send(udp(1000, kPortEcho, bytes("two")));
  CHECK(child.receive().has_value());
  parent.send(udp(1000, kPortEcho, bytes("two")));
  CHECK(parent.receive().has_value());
}

TEST_CASE("net checkpoint: buffers that were taken for a frame that waits are used in the fork") {
  NetBench parent;
  parent.start(kFeatures);
  parent.driver.offer(kReceive, 100);
  parent.driver.offer(kReceive, 100);
  parent.send(udp(1000, kPortEcho, bytes(std::string(500, 'x'))));
  CHECK_FALSE(parent.receive().has_value());

  NetBench child;
  fork(child, parent);
  child.send(udp(1000, kPortEcho, bytes(std::string(100, 'y'))));
  child.net->deliver();
  const auto first = child.driver.receive(kReceive);
  const auto second = child.driver.receive(kReceive);
  REQUIRE(first.has_value());
  REQUIRE(second.has_value());
  CHECK(first->substr(10, 2) == number(2, 2));
  CHECK(second->back() == 'y');
  // A fork of the fork has none left.
  NetBench grandchild;
  fork(grandchild, child);
  grandchild.send(udp(1000, kPortEcho, bytes("z")));
  CHECK_FALSE(grandchild.receive().has_value());
}

TEST_CASE("net checkpoint: a fork asks its driver to announce it, until that is acknowledged") {
  NetBench parent;
  parent.start(kFeatures);
  NetBench child;
  fork(child, parent);
  CHECK(child.config(6, 2) == 3);
  CHECK(child.board.interrupts.take_messages(0) == 1);
  CHECK(child.control(3, 0, "") == 0);
  CHECK(child.config(6, 2) == 1);

  NetBench quiet;
  quiet.start(kNetStatus);
  NetBench other;
  fork(other, quiet);
  CHECK(other.config(6, 2) == 1);
}

TEST_CASE("net checkpoint: a fork may have an address of its own") {
  NetBench parent;
  parent.start(kFeatures);
  NetBench child;
  fork(child, parent, kNewMac);
  CHECK(child.config(4, 2) == 0x9900);
  CHECK(parent.config(4, 2) == 0x0a00);
}

TEST_CASE("net checkpoint: another version, other queues or another MTU are refused") {
  NetBench parent;
  parent.start(kFeatures);
  const auto bytes = saved(parent.board);
  NetBench same;
  CHECK(refusal(same.board, with_version(bytes, "virtio-net", 2)).find("version 2") !=
        std::string::npos);
  NetSpec spec = net_spec();
  spec.mtu = 1000;
  NetBench other(spec);
  CHECK(refusal(other.board, bytes).find("virtio-net") != std::string::npos);
}

TEST_CASE("net checkpoint: a part of one, or one with a changed byte, is refused or harmless") {
  NetBench parent;
  parent.start(kFeatures);
  CHECK(parent.control(1, 0, number(1, 4) + mac_text(kNewMac) + number(0, 4)) == 0);
  parent.driver.offer(kReceive, 100);
  parent.send(udp(1000, kPortEcho, bytes(std::string(500, 'x'))));
  parent.net->deliver();
  const std::vector<std::byte> bytes = saved(parent.board);
  std::size_t refused = 0;
  for (std::size_t at = 0; at < bytes.size(); ++at) {
    NetBench cut;
    refused += refusal(cut.board, std::span(bytes).first(at)).empty() ? 0 : 1;
    std::vector<std::byte> changed = bytes;
    changed[at] ^= std::byte{0xff};
    NetBench child;
    child.board.copy_memory(parent.board);
    if (refusal(child.board, changed).empty()) child.board.resume();
  }
  CHECK(refused == bytes.size());
}

}  // namespace
}  // namespace kvitest
