// A network with one other machine on it, the peer, which lives in this process and needs no
// privileges: it answers ARP, ICMP echo, UDP echo, TCP echo and TCP discard over IPv4.
#pragma once

#include <memory>

#include "native/net/link.h"
#include "native/net/packet.h"

namespace kvitest {

inline constexpr MacAddress kPeerMac{0x02, 0x6b, 0x76, 0x00, 0x00, 0x01};
inline constexpr Ipv4Address kPeerAddress = 0xc000'0201;  // 192.0.2.1
inline constexpr std::uint16_t kPortEcho = 7;             // RFC 862, UDP and TCP
inline constexpr std::uint16_t kPortDiscard = 9;          // RFC 863, TCP

// Its answers wait in receive() when send() returns; nothing comes unasked.
std::unique_ptr<Link> make_peer();

}  // namespace kvitest
