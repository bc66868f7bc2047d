#include "native/net/peer.h"

#include <algorithm>
#include <deque>
#include <mutex>
#include <utility>

#include "native/net/offload.h"
#include "native/net/peer_tcp.h"

namespace kvitest {
namespace {

// Answers but for TCP's, which wait in their connections. Full: the oldest are there the longest,
// so the new one is dropped.
constexpr std::size_t kMaxAnswers = 1024;
constexpr std::size_t kArp = 28;
constexpr std::size_t kUdpHeader = 8;
constexpr std::size_t kIcmpHeader = 8;
constexpr std::uint8_t kTimeToLive = 64;

constexpr std::byte kIcmpEchoReply{0};
constexpr std::byte kIcmpUnreachable{3};
constexpr std::byte kIcmpPortUnreachable{3};
constexpr std::byte kIcmpEchoRequest{8};

MacAddress mac_at(std::span<const std::byte> bytes, std::size_t at) {
  MacAddress mac;
  for (std::size_t i = 0; i < mac.size(); ++i)
    mac[i] = std::to_integer<std::uint8_t>(bytes[at + i]);
  return mac;
}

void put_mac(std::span<std::byte> bytes, std::size_t at, const MacAddress& mac) {
  for (std::size_t i = 0; i < mac.size(); ++i) bytes[at + i] = std::byte{mac[i]};
}

struct Ipv4 {
  Ipv4Address from;
  std::uint8_t protocol;
  std::span<const std::byte> header;
  std::span<const std::byte> data;
};

class Peer : public Link {
 public:
  void send(Frame frame) override {
    const std::lock_guard lock(mutex_);
    ++counts_.sent;
    complete_checksum(frame);
    handle(frame.bytes);
  }

  std::optional<Frame> receive() override {
    const std::lock_guard lock(mutex_);
    std::optional<Frame> frame;
    if (!answers_.empty()) {
      frame = Frame{std::move(answers_.front()), std::nullopt, std::nullopt};
      answers_.pop_front();
    } else if (auto output = tcp_.next()) {
      frame = tcp_frame(*output);
    }
    if (frame) ++counts_.received;
    return frame;
  }

  void frames_lost() override {
    const std::lock_guard lock(mutex_);
    tcp_.frames_lost();
  }

  LinkCounts counts() const override {
    const std::lock_guard lock(mutex_);
    return counts_;
  }

 private:
  void handle(std::span<const std::byte> bytes) {
    if (bytes.size() < kEthernetHeader) return;
    const bool for_us = mac_at(bytes, 0) == kPeerMac || bytes[0] == std::byte{0xff};
    if (!for_us) return;
    std::size_t header = kEthernetHeader;
    if (be16(bytes, 12) == kEtherVlan) header += 4;
    if (bytes.size() < header) return;
    // The answer goes back to who asked, in the same VLAN.
    std::vector<std::byte> route(bytes.begin(),
                                 bytes.begin() + static_cast<std::ptrdiff_t>(header));
    std::copy_n(bytes.begin() + 6, 6, route.begin());
    put_mac(route, 6, kPeerMac);
    const std::span<const std::byte> packet = bytes.subspan(header);
    const std::uint16_t type = be16(bytes, header - 2);
    if (type == kEtherArp) handle_arp(packet, route);
    if (type == kEtherIpv4) handle_ipv4(packet, route);
  }

  void answer(const std::vector<std::byte>& route, std::span<const std::byte> packet) {
    if (answers_.size() == kMaxAnswers) {
      ++counts_.dropped;
      return;
    }
    std::vector<std::byte>& frame = answers_.emplace_back(route);
    frame.insert(frame.end(), packet.begin(), packet.end());
  }

  // RFC 826, for Ethernet and IPv4.
  void handle_arp(std::span<const std::byte> packet, const std::vector<std::byte>& route) {
    constexpr std::uint64_t kRequest = 0x0001'0800'0604'0001;
    if (packet.size() < kArp) return;
    const std::uint64_t head = std::uint64_t{be32(packet, 0)} << 32 | be32(packet, 4);
    if (head != kRequest || be32(packet, 24) != kPeerAddress) return;
    std::vector<std::byte> reply(packet.begin(), packet.begin() + kArp);
    put_be16(reply, 6, 2);
    std::copy_n(packet.begin() + 8, 10, reply.begin() + 18);
    put_mac(reply, 8, kPeerMac);
    put_be32(reply, 14, kPeerAddress);
    answer(route, reply);
  }

  void handle_ipv4(std::span<const std::byte> packet, const std::vector<std::byte>& route) {
    if (packet.size() < kIpv4Header || (packet[0] >> 4) != std::byte{4}) return;
    const std::size_t header = std::to_integer<std::size_t>(packet[0] & std::byte{0x0f}) * 4;
    const std::size_t total = be16(packet, 2);
    if (header < kIpv4Header || total < header || total > packet.size()) return;
    if (internet_sum(packet.first(header)) != 0xffff) return;
    constexpr std::uint16_t kFragment = 0x3fff;
    if ((be16(packet, 6) & kFragment) != 0) return;
    if (be32(packet, 16) != kPeerAddress) return;
    const Ipv4 ip{be32(packet, 12), std::to_integer<std::uint8_t>(packet[9]), packet.first(header),
                  packet.subspan(header, total - header)};
    if (ip.protocol == kProtocolIcmp) handle_icmp(ip, route);
    if (ip.protocol == kProtocolUdp) handle_udp(ip, route);
    if (ip.protocol == kProtocolTcp) handle_tcp(ip, route);
  }

  void handle_icmp(const Ipv4& ip, const std::vector<std::byte>& route) {
    if (ip.data.size() < kIcmpHeader || ip.data[0] != kIcmpEchoRequest) return;
    if (internet_sum(ip.data) != 0xffff) return;
    std::vector<std::byte> reply(ip.data.begin(), ip.data.end());
    reply[0] = kIcmpEchoReply;
    put_be16(reply, 2, 0);
    put_be16(reply, 2, internet_checksum(reply));
    answer(route, with_ipv4(ip.from, kProtocolIcmp, reply));
  }

  void handle_udp(const Ipv4& ip, const std::vector<std::byte>& route) {
    if (ip.data.size() < kUdpHeader) return;
    const std::size_t length = be16(ip.data, 4);
    if (length < kUdpHeader || length > ip.data.size()) return;
    const std::span<const std::byte> datagram = ip.data.first(length);
    const std::uint16_t pseudo = pseudo_sum(ip.from, kPeerAddress, kProtocolUdp, length);
    if (be16(datagram, 6) != 0 && internet_sum(datagram, pseudo) != 0xffff) return;
    if (be16(datagram, 2) != kPortEcho) {
      unreachable(ip, route);
      return;
    }
    std::vector<std::byte> reply(datagram.begin(), datagram.end());
    put_be16(reply, 0, kPortEcho);
    put_be16(reply, 2, be16(datagram, 0));
    put_be16(reply, 6, 0);
    const std::uint16_t sum = internet_checksum(reply, pseudo);
    put_be16(reply, 6, sum == 0 ? 0xffff : sum);
    answer(route, with_ipv4(ip.from, kProtocolUdp, reply));
  }

  // RFC 792: the header and the first eight bytes of what could not be delivered.
  void unreachable(const Ipv4& ip, const std::vector<std::byte>& route) {
    std::vector<std::byte> message(kIcmpHeader);
    message[0] = kIcmpUnreachable;
    message[1] = kIcmpPortUnreachable;
    message.insert(message.end(), ip.header.begin(), ip.header.end());
    message.insert(message.end(), ip.data.begin(), ip.data.begin() + kUdpHeader);
    put_be16(message, 2, internet_checksum(message));
    answer(route, with_ipv4(ip.from, kProtocolIcmp, message));
  }

  void handle_tcp(const Ipv4& ip, const std::vector<std::byte>& route) {
    if (ip.data.size() < kTcpHeader) return;
    const std::uint16_t pseudo = pseudo_sum(ip.from, kPeerAddress, kProtocolTcp, ip.data.size());
    if (internet_sum(ip.data, pseudo) != 0xffff) return;
    tcp_.receive(ip.from, ip.data, route);
  }

  // The checksum is left to the receiver, and a segment of several pieces is left whole: the device
  // does what its driver cannot.
  Frame tcp_frame(const PeerTcp::Output& output) {
    const auto& [segment, route] = output;
    std::vector<std::byte> tcp = segment.bytes;
    put_be16(tcp, 16, pseudo_sum(kPeerAddress, segment.to, kProtocolTcp, tcp.size()));
    const std::size_t header = std::to_integer<std::size_t>(tcp[12] >> 4) * 4;
    Frame frame;
    frame.bytes = route;
    const std::vector<std::byte> packet = with_ipv4(segment.to, kProtocolTcp, tcp);
    frame.bytes.insert(frame.bytes.end(), packet.begin(), packet.end());
    frame.checksum = PartialChecksum{static_cast<std::uint16_t>(route.size() + kIpv4Header), 16};
    if (tcp.size() - header > segment.piece) {
      frame.segmentation = Segmentation{SegmentKind::kTcp4, segment.piece};
    }
    return frame;
  }

  std::vector<std::byte> with_ipv4(Ipv4Address to, std::uint8_t protocol,
                                   std::span<const std::byte> data) {
    std::vector<std::byte> packet(kIpv4Header);
    packet[0] = std::byte{0x45};
    put_be16(packet, 2, static_cast<std::uint16_t>(kIpv4Header + data.size()));
    put_be16(packet, 4, identification_++);
    packet[8] = std::byte{kTimeToLive};
    packet[9] = std::byte{protocol};
    put_be32(packet, 12, kPeerAddress);
    put_be32(packet, 16, to);
    put_be16(packet, 10, internet_checksum(packet));
    packet.insert(packet.end(), data.begin(), data.end());
    return packet;
  }

  mutable std::mutex mutex_;
  std::deque<std::vector<std::byte>> answers_;
  PeerTcp tcp_;
  LinkCounts counts_;
  std::uint16_t identification_ = 1;
};

}  // namespace

std::unique_ptr<Link> make_peer() {
  return std::make_unique<Peer>();
}

}  // namespace kvitest
