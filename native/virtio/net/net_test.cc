#include "native/virtio/net/net.h"

#include <doctest/doctest.h>

#include "native/state/test_checkpoint.h"
#include "native/virtio/net/test_net.h"

namespace kvitest {
namespace {

constexpr std::size_t kIp = kEthernetHeader;
constexpr std::size_t kUdpData = kIp + kIpv4Header + 8;

TEST_CASE("net: the config space has the address, the link, the queues and the MTU") {
  NetSpec spec = net_spec();
  spec.mtu = 4000;
  spec.queue_pairs = 3;
  NetBench bench(spec);
  CHECK(bench.config(0, 4) == 0x0000'0002);
  CHECK(bench.config(4, 2) == 0x0a00);
  CHECK(bench.config(6, 2) == 1);
  CHECK(bench.config(8, 2) == 3);
  CHECK(bench.config(10, 2) == 4000);
  CHECK(bench.config(12, 4) == 0);
  CHECK(bench.board.mmio(18, 2) == 7);
  CHECK((bench.driver.device_features() & (kNetMtu | kNetMq)) == (kNetMtu | kNetMq));
}

TEST_CASE("net: a feature that is switched off takes those with it that need it") {
  NetSpec spec = net_spec();
  spec.queue_pairs = 2;
  NetBench bench(spec, {"ctrl_vq", "csum", "guest_csum"});
  const std::uint64_t gone = kNetCsum | kNetGuestCsum | kNetHostTso4 | kNetHostTso6 |
                             kNetGuestTso4 | kNetGuestTso6 | kNetCtrlVq | kNetCtrlRx |
                             kNetCtrlVlan | kNetCtrlRxExtra | kNetGuestAnnounce | kNetMq |
                             kNetCtrlMacAddr;
  CHECK((bench.driver.device_features() & gone) == 0);
  CHECK((bench.driver.device_features() & kNetMrgRxbuf) != 0);
  CHECK(bench.board.mmio(18, 2) == 4);
}

TEST_CASE("net: a datagram goes out and its echo comes back, with one buffer in its header") {
  for (const std::uint64_t features : {std::uint64_t{0}, kNetMrgRxbuf}) {
    NetBench bench;
    bench.start(features);
    bench.driver.offer(kReceive, 2048);
    bench.send(udp(1000, kPortEcho, bytes("hello")));
    CHECK(bench.driver.queue(kTransmit).take_used()->length == 0);
    // On the thread that asked.
    const auto frame = bench.driver.receive(kReceive);
    REQUIRE(frame.has_value());
    CHECK(frame->substr(0, kNetHeader) == std::string(10, '\0') + number(1, 2));
    CHECK(frame->substr(kNetHeader + kUdpData) == "hello");
  }
}

TEST_CASE("net: a frame waits for a buffer, and takes several when they are merged") {
  NetBench bench;
  bench.start(kNetMrgRxbuf);
  const std::string data(3000, 'x');
  bench.send(udp(1000, kPortEcho, bytes(data)));
  CHECK_FALSE(bench.receive().has_value());
  bench.driver.offer(kReceive, 1000);
  bench.driver.offer(kReceive, 1000);
  bench.driver.offer(kReceive, 1000);
  CHECK_FALSE(bench.receive().has_value());
  bench.driver.offer(kReceive, 1000);
  std::string whole;
  std::vector<std::size_t> sizes;
  while (auto piece = bench.driver.receive(kReceive)) {
    sizes.push_back(piece->size());
    whole += *piece;
  }
  CHECK(sizes == std::vector<std::size_t>{1000, 1000, 1000, kNetHeader + kUdpData + 3000 - 3000});
  CHECK(whole.substr(10, 2) == number(4, 2));
  CHECK(whole.substr(kNetHeader + kUdpData) == data);
}

TEST_CASE("net: without merging a frame that does not fit its buffer is lost, the buffer is not") {
  NetBench bench;
  bench.start();
  bench.driver.offer(kReceive, 200);
  bench.send(udp(1000, kPortEcho, bytes(std::string(500, 'x'))));
  CHECK_FALSE(bench.receive().has_value());
  CHECK(bench.net->counts().not_taken == 1);
  bench.send(udp(1000, kPortEcho, bytes("small")));
  const auto frame = bench.receive();
  REQUIRE(frame.has_value());
  CHECK(frame->substr(kNetHeader + kUdpData) == "small");
}

TEST_CASE("net: a frame larger than all merged buffers of the ring is lost") {
  NetBench bench;
  bench.start(kNetMrgRxbuf);
  for (int i = 0; i < 256; ++i) bench.driver.offer(kReceive, 12);
  bench.send(udp(1000, kPortEcho, bytes(std::string(4000, 'x'))));
  bench.net->deliver();
  CHECK(bench.net->counts().not_taken == 1);
  bench.send(udp(1000, kPortEcho, bytes("small")));
  CHECK(bench.receive().has_value());
}

TEST_CASE("net: a receive buffer without room for the header comes back empty") {
  NetBench bench;
  bench.start(kNetMrgRxbuf);
  bench.driver.offer(kReceive, 11);
  bench.driver.offer(kReceive, 0);
  bench.driver.send(kReceive, "readable");
  bench.driver.offer(kReceive, 2048);
  bench.send(udp(1000, kPortEcho, bytes("x")));
  bench.net->deliver();
  CHECK(bench.driver.queue(kReceive).take_used()->length == 0);
  CHECK(bench.driver.queue(kReceive).take_used()->length == 0);
  CHECK(bench.driver.queue(kReceive).take_used()->length == 0);
  CHECK(bench.driver.queue(kReceive).take_used()->length == kNetHeader + kUdpData + 1);
}

TEST_CASE("net: what breaks a rule of the header is dropped, and the queue goes on") {
  NetBench bench;
  bench.start(kNetCsum | kNetHostTso4);
  bench.driver.offer(kReceive, 2048);
  const Bytes good = udp(1000, kPortEcho, bytes("hello"));
  bench.driver.send(kTransmit, "");
  bench.driver.send(kTransmit, std::string(11, '\0'));
  bench.driver.send(kTransmit, std::string(kNetHeader + 13, '\0'));
  bench.send(Bytes(kMaxFrame + 1));
  bench.send(good, header(1, 0, 0, 46, 0));        // the sum's place is outside
  bench.send(good, header(1, 0, 0, 65535, 6));     // so is its start
  bench.send(good, header(1, 1, 0, 34, 16));       // pieces of no size, and no TCP
  bench.send(good, header(1, 3, 100, 34, 6));      // UDP fragmentation, which is not offered
  bench.send(good, header(1, 4, 100, 34, 16));     // HOST_TSO6, which was not negotiated
  bench.send(good, header(1, 0x81, 100, 34, 16));  // ECN, which is not offered
  bench.send(good, header(0, 1, 100, 34, 16));     // segmentation without a checksum
  bench.driver.offer(kTransmit, 100);              // nothing to read at all
  CHECK(bench.net->counts().refused == 12);
  CHECK(bench.net->counts().link.sent == 0);
  bench.send(good);
  CHECK(bench.receive().has_value());
  CHECK(bench.driver.status() == 0x0f);
}

TEST_CASE("net: a checksum left to the device is done; without the feature it is refused") {
  Bytes frame = udp(1000, kPortEcho, bytes("hello"));
  put_be16(frame, 40, pseudo_sum(kGuestAddress, kPeerAddress, kProtocolUdp, 13));
  NetBench bench;
  bench.start(kNetCsum);
  bench.driver.offer(kReceive, 2048);
  bench.send(frame, header(1, 0, 0, 34, 6));
  CHECK(bench.receive().has_value());
  bench.start();
  bench.send(frame, header(1, 0, 0, 34, 6));
  CHECK(bench.net->counts().refused == 1);
}

// The echo of much data over a TCP connection that is opened here.
std::vector<std::string> tcp_echo(std::uint64_t features, std::size_t size) {
  constexpr std::uint8_t kSyn = 2;
  NetBench bench;
  bench.start(features);
  for (int i = 0; i < 64; ++i) bench.driver.offer(kReceive, 4096);
  Bytes options(4);
  put_be32(options, 0, 0x0204'0000 | 1000);
  bench.send(tcp({.sequence = 1, .flags = kSyn, .options = options}));
  const std::string answer = bench.receive().value();
  const std::uint32_t theirs =
      be32(std::as_bytes(std::span(answer)), kNetHeader + kIp + kIpv4Header + 4) + 1;
  bench.send(tcp({.sequence = 2, .acknowledged = theirs}, Bytes(size, std::byte{'x'})));
  bench.net->deliver();
  std::vector<std::string> frames;
  while (auto frame = bench.driver.receive(kReceive)) frames.push_back(*frame);
  return frames;
}

TEST_CASE("net: a large TCP segment comes whole, in pieces or with its sum done, as negotiated") {
  constexpr std::size_t kTcpData = kIp + kIpv4Header + kTcpHeader;
  constexpr std::uint64_t kAll = kNetMrgRxbuf | kNetGuestCsum | kNetGuestTso4;
  const auto whole = tcp_echo(kAll, 2500);
  REQUIRE(whole.size() == 1);
  CHECK(whole[0].size() == kNetHeader + kTcpData + 2500);
  CHECK(whole[0].substr(0, kNetHeader) == number(1, 1) + number(1, 1) + number(kTcpData, 2) +
                                              number(1000, 2) + number(kIp + kIpv4Header, 2) +
                                              number(16, 2) + number(1, 2));

  const auto pieces = tcp_echo(kNetMrgRxbuf | kNetGuestCsum, 2500);
  REQUIRE(pieces.size() == 3);
  CHECK(pieces[2].size() == kNetHeader + kTcpData + 500);
  CHECK(pieces[0].substr(0, 2) == number(1, 2));

  const auto summed = tcp_echo(0, 2500);
  REQUIRE(summed.size() == 3);
  CHECK(summed[0].substr(0, 10) == std::string(10, '\0'));
  const auto segment = std::as_bytes(std::span(summed[0])).subspan(kNetHeader + kIp + kIpv4Header);
  CHECK(internet_sum(segment, pseudo_sum(kPeerAddress, kGuestAddress, kProtocolTcp,
                                         segment.size())) == 0xffff);
}

TEST_CASE("net: frames beyond the MTU pass in neither direction") {
  NetSpec spec = net_spec();
  spec.mtu = 1000;
  NetBench bench(spec);
  bench.start(kNetMtu);
  bench.driver.offer(kReceive, 4096);
  bench.send(udp(1000, kPortEcho, bytes(std::string(972, 'x'))));
  CHECK(bench.net->counts().refused == 0);
  CHECK(bench.receive().has_value());
  bench.send(udp(1000, kPortEcho, bytes(std::string(973, 'x'))));
  CHECK(bench.net->counts().refused == 1);
}

TEST_CASE("net: the link goes down and up, the driver is told, frames are lost meanwhile") {
  NetBench bench;
  bench.start(kNetStatus);
  bench.driver.offer(kReceive, 2048);
  bench.board.interrupts.take_messages(0);
  const std::uint64_t generation = bench.board.mmio(21, 1);
  bench.net->set_link(false);
  CHECK(bench.config(6, 2) == 0);
  CHECK(bench.board.mmio(21, 1) != generation);
  CHECK(bench.board.interrupts.take_messages(0) == 1);
  bench.send(udp(1000, kPortEcho, bytes("x")));
  CHECK_FALSE(bench.receive().has_value());
  CHECK(bench.net->counts().link.sent == 0);
  bench.net->set_link(false);
  CHECK(bench.board.interrupts.take_messages(0) == 0);
  bench.net->set_link(true);
  CHECK(bench.board.interrupts.take_messages(0) == 1);
  bench.send(udp(1000, kPortEcho, bytes("y")));
  CHECK(bench.receive().has_value());
}

TEST_CASE("net: a connection's last bytes are not lost with a ring, a link or a driver") {
  constexpr std::uint8_t kSyn = 0x02;
  constexpr std::size_t kTcpData = kNetHeader + kIp + kIpv4Header + kTcpHeader;
  NetBench bench;
  bench.net->ask_for(kFeatureRingReset);
  bench.start(kNetStatus | kFeatureRingReset);
  bench.driver.offer(kReceive, 2048);
  bench.send(tcp({.sequence = 999, .flags = kSyn}));
  const auto greeting = bench.receive();
  REQUIRE(greeting.has_value());
  const auto number = std::as_bytes(std::span(*greeting)).subspan(kNetHeader + kIp + kIpv4Header);
  bench.driver.offer(kReceive, 2048);
  bench.send(tcp({.sequence = 1000, .acknowledged = be32(number, 4) + 1}, bytes("last")));
  const auto last = [&] { return bench.receive().value_or("").substr(kTcpData); };
  CHECK(last() == "last");

  bench.driver.reset_queue(kReceive);
  REQUIRE(bench.driver.set_up_again(kReceive, 8) == 1);
  bench.driver.offer(kReceive, 2048);
  CHECK(last() == "last");

  bench.net->set_link(false);
  bench.net->set_link(true);
  bench.driver.offer(kReceive, 2048);
  CHECK(last() == "last");

  bench.start();
  bench.driver.offer(kReceive, 2048);
  CHECK(last() == "last");
}

TEST_CASE("net: answers come on the queue that asked") {
  NetSpec spec = net_spec();
  spec.queue_pairs = 2;
  NetBench bench(spec);
  bench.start(kNetMq | kNetCtrlVq);
  bench.driver.offer(0, 2048);
  bench.driver.offer(2, 2048);
  CHECK(bench.control(4, 0, number(2, 2), 4) == 0);
  bench.driver.send(3, std::string(kNetHeader, '\0') + text(udp(1000, kPortEcho, bytes("b"))));
  CHECK(bench.receive(2).has_value());
  CHECK(bench.control(4, 0, number(1, 2), 4) == 0);
  bench.driver.send(3, std::string(kNetHeader, '\0') + text(udp(1000, kPortEcho, bytes("b"))));
  CHECK(bench.receive(0).has_value());
  CHECK(bench.control(4, 0, number(0, 2), 4) == 1);
  CHECK(bench.control(4, 0, number(3, 2), 4) == 1);
}

TEST_CASE("net: pairs that the driver has not enabled receive nothing") {
  NetSpec spec = net_spec();
  spec.queue_pairs = 2;
  NetBench bench(spec);
  bench.start(kNetMq | kNetCtrlVq);
  constexpr std::uint16_t kSecondReceive = 2;
  constexpr std::uint16_t kSecondTransmit = 3;
  constexpr std::uint16_t kControlBehind = 4;
  bench.driver.offer(kReceive, 2048);
  bench.driver.offer(kSecondReceive, 2048);
  const auto ask_on_the_second = [&] {
    bench.driver.send(kSecondTransmit,
                      std::string(kNetHeader, '\0') + text(udp(1000, kPortEcho, bytes("hello"))));
  };
  ask_on_the_second();
  CHECK(bench.receive(kReceive).has_value());
  CHECK_FALSE(bench.receive(kSecondReceive).has_value());
  // VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET
  REQUIRE(bench.control(4, 0, number(2, 2), kControlBehind) == 0);
  ask_on_the_second();
  CHECK(bench.receive(kSecondReceive).has_value());
  // And none again.
  REQUIRE(bench.control(4, 0, number(1, 2), kControlBehind) == 0);
  bench.driver.offer(kReceive, 2048);
  bench.driver.offer(kSecondReceive, 2048);
  ask_on_the_second();
  CHECK(bench.receive(kReceive).has_value());
  CHECK_FALSE(bench.receive(kSecondReceive).has_value());
}

TEST_CASE("net: two guests on a switch; one without a driver loses what is sent to it") {
  NetSpec a_spec = net_spec("test");
  NetSpec b_spec = net_spec("test");
  b_spec.mac[5] = 0x0b;
  NetBench a(a_spec), b(b_spec);
  a.start();
  a.send(ethernet(b_spec.mac, a_spec.mac, 0x88b5, Bytes(60)));
  b.net->deliver();
  CHECK(b.net->counts().not_taken == 1);
  b.start();
  b.driver.offer(kReceive, 2048);
  b.woken = 0;
  a.send(ethernet(b_spec.mac, a_spec.mac, 0x88b5, bytes("to b")));
  CHECK(b.woken == 1);
  CHECK_FALSE(b.driver.receive(kReceive).has_value());
  const auto frame = b.receive();
  REQUIRE(frame.has_value());
  CHECK(frame->substr(kNetHeader + kEthernetHeader) == "to b");
}

TEST_CASE("net: works again after each of a hundred resets with frames on their way") {
  NetBench bench;
  int answered = 0;
  for (int i = 0; i < 100; ++i) {
    bench.start(kNetMrgRxbuf);
    bench.send(udp(1000, kPortEcho, bytes("old")));
    bench.driver.offer(kReceive, 20);
    bench.net->deliver();
    bench.start(kNetMrgRxbuf);
    bench.driver.offer(kReceive, 2048);
    bench.send(udp(1000, kPortEcho, bytes("new")));
    const auto frame = bench.receive();
    answered += frame && frame->substr(kNetHeader + kUdpData) == "new" ? 1 : 0;
  }
  CHECK(answered == 100);
}

// Frames that nobody answers: to a switch without another port.
struct StreamBench : NetBench {
  StreamBench() : NetBench(net_spec("streams")) { start(); }
  void send_one() { send(Bytes(64)); }
  // Whether the driver would ring for its next frame (2.7.7.1).
  bool asks_for_doorbell() {
    return driver.queue(kTransmit).avail_event() == driver.queue(kTransmit).used_index();
  }
};

TEST_CASE("net: who sends one frame after the other is not asked for a doorbell each") {
  StreamBench bench;
  for (int n = 0; n < 7; ++n) {
    bench.send_one();
    CHECK(bench.asks_for_doorbell());
  }
  bench.send_one();
  CHECK(bench.woken == 1);
  CHECK(bench.net->counts().link.sent == 8);
  bench.net->deliver();
  CHECK(bench.woken == 2);

  // A frame without a doorbell is found by the device loop.
  TestQueue& ring = bench.driver.queue(kTransmit);
  const std::string frame(kNetHeader + 64, '\0');
  const Gpa at = bench.driver.allocate(frame.size());
  ring.set_descriptor(8, at, static_cast<std::uint32_t>(frame.size()), 0, 0);
  ring.set_available(8);
  bench.net->deliver();
  CHECK(bench.net->counts().link.sent == 9);
  CHECK_FALSE(bench.asks_for_doorbell());

  // When nothing comes any more it asks again, and sleeps.
  bench.net->deliver();
  const int woken = bench.woken;
  bench.net->deliver();
  CHECK(bench.asks_for_doorbell());
  CHECK(bench.woken == woken);
  bench.send_one();
  CHECK(bench.net->counts().link.sent == 10);
}

TEST_CASE("net: a stream that was under way is none to the next driver, and none in a fork") {
  StreamBench bench;
  for (int n = 0; n < 8; ++n) bench.send_one();
  const std::vector<std::byte> state = saved(bench.board);
  StreamBench fork;
  fork.board.copy_memory(bench.board);
  load(fork.board, state);
  fork.board.resume();
  fork.driver.adopt(bench.driver);
  CHECK(fork.asks_for_doorbell());

  bench.start();
  bench.send_one();
  CHECK(bench.asks_for_doorbell());
}

}  // namespace
}  // namespace kvitest
