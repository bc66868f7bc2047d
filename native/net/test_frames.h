// Frames of a guest, for tests.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "native/net/link.h"
#include "native/net/packet.h"
#include "native/net/peer.h"

namespace kvitest {

using Bytes = std::vector<std::byte>;

inline constexpr MacAddress kGuestMac{0x02, 0, 0, 0, 0, 0x0a};
inline constexpr Ipv4Address kGuestAddress = 0xc000'0202;

inline Bytes bytes(std::string_view text) {
  const auto view = std::as_bytes(std::span(text));
  return {view.begin(), view.end()};
}

inline Bytes operator+(Bytes a, const Bytes& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

inline Bytes mac_bytes(const MacAddress& mac) {
  const auto view = std::as_bytes(std::span(mac));
  return {view.begin(), view.end()};
}

inline Bytes ethernet(const MacAddress& to, const MacAddress& from, std::uint16_t type,
                      const Bytes& payload) {
  Bytes kind(2);
  put_be16(kind, 0, type);
  return mac_bytes(to) + mac_bytes(from) + kind + payload;
}

inline Bytes ipv4(std::uint8_t protocol, const Bytes& data, Ipv4Address to = kPeerAddress) {
  Bytes header(kIpv4Header);
  header[0] = std::byte{0x45};
  put_be16(header, 2, static_cast<std::uint16_t>(kIpv4Header + data.size()));
  header[8] = std::byte{64};
  header[9] = std::byte{protocol};
  put_be32(header, 12, kGuestAddress);
  put_be32(header, 16, to);
  put_be16(header, 10, internet_checksum(header));
  return ethernet(kPeerMac, kGuestMac, kEtherIpv4, header + data);
}

inline Bytes udp(std::uint16_t from, std::uint16_t to, const Bytes& data) {
  Bytes datagram(8);
  put_be16(datagram, 0, from);
  put_be16(datagram, 2, to);
  put_be16(datagram, 4, static_cast<std::uint16_t>(8 + data.size()));
  datagram = datagram + data;
  put_be16(datagram, 6,
           internet_checksum(
               datagram, pseudo_sum(kGuestAddress, kPeerAddress, kProtocolUdp, datagram.size())));
  return ipv4(kProtocolUdp, datagram);
}

struct TcpFields {
  std::uint16_t to = kPortEcho;
  std::uint32_t sequence = 0;
  std::uint32_t acknowledged = 0;
  std::uint8_t flags = 0x10;
  std::uint16_t window = 65535;
  Bytes options{};  // a multiple of 4 bytes
};

inline Bytes tcp(const TcpFields& fields, const Bytes& data = {}) {
  Bytes segment(kTcpHeader);
  put_be16(segment, 0, 40000);
  put_be16(segment, 2, fields.to);
  put_be32(segment, 4, fields.sequence);
  put_be32(segment, 8, fields.acknowledged);
  segment[12] = static_cast<std::byte>((kTcpHeader + fields.options.size()) / 4 << 4);
  segment[13] = std::byte{fields.flags};
  put_be16(segment, 14, fields.window);
  segment = segment + fields.options + data;
  put_be16(segment, 16,
           internet_checksum(
               segment, pseudo_sum(kGuestAddress, kPeerAddress, kProtocolTcp, segment.size())));
  return ipv4(kProtocolTcp, segment);
}

inline Frame plain(Bytes frame) {
  return {std::move(frame), std::nullopt, std::nullopt};
}

// The parts of a frame, from an offset on.
inline Bytes from(const Bytes& frame, std::size_t at) {
  return {frame.begin() + static_cast<std::ptrdiff_t>(at), frame.end()};
}

}  // namespace kvitest
