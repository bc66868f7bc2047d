// The control queue and what it filters, on a switch with a second station.
#include <doctest/doctest.h>

#include "native/virtio/net/test_net.h"

namespace kvitest {
namespace {

constexpr std::uint8_t kRx = 0, kMac = 1, kVlan = 2, kAnnounce = 3;
constexpr std::uint64_t kControlFeatures = kNetCtrlVq | kNetCtrlRx | kNetCtrlRxExtra |
                                           kNetCtrlVlan | kNetCtrlMacAddr | kNetStatus |
                                           kNetGuestAnnounce;
constexpr MacAddress kOther{0x02, 0, 0, 0, 0, 0x77};
constexpr MacAddress kGroup{0x01, 0, 0x5e, 0, 0, 1};
constexpr MacAddress kAll{0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

struct ControlBench : NetBench {
  ControlBench() : NetBench(net_spec("control")), station(join_network("control", [] {})) {
    start(kControlFeatures);
    for (int i = 0; i < 64; ++i) driver.offer(kReceive, 256);
    CHECK(control(kRx, 0, number(0, 1)) == 0);
  }
  bool hears(const MacAddress& to, const Bytes& tag = {}) {
    Bytes frame = ethernet(to, {2, 0, 0, 0, 0, 0x55}, 0x88b5, Bytes(60));
    frame.insert(frame.begin() + 12, tag.begin(), tag.end());
    station->send(plain(frame));
    return receive().has_value();
  }
  bool hears_vlan(std::uint16_t id) {
    Bytes tag(4);
    put_be32(tag, 0, 0x8100'0000u | id);
    return hears(kGuestMac, tag);
  }
  std::unique_ptr<Link> station;
};

std::string table(const std::vector<MacAddress>& addresses) {
  std::string out = number(addresses.size(), 4);
  for (const MacAddress& mac : addresses) out += mac_text(mac);
  return out;
}

TEST_CASE("net control: receive modes choose what is heard") {
  ControlBench bench;
  CHECK(bench.hears(kGuestMac));
  CHECK(bench.hears(kAll));
  CHECK_FALSE(bench.hears(kOther));
  CHECK_FALSE(bench.hears(kGroup));
  CHECK(bench.net->counts().filtered == 2);
  CHECK(bench.control(kRx, 1, number(1, 1)) == 0);  // all multicast
  CHECK(bench.hears(kGroup));
  CHECK(bench.control(kRx, 2, number(1, 1)) == 0);  // all unicast
  CHECK(bench.hears(kOther));
  CHECK(bench.control(kRx, 3, number(1, 1)) == 0);  // no multicast
  CHECK_FALSE(bench.hears(kGroup));
  CHECK(bench.control(kRx, 4, number(1, 1)) == 0);  // no unicast
  CHECK_FALSE(bench.hears(kGuestMac));
  CHECK(bench.control(kRx, 5, number(1, 1)) == 0);  // no broadcast
  CHECK_FALSE(bench.hears(kAll));
  CHECK(bench.control(kRx, 0, number(1, 1)) == 0);  // promiscuous
  CHECK(bench.hears(kAll));
  CHECK(bench.hears(kOther));
}

TEST_CASE("net control: tables of addresses; a table too long lets all of its kind pass") {
  ControlBench bench;
  CHECK(bench.control(kMac, 0, table({kOther}) + table({kGroup})) == 0);
  CHECK(bench.hears(kOther));
  CHECK(bench.hears(kGroup));
  CHECK(bench.control(kMac, 0, table({}) + table({})) == 0);
  CHECK_FALSE(bench.hears(kOther));
  CHECK_FALSE(bench.hears(kGroup));
  CHECK(bench.control(kMac, 0, table(std::vector<MacAddress>(65)) + table({})) == 0);
  CHECK(bench.hears(kOther));
  CHECK_FALSE(bench.hears(kGroup));
}

TEST_CASE("net control: the address can be set; a group's is refused") {
  ControlBench bench;
  CHECK(bench.control(kMac, 1, mac_text(kOther)) == 0);
  CHECK(bench.hears(kOther));
  CHECK_FALSE(bench.hears(kGuestMac));
  CHECK(bench.config(4, 2) == 0x7700);
  CHECK(bench.control(kMac, 1, mac_text(kGroup)) == 1);
  bench.driver.reset();
  CHECK(bench.config(4, 2) == 0x0a00);
}

TEST_CASE("net control: only frames of added VLANs are heard") {
  ControlBench bench;
  CHECK_FALSE(bench.hears_vlan(5));
  CHECK(bench.control(kVlan, 0, number(5, 2)) == 0);
  CHECK(bench.control(kVlan, 0, number(4095, 2)) == 0);
  CHECK(bench.hears_vlan(5));
  CHECK(bench.hears_vlan(4095));
  CHECK_FALSE(bench.hears_vlan(6));
  CHECK(bench.control(kVlan, 1, number(5, 2)) == 0);
  CHECK_FALSE(bench.hears_vlan(5));
  CHECK(bench.control(kVlan, 0, number(4096, 2)) == 1);
  CHECK(bench.control(kVlan, 2, number(5, 2)) == 1);
}

TEST_CASE("net control: malformed requests fail, change nothing and stop nothing") {
  ControlBench bench;
  CHECK(bench.control(9, 0, "") == 1);
  CHECK(bench.control(kRx, 6, number(1, 1)) == 1);
  CHECK(bench.control(kRx, 0, "") == 1);
  CHECK(bench.control(kRx, 0, number(1, 2)) == 1);
  CHECK(bench.control(kRx, 0, number(2, 1)) == 1);
  CHECK(bench.control(kMac, 0, "") == 1);
  CHECK(bench.control(kMac, 0, table({kOther})) == 1);
  CHECK(bench.control(kMac, 0, table({kOther}) + number(0xffff'ffff, 4)) == 1);
  CHECK(bench.control(kMac, 0, table({kOther}) + table({}) + "x") == 1);
  CHECK(bench.control(kMac, 1, "short") == 1);
  CHECK(bench.control(kAnnounce, 1, "") == 1);
  CHECK(bench.control(4, 0, number(1, 2)) == 1);  // MQ was not negotiated
  CHECK_FALSE(bench.hears(kOther));
  // No room for the answer, and no whole command.
  bench.driver.send(kControl, "x");
  CHECK(bench.driver.queue(kControl).take_used()->length == 0);
  bench.driver.send(kControl, number(0, 2) + number(1, 1));
  CHECK(bench.driver.queue(kControl).take_used()->length == 0);
  CHECK_FALSE(bench.hears(kOther));
  CHECK(bench.control(kRx, 0, number(1, 1)) == 0);
  CHECK(bench.driver.status() == 0x0f);
}

}  // namespace
}  // namespace kvitest
