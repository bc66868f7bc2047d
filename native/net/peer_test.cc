#include "native/net/peer.h"

#include <doctest/doctest.h>

#include "native/net/offload.h"
#include "native/net/test_frames.h"

namespace kvitest {
namespace {

constexpr std::uint8_t kFin = 1, kSyn = 2, kRst = 4, kAck = 16;
constexpr std::size_t kIp = kEthernetHeader;
constexpr std::size_t kData = kIp + kIpv4Header;

struct Wire {
  std::unique_ptr<Link> peer = make_peer();
  // The only answer, its checksum done.
  std::optional<Bytes> ask(Bytes frame) {
    peer->send(plain(std::move(frame)));
    auto answer = peer->receive();
    if (!answer) return std::nullopt;
    complete_checksum(*answer);
    return answer->bytes;
  }
  bool silent(Bytes frame) { return !ask(std::move(frame)); }
};

Bytes arp_request(Ipv4Address wanted) {
  Bytes packet(28);
  put_be32(packet, 0, 0x0001'0800);
  put_be32(packet, 4, 0x0604'0001);
  std::ranges::copy(mac_bytes(kGuestMac), packet.begin() + 8);
  put_be32(packet, 14, kGuestAddress);
  put_be32(packet, 24, wanted);
  MacAddress all;
  all.fill(0xff);
  return ethernet(all, kGuestMac, kEtherArp, packet);
}

Bytes icmp_echo(const Bytes& data) {
  Bytes message{std::byte{8}, {}, {}, {}, std::byte{1}, std::byte{2}, {}, std::byte{1}};
  message = message + data;
  put_be16(message, 2, internet_checksum(message));
  return message;
}

TEST_CASE("peer: answers ARP for its own address and no other") {
  Wire wire;
  const auto reply = wire.ask(arp_request(kPeerAddress));
  REQUIRE(reply.has_value());
  Bytes expected(8);
  put_be32(expected, 0, 0x0001'0800);
  put_be32(expected, 4, 0x0604'0002);
  Bytes addresses(4);
  put_be32(addresses, 0, kPeerAddress);
  expected = expected + mac_bytes(kPeerMac) + addresses + mac_bytes(kGuestMac);
  put_be32(addresses, 0, kGuestAddress);
  CHECK(*reply == ethernet(kGuestMac, kPeerMac, kEtherArp, expected + addresses));
  CHECK(wire.silent(arp_request(kPeerAddress + 1)));
}

TEST_CASE("peer: answers an ICMP echo with the same data and right checksums") {
  Wire wire;
  for (const std::size_t size : {0u, 1u, 56u, 1473u, 65507u}) {
    const Bytes data(size, std::byte{0x5a});
    const auto reply = wire.ask(ipv4(kProtocolIcmp, icmp_echo(data)));
    REQUIRE(reply.has_value());
    CHECK(internet_sum(std::span(*reply).subspan(kIp, kIpv4Header)) == 0xffff);
    CHECK(internet_sum(std::span(*reply).subspan(kData)) == 0xffff);
    CHECK((*reply)[kData] == std::byte{0});
    CHECK(from(*reply, kData + 8) == data);
  }
}

TEST_CASE("peer: UDP to port 7 comes back, elsewhere the port is unreachable") {
  Wire wire;
  const auto echoed = wire.ask(udp(1000, kPortEcho, bytes("abc")));
  REQUIRE(echoed.has_value());
  CHECK(from(*echoed, kData + 8) == bytes("abc"));
  CHECK(be16(*echoed, kData + 2) == 1000);
  CHECK(internet_sum(std::span(*echoed).subspan(kData),
                     pseudo_sum(kPeerAddress, kGuestAddress, kProtocolUdp, 11)) == 0xffff);
  const auto refused = wire.ask(udp(1000, 8, bytes("abc")));
  REQUIRE(refused.has_value());
  CHECK((*refused)[kData] == std::byte{3});
  CHECK((*refused)[kData + 1] == std::byte{3});
}

TEST_CASE("peer: a wrong checksum, a fragment, another address or a cut packet have no answer") {
  Wire wire;
  const Bytes good = udp(1000, kPortEcho, bytes("abc"));
  Bytes wrong = good;
  wrong.back() ^= std::byte{1};
  CHECK(wire.silent(wrong));
  wrong = good;
  wrong[kIp + 10] ^= std::byte{1};
  CHECK(wire.silent(wrong));
  wrong = tcp({.flags = kSyn});
  wrong.back() ^= std::byte{1};
  CHECK(wire.silent(wrong));
  wrong = ipv4(kProtocolIcmp, icmp_echo(bytes("abc")));
  wrong.back() ^= std::byte{1};
  CHECK(wire.silent(wrong));
  wrong = good;
  put_be16(wrong, kIp + 6, 0x2000);
  put_be16(wrong, kIp + 10, 0);
  put_be16(wrong, kIp + 10, internet_checksum(std::span(wrong).subspan(kIp, kIpv4Header)));
  CHECK(wire.silent(wrong));
  CHECK(wire.silent(ipv4(kProtocolIcmp, icmp_echo({}), kPeerAddress + 1)));
  MacAddress other = kPeerMac;
  other[5] ^= 2;
  wrong = good;
  std::ranges::copy(mac_bytes(other), wrong.begin());
  CHECK(wire.silent(wrong));
  for (std::size_t size = 0; size < good.size(); ++size) {
    CHECK(wire.silent(Bytes(good.begin(), good.begin() + static_cast<std::ptrdiff_t>(size))));
  }
  CHECK(wire.ask(good).has_value());
}

TEST_CASE("peer: answers in the VLAN that it was asked in") {
  Wire wire;
  Bytes tagged = udp(1000, kPortEcho, bytes("abc"));
  const Bytes tag{std::byte{0x81}, {}, {}, std::byte{5}};
  tagged.insert(tagged.begin() + 12, tag.begin(), tag.end());
  const auto reply = wire.ask(tagged);
  REQUIRE(reply.has_value());
  CHECK(Bytes(reply->begin() + 12, reply->begin() + 16) == tag);
}

// A connection in which the guest has sent nothing yet.
struct Connected : Wire {
  explicit Connected(std::uint16_t piece = 1000, std::uint16_t window = 65535) : window(window) {
    Bytes options(4);
    put_be16(options, 0, 0x0204);
    put_be16(options, 2, piece);
    const auto answer =
        ask(tcp({.sequence = 999, .flags = kSyn, .window = window, .options = options}));
    REQUIRE(answer.has_value());
    CHECK((*answer)[kData + 13] == std::byte{kSyn | kAck});
    CHECK(be32(*answer, kData + 8) == 1000);
    theirs = be32(*answer, kData + 4) + 1;
    say();
    CHECK_FALSE(peer->receive().has_value());
  }
  void say(const Bytes& data = {}, std::uint8_t flags = kAck) {
    peer->send(plain(
        tcp({.sequence = mine, .acknowledged = theirs, .flags = flags, .window = window}, data)));
  }
  Bytes take() {
    auto frame = peer->receive();
    REQUIRE(frame.has_value());
    last = *frame;
    complete_checksum(*frame);
    CHECK(internet_sum(std::span(frame->bytes).subspan(kData),
                       pseudo_sum(kPeerAddress, kGuestAddress, kProtocolTcp,
                                  frame->bytes.size() - kData)) == 0xffff);
    return frame->bytes;
  }
  std::uint32_t mine = 1000;
  std::uint32_t theirs = 0;
  std::uint16_t window;
  Frame last;
};

TEST_CASE("peer: TCP data comes back, then the connection closes from the guest's side") {
  Connected wire;
  wire.say(bytes("hello"));
  wire.mine += 5;
  Bytes answer = wire.take();
  CHECK(from(answer, kData + kTcpHeader) == bytes("hello"));
  CHECK(be32(answer, kData + 8) == wire.mine);
  wire.theirs += 5;
  wire.say({}, kFin | kAck);
  wire.mine += 1;
  answer = wire.take();
  CHECK((answer[kData + 13] & std::byte{kFin}) == std::byte{kFin});
  CHECK(be32(answer, kData + 8) == wire.mine);
  wire.theirs += 1;
  wire.say();
  CHECK_FALSE(wire.peer->receive().has_value());
  // It is over: what comes now is refused.
  wire.say(bytes("more"));
  CHECK(wire.take()[kData + 13] == std::byte{kRst});
}

TEST_CASE("peer: TCP sends what the guest's window takes, in one frame for several pieces") {
  Connected wire(1000, 3000);
  wire.say(Bytes(5000, std::byte{7}));
  wire.mine += 5000;
  Bytes answer = wire.take();
  CHECK(answer.size() == kData + kTcpHeader + 3000);
  REQUIRE(wire.last.segmentation.has_value());
  CHECK(wire.last.segmentation->size == 1000);
  CHECK_FALSE(wire.peer->receive().has_value());
  wire.theirs += 3000;
  wire.say();
  answer = wire.take();
  CHECK(answer.size() == kData + kTcpHeader + 2000);
}

TEST_CASE("peer: TCP says how much room it has and takes no more") {
  Connected wire(1000, 0);
  std::size_t offered = 0;
  std::uint16_t window = 65535;
  while (window != 0) {
    const std::size_t size = std::min<std::size_t>(window, 30000);
    wire.say(Bytes(size, std::byte{1}));
    wire.mine += static_cast<std::uint32_t>(size);
    offered += size;
    window = be16(wire.take(), kData + 14);
  }
  CHECK(offered == 65535);
  wire.say(Bytes(10, std::byte{2}));
  CHECK(be32(wire.take(), kData + 8) == wire.mine);
}

TEST_CASE("peer: TCP sends again what three equal acknowledgements ask for") {
  Connected wire;
  wire.say(bytes("abc"));
  wire.mine += 3;
  wire.take();
  wire.say();
  wire.say();
  CHECK_FALSE(wire.peer->receive().has_value());
  wire.say();
  CHECK(from(wire.take(), kData + kTcpHeader) == bytes("abc"));
}

TEST_CASE("peer: TCP sends again what its guest's device may have lost, and only that") {
  Connected wire;
  wire.peer->frames_lost();
  CHECK_FALSE(wire.peer->receive().has_value());
  wire.say(bytes("abc"));
  wire.mine += 3;
  wire.take();
  wire.theirs += 3;
  wire.say(bytes("def"), kFin | kAck);
  wire.mine += 4;
  const Bytes last = wire.take();
  for (int i = 0; i < 2; ++i) {
    wire.peer->frames_lost();
    const Bytes again = wire.take();
    CHECK(from(again, kData + kTcpHeader) == bytes("def"));
    CHECK(be32(again, kData + 4) == be32(last, kData + 4));
    CHECK(again[kData + 13] == last[kData + 13]);
    CHECK_FALSE(wire.peer->receive().has_value());
  }
  wire.theirs += 4;
  wire.say();
  wire.peer->frames_lost();
  CHECK_FALSE(wire.peer->receive().has_value());
}

TEST_CASE("peer: TCP takes data once, and none behind a hole") {
  Connected wire;
  wire.say(bytes("abc"));
  wire.take();
  wire.theirs += 3;
  wire.say(bytes("abcd"));  // three of it again
  CHECK(from(wire.take(), kData + kTcpHeader) == bytes("d"));
  wire.mine += 10;
  wire.say(bytes("later"));
  const Bytes answer = wire.take();
  CHECK(be32(answer, kData + 8) == 1004);
  CHECK(answer.size() == kData + kTcpHeader);
}

TEST_CASE("peer: TCP to a port without service, or of no connection, is reset") {
  Wire wire;
  const auto refused = wire.ask(tcp({.to = 8, .sequence = 41, .flags = kSyn}));
  REQUIRE(refused.has_value());
  CHECK((*refused)[kData + 13] == std::byte{kRst | kAck});
  CHECK(be32(*refused, kData + 8) == 42);
  const auto unknown = wire.ask(tcp({.sequence = 1, .acknowledged = 77}));
  REQUIRE(unknown.has_value());
  CHECK((*unknown)[kData + 13] == std::byte{kRst});
  CHECK(be32(*unknown, kData + 4) == 77);
}

TEST_CASE("peer: a guest that never reads costs a bounded number of answers") {
  Wire wire;
  for (int i = 0; i < 3000; ++i) wire.peer->send(plain(udp(1000, kPortEcho, bytes("x"))));
  CHECK(wire.peer->counts().dropped == 3000 - 1024);
  int answers = 0;
  while (wire.peer->receive()) ++answers;
  CHECK(answers == 1024);
}

}  // namespace
}  // namespace kvitest
