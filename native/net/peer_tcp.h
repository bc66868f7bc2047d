// The peer's TCP: echo and discard, passive opens only (RFC 9293). It sends when it is asked for
// the next segment, so that it never has more on its way than the guest takes. It has no clock: a
// segment that the guest lost is sent again when the guest acknowledges what came before three
// times, or when its device says that it may have lost some.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <span>
#include <vector>

#include "native/net/packet.h"

namespace kvitest {

struct TcpSegment {
  std::vector<std::byte> bytes;  // header and data, checksum 0
  Ipv4Address to = 0;
  std::uint16_t piece = 0;  // bytes of data that one frame may carry
};

class PeerTcp {
 public:
  static constexpr std::size_t kMaxConnections = 64;

  // A segment of the guest, whole and with the right checksum. `route`: what next() returns with
  // the answers to it.
  void receive(Ipv4Address from, std::span<const std::byte> segment,
               const std::vector<std::byte>& route);

  struct Output {
    TcpSegment segment;
    std::vector<std::byte> route;
  };
  std::optional<Output> next();
  // What the guest has not acknowledged is sent again.
  void frames_lost();
  std::size_t connections() const { return connections_.size(); }

 private:
  struct Key {
    Ipv4Address address;
    std::uint16_t port;  // of the guest
    std::uint16_t service;
    auto operator<=>(const Key&) const = default;
  };
  struct Connection {
    bool discards = false;
    bool established = false;
    std::uint32_t received = 0;    // next sequence number expected of the guest
    std::uint32_t confirmed = 0;   // first one of ours that the guest has not acknowledged
    std::uint32_t sent = 0;        // next one of ours
    std::uint32_t advertised = 0;  // window that the guest was last told of
    std::uint32_t window = 0;      // of the guest
    std::uint16_t piece = 536;     // its maximum segment size
    unsigned duplicates = 0;       // acknowledgements of the same, in a row
    bool syn_due = false;
    bool acknowledge = false;
    bool guest_finished = false;
    bool fin_sent = false;
    std::deque<std::byte> data;  // to be echoed, from `confirmed` on
    std::vector<std::byte> route;

    std::uint32_t room() const;
    std::uint32_t in_flight() const { return sent - confirmed; }
    std::size_t sendable() const;
    bool fin_due() const;
    bool has_output() const;
    void send_again();
  };
  struct Header;

  void open(const Key& key, const Header& header, std::span<const std::byte> options,
            const std::vector<std::byte>& route);
  // False when the connection is over.
  bool acknowledge(Connection& connection, const Header& header, bool has_data);
  void accept_data(Connection& connection, const Header& header, std::span<const std::byte> data);
  void refuse(const Key& key, const Header& header, std::size_t length,
              const std::vector<std::byte>& route);
  static TcpSegment make_segment(const Key& key, Connection& connection);

  std::map<Key, Connection> connections_;
  std::deque<Output> resets_;
  std::uint32_t next_sequence_ = 0x1000;
};

}  // namespace kvitest
