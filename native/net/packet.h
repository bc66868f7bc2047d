// Fields of Ethernet, ARP, IPv4, ICMP, UDP and TCP in bytes, and the internet checksum (RFC 1071).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace kvitest {

using MacAddress = std::array<std::uint8_t, 6>;
using Ipv4Address = std::uint32_t;

inline constexpr std::uint16_t kEtherIpv4 = 0x0800;
inline constexpr std::uint16_t kEtherArp = 0x0806;
inline constexpr std::uint16_t kEtherVlan = 0x8100;
inline constexpr std::uint16_t kEtherIpv6 = 0x86dd;
inline constexpr std::uint8_t kProtocolIcmp = 1;
inline constexpr std::uint8_t kProtocolTcp = 6;
inline constexpr std::uint8_t kProtocolUdp = 17;
inline constexpr std::size_t kIpv4Header = 20;
inline constexpr std::size_t kTcpHeader = 20;

// Big-endian numbers; the caller has checked that they are inside.
inline std::uint16_t be16(std::span<const std::byte> bytes, std::size_t at) {
  return static_cast<std::uint16_t>(std::to_integer<unsigned>(bytes[at]) << 8 |
                                    std::to_integer<unsigned>(bytes[at + 1]));
}
inline std::uint32_t be32(std::span<const std::byte> bytes, std::size_t at) {
  return std::uint32_t{be16(bytes, at)} << 16 | be16(bytes, at + 2);
}
inline void put_be16(std::span<std::byte> bytes, std::size_t at, std::uint16_t value) {
  bytes[at] = static_cast<std::byte>(value >> 8);
  bytes[at + 1] = static_cast<std::byte>(value & 0xff);
}
inline void put_be32(std::span<std::byte> bytes, std::size_t at, std::uint32_t value) {
  put_be16(bytes, at, static_cast<std::uint16_t>(value >> 16));
  put_be16(bytes, at + 2, static_cast<std::uint16_t>(value & 0xffff));
}

// The sum, not yet complemented, of 16-bit words; an odd last byte is a word's high half.
inline std::uint16_t internet_sum(std::span<const std::byte> bytes, std::uint32_t seed = 0) {
  std::uint64_t sum = seed;
  std::size_t at = 0;
  for (; at + 1 < bytes.size(); at += 2) sum += be16(bytes, at);
  if (at < bytes.size()) sum += std::to_integer<std::uint64_t>(bytes[at]) << 8;
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >> 16);
  return static_cast<std::uint16_t>(sum);
}
inline std::uint16_t internet_checksum(std::span<const std::byte> bytes, std::uint32_t seed = 0) {
  return static_cast<std::uint16_t>(~internet_sum(bytes, seed));
}
// Of the pseudo header of TCP and UDP over IPv4; `length` of their header and data.
inline std::uint16_t pseudo_sum(Ipv4Address from, Ipv4Address to, std::uint8_t protocol,
                                std::size_t length) {
  std::array<std::byte, 12> header{};
  put_be32(header, 0, from);
  put_be32(header, 4, to);
  header[9] = std::byte{protocol};
  put_be16(header, 10, static_cast<std::uint16_t>(length));
  return internet_sum(header);
}

}  // namespace kvitest
