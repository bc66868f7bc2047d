#include "native/net/offload.h"

#include <algorithm>
#include <optional>
#include <span>

#include "native/net/packet.h"

namespace kvitest {
namespace {

constexpr std::size_t kIpv6Header = 40;
constexpr std::byte kTcpFin{0x01};
constexpr std::byte kTcpPush{0x08};
constexpr std::byte kTcpCwr{0x80};

// Where the headers of a TCP frame begin.
struct TcpPlace {
  std::size_t ip;
  std::size_t tcp;
  std::size_t data;
};

std::optional<TcpPlace> find_tcp(std::span<const std::byte> bytes, SegmentKind kind) {
  if (bytes.size() < kEthernetHeader + 4) return std::nullopt;
  std::size_t ip = kEthernetHeader;
  if (be16(bytes, 12) == kEtherVlan) ip += 4;
  if (be16(bytes, ip - 2) != (kind == SegmentKind::kTcp4 ? kEtherIpv4 : kEtherIpv6)) {
    return std::nullopt;
  }
  std::size_t tcp = ip + kIpv6Header;
  if (kind == SegmentKind::kTcp4) {
    if (bytes.size() < ip + kIpv4Header) return std::nullopt;
    const std::size_t length = std::to_integer<std::size_t>(bytes[ip] & std::byte{0x0f}) * 4;
    if (length < kIpv4Header) return std::nullopt;
    tcp = ip + length;
  }
  if (bytes.size() < tcp + kTcpHeader) return std::nullopt;
  const std::uint8_t protocol =
      std::to_integer<std::uint8_t>(bytes[kind == SegmentKind::kTcp4 ? ip + 9 : ip + 6]);
  const std::size_t header = std::to_integer<std::size_t>(bytes[tcp + 12] >> 4) * 4;
  if (protocol != kProtocolTcp || header < kTcpHeader || bytes.size() < tcp + header) {
    return std::nullopt;
  }
  return TcpPlace{ip, tcp, tcp + header};
}

}  // namespace

bool offloads_fit(const Frame& frame) {
  if (frame.checksum) {
    const std::size_t field = std::size_t{frame.checksum->start} + frame.checksum->offset;
    if (field + 2 > frame.bytes.size()) return false;
  }
  if (!frame.segmentation) return true;
  if (!frame.checksum || frame.segmentation->size == 0) return false;
  const auto place = find_tcp(frame.bytes, frame.segmentation->kind);
  return place && frame.checksum->start == place->tcp && frame.checksum->offset == 16;
}

void complete_checksum(Frame& frame) {
  if (!frame.checksum) return;
  const auto [start, offset] = *frame.checksum;
  const std::uint16_t sum = internet_checksum(std::span(frame.bytes).subspan(start));
  // As UDP wants it: 0 says that there is no checksum (RFC 768). For TCP both mean the same.
  put_be16(frame.bytes, std::size_t{start} + offset, sum == 0 ? 0xffff : sum);
  frame.checksum.reset();
}

std::vector<Frame> cut_segments(const Frame& frame) {
  const std::span<const std::byte> bytes(frame.bytes);
  const Segmentation segmentation = *frame.segmentation;
  const TcpPlace place = *find_tcp(bytes, segmentation.kind);
  const std::span<const std::byte> data = bytes.subspan(place.data);
  const std::uint32_t sequence = be32(bytes, place.tcp + 4);
  const bool is_ipv4 = segmentation.kind == SegmentKind::kTcp4;
  // The sender's pseudo header counts the length of the whole: each piece has its own.
  const std::size_t whole = bytes.size() - place.tcp;
  const std::uint16_t pseudo = be16(bytes, place.tcp + 16);

  std::vector<Frame> pieces;
  for (std::size_t done = 0; done == 0 || done < data.size(); done += segmentation.size) {
    const std::size_t length = std::min<std::size_t>(segmentation.size, data.size() - done);
    Frame& piece = pieces.emplace_back();
    piece.bytes.assign(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(place.data));
    piece.bytes.insert(piece.bytes.end(), data.begin() + static_cast<std::ptrdiff_t>(done),
                       data.begin() + static_cast<std::ptrdiff_t>(done + length));
    piece.checksum = frame.checksum;
    const std::span<std::byte> out(piece.bytes);
    put_be32(out, place.tcp + 4, sequence + static_cast<std::uint32_t>(done));
    // The first piece says that the window was reduced, the last one that the data ends here.
    if (done != 0) out[place.tcp + 13] &= ~kTcpCwr;
    if (done + length < data.size()) out[place.tcp + 13] &= ~(kTcpFin | kTcpPush);
    const std::size_t own = piece.bytes.size() - place.tcp;
    std::array<std::byte, 4> lengths{};
    put_be16(lengths, 0, static_cast<std::uint16_t>(~whole & 0xffff));
    put_be16(lengths, 2, static_cast<std::uint16_t>(own));
    put_be16(out, place.tcp + 16, internet_sum(lengths, pseudo));
    if (is_ipv4) {
      const std::size_t total = piece.bytes.size() - place.ip;
      put_be16(out, place.ip + 2, static_cast<std::uint16_t>(total));
      put_be16(out, place.ip + 4,
               static_cast<std::uint16_t>(be16(bytes, place.ip + 4) + pieces.size() - 1));
      put_be16(out, place.ip + 10, 0);
      put_be16(out, place.ip + 10, internet_checksum(out.subspan(place.ip, place.tcp - place.ip)));
    } else {
      put_be16(out, place.ip + 4,
               static_cast<std::uint16_t>(piece.bytes.size() - place.ip - kIpv6Header));
    }
  }
  return pieces;
}

}  // namespace kvitest
