#include "native/net/peer_tcp.h"

#include <algorithm>

#include "native/net/peer.h"

namespace kvitest {
namespace {

constexpr std::uint8_t kFin = 0x01;
constexpr std::uint8_t kSyn = 0x02;
constexpr std::uint8_t kRst = 0x04;
constexpr std::uint8_t kPush = 0x08;
constexpr std::uint8_t kAck = 0x10;

constexpr std::uint32_t kWindow = 65535;
// Of one segment, which may stand for many frames: with its headers it is a whole IP packet.
constexpr std::size_t kMaxSegment = 60'000;
constexpr unsigned kDuplicatesOfALoss = 3;
constexpr std::uint16_t kOurPiece = 65535 - kIpv4Header - kTcpHeader;
constexpr std::size_t kMaxResets = 64;

// Distance from b to a in the space of sequence numbers.
std::int32_t distance(std::uint32_t a, std::uint32_t b) {
  return static_cast<std::int32_t>(a - b);
}

}  // namespace

struct PeerTcp::Header {
  std::uint16_t from;
  std::uint16_t to;
  std::uint32_t sequence;
  std::uint32_t acknowledged;
  std::uint8_t flags;
  std::uint16_t window;
};

std::uint32_t PeerTcp::Connection::room() const {
  return discards ? kWindow : kWindow - static_cast<std::uint32_t>(data.size());
}

std::size_t PeerTcp::Connection::sendable() const {
  if (!established || fin_sent) return 0;
  const std::uint32_t flying = in_flight();
  const std::size_t unsent = data.size() - std::min<std::size_t>(data.size(), flying);
  const std::size_t window_left = window > flying ? window - flying : 0;
  return std::min({unsent, window_left, kMaxSegment});
}

bool PeerTcp::Connection::fin_due() const {
  return established && guest_finished && !fin_sent && in_flight() >= data.size();
}

bool PeerTcp::Connection::has_output() const {
  return syn_due || acknowledge || sendable() != 0 || fin_due();
}

void PeerTcp::Connection::send_again() {
  duplicates = 0;
  sent = confirmed;
  fin_sent = false;
}

// A guest that waits for our SYN says its own again.
void PeerTcp::frames_lost() {
  for (auto& [key, connection] : connections_) {
    if (connection.established) connection.send_again();
  }
}

void PeerTcp::receive(Ipv4Address from, std::span<const std::byte> segment,
                      const std::vector<std::byte>& route) {
  const std::size_t length = std::to_integer<std::size_t>(segment[12] >> 4) * 4;
  if (length < kTcpHeader || length > segment.size()) return;
  const Header header{be16(segment, 0),
                      be16(segment, 2),
                      be32(segment, 4),
                      be32(segment, 8),
                      std::to_integer<std::uint8_t>(segment[13]),
                      be16(segment, 14)};
  const std::span<const std::byte> options = segment.subspan(kTcpHeader, length - kTcpHeader);
  const std::span<const std::byte> data = segment.subspan(length);
  const Key key{from, header.from, header.to};
  const auto found = connections_.find(key);

  if ((header.flags & kRst) != 0) {
    if (found != connections_.end()) connections_.erase(found);
    return;
  }
  if ((header.flags & (kSyn | kAck)) == kSyn) {
    const bool serves = header.to == kPortEcho || header.to == kPortDiscard;
    if (!serves || (found == connections_.end() && connections_.size() == kMaxConnections)) {
      refuse(key, header, data.size() + 1, route);
    } else {
      open(key, header, options, route);
    }
    return;
  }
  if (found == connections_.end()) {
    const std::size_t fin = (header.flags & kFin) != 0 ? 1 : 0;
    refuse(key, header, data.size() + fin, route);
    return;
  }
  if ((header.flags & kAck) == 0) return;
  Connection& connection = found->second;
  connection.route = route;
  const bool has_data = !data.empty() || (header.flags & kFin) != 0;
  if (!acknowledge(connection, header, has_data)) {
    connections_.erase(found);
    return;
  }
  if (has_data) accept_data(connection, header, data);
}

// A repeated SYN opens anew: the guest has forgotten what was before.
void PeerTcp::open(const Key& key, const Header& header, std::span<const std::byte> options,
                   const std::vector<std::byte>& route) {
  Connection connection;
  connection.discards = key.service == kPortDiscard;
  connection.received = header.sequence + 1;
  connection.confirmed = next_sequence_;
  connection.sent = next_sequence_;
  connection.window = header.window;
  connection.syn_due = true;
  connection.route = route;
  next_sequence_ += 0x10'0000;
  for (std::size_t at = 0; at < options.size();) {
    const auto kind = std::to_integer<std::uint8_t>(options[at]);
    if (kind == 0) break;
    if (kind == 1) {
      ++at;
      continue;
    }
    if (at + 1 >= options.size()) break;
    const auto size = std::to_integer<std::size_t>(options[at + 1]);
    if (size < 2 || at + size > options.size()) break;
    if (kind == 2 && size == 4) {
      connection.piece = std::max<std::uint16_t>(be16(options, at + 2), 64);
    }
    at += size;
  }
  connections_[key] = std::move(connection);
}

bool PeerTcp::acknowledge(Connection& connection, const Header& header, bool has_data) {
  const std::int32_t fresh = distance(header.acknowledged, connection.confirmed);
  // Of what was never sent: it is of another connection. Our FIN and a loss leave `sent` behind by
  // what was taken back.
  if (fresh < 0) return true;
  const std::size_t syn = connection.established ? 0 : 1;
  const std::size_t fin = connection.fin_sent ? 1 : 0;
  const std::size_t possible = connection.data.size() + syn + fin;
  if (static_cast<std::size_t>(fresh) > possible) return true;
  connection.window = header.window;
  if (fresh == 0) {
    if (has_data || connection.in_flight() == 0) return true;
    if (++connection.duplicates >= kDuplicatesOfALoss) {
      connection.send_again();
    }
    return true;
  }
  connection.duplicates = 0;
  std::size_t taken = static_cast<std::size_t>(fresh);
  if (!connection.established) {
    connection.established = true;
    --taken;
  }
  const std::size_t bytes = std::min(taken, connection.data.size());
  connection.data.erase(connection.data.begin(),
                        connection.data.begin() + static_cast<std::ptrdiff_t>(bytes));
  connection.confirmed = header.acknowledged;
  if (distance(connection.sent, connection.confirmed) < 0) connection.sent = connection.confirmed;
  // The room this made is news when the guest was last told of little.
  if (connection.advertised < 2u * connection.piece && connection.room() > connection.advertised) {
    connection.acknowledge = true;
  }
  return !(connection.fin_sent && taken > bytes);
}

void PeerTcp::accept_data(Connection& connection, const Header& header,
                          std::span<const std::byte> data) {
  connection.acknowledge = true;
  const std::int32_t old = distance(connection.received, header.sequence);
  // A hole before it: what is missing comes again, and this too.
  if (old < 0 || connection.guest_finished) return;
  if (static_cast<std::size_t>(old) > data.size()) return;
  const std::span<const std::byte> fresh = data.subspan(static_cast<std::size_t>(old));
  const std::size_t taken = std::min<std::size_t>(fresh.size(), connection.room());
  if (!connection.discards) {
    connection.data.insert(connection.data.end(), fresh.begin(),
                           fresh.begin() + static_cast<std::ptrdiff_t>(taken));
  }
  connection.received += static_cast<std::uint32_t>(taken);
  if ((header.flags & kFin) != 0 && taken == fresh.size()) {
    connection.received += 1;
    connection.guest_finished = true;
  }
}

void PeerTcp::refuse(const Key& key, const Header& header, std::size_t length,
                     const std::vector<std::byte>& route) {
  if (resets_.size() == kMaxResets) return;
  TcpSegment reset;
  reset.to = key.address;
  reset.bytes.resize(kTcpHeader);
  const std::span<std::byte> out(reset.bytes);
  put_be16(out, 0, key.service);
  put_be16(out, 2, key.port);
  const bool has_ack = (header.flags & kAck) != 0;
  put_be32(out, 4, has_ack ? header.acknowledged : 0);
  put_be32(out, 8, has_ack ? 0 : header.sequence + static_cast<std::uint32_t>(length));
  out[12] = std::byte{kTcpHeader / 4 << 4};
  out[13] = std::byte{static_cast<std::uint8_t>(has_ack ? kRst : kRst | kAck)};
  resets_.push_back({std::move(reset), route});
}

std::optional<PeerTcp::Output> PeerTcp::next() {
  if (!resets_.empty()) {
    Output output = std::move(resets_.front());
    resets_.pop_front();
    return output;
  }
  for (auto& [key, connection] : connections_) {
    if (connection.has_output()) return Output{make_segment(key, connection), connection.route};
  }
  return std::nullopt;
}

TcpSegment PeerTcp::make_segment(const Key& key, Connection& connection) {
  const std::size_t length = connection.syn_due ? 0 : connection.sendable();
  const std::size_t options = connection.syn_due ? 4 : 0;
  TcpSegment segment;
  segment.to = key.address;
  segment.piece = connection.piece;
  segment.bytes.resize(kTcpHeader + options + length);
  const std::span<std::byte> out(segment.bytes);
  put_be16(out, 0, key.service);
  put_be16(out, 2, key.port);
  put_be32(out, 4, connection.sent);
  put_be32(out, 8, connection.received);
  out[12] = static_cast<std::byte>((kTcpHeader + options) / 4 << 4);
  std::uint8_t flags = kAck;
  if (connection.syn_due) {
    flags |= kSyn;
    put_be16(out, kTcpHeader, 0x0204);  // maximum segment size, 4 bytes
    put_be16(out, kTcpHeader + 2, kOurPiece);
    connection.sent += 1;
    connection.syn_due = false;
  }
  if (length != 0) {
    flags |= kPush;
    const auto from = connection.data.begin() + static_cast<std::ptrdiff_t>(connection.in_flight());
    std::copy_n(from, length, out.begin() + kTcpHeader);
    connection.sent += static_cast<std::uint32_t>(length);
  }
  if (connection.fin_due()) {
    flags |= kFin;
    connection.sent += 1;
    connection.fin_sent = true;
  }
  out[13] = std::byte{flags};
  connection.advertised = connection.room();
  put_be16(out, 14, static_cast<std::uint16_t>(connection.advertised));
  connection.acknowledge = false;
  return segment;
}

}  // namespace kvitest
