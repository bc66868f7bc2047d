#include "native/net/offload.h"

#include <doctest/doctest.h>

#include "native/net/test_frames.h"

namespace kvitest {
namespace {

constexpr std::size_t kTcp = kEthernetHeader + kIpv4Header;

// As a driver leaves it: the pseudo header's sum in place of the checksum.
Frame large(std::size_t size, std::uint16_t piece, std::uint8_t flags) {
  Bytes data(size);
  for (std::size_t i = 0; i < size; ++i) data[i] = static_cast<std::byte>(i * 7 + i / 256);
  Frame frame = plain(tcp({.sequence = 0xffff'fff0, .flags = flags}, data));
  put_be16(frame.bytes, kTcp + 16,
           pseudo_sum(kGuestAddress, kPeerAddress, kProtocolTcp, kTcpHeader + size));
  frame.checksum = PartialChecksum{kTcp, 16};
  frame.segmentation = Segmentation{SegmentKind::kTcp4, piece};
  return frame;
}

TEST_CASE("offload: a partial checksum is completed to the right one") {
  const Bytes right = udp(5, 7, bytes("odd"));
  Frame frame = plain(right);
  put_be16(frame.bytes, kTcp + 6, pseudo_sum(kGuestAddress, kPeerAddress, kProtocolUdp, 11));
  frame.checksum = PartialChecksum{kTcp, 6};
  REQUIRE(offloads_fit(frame));
  complete_checksum(frame);
  CHECK(frame.bytes == right);
}

TEST_CASE("offload: segments are whole packets, and together the data") {
  constexpr std::uint8_t kCwrPushFinAck = 0x80 | 0x08 | 0x01 | 0x10;
  const Frame frame = large(2501, 1000, kCwrPushFinAck);
  REQUIRE(offloads_fit(frame));
  std::vector<Frame> pieces = cut_segments(frame);
  REQUIRE(pieces.size() == 3);
  Bytes data;
  std::uint32_t sequence = 0xffff'fff0;
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    complete_checksum(pieces[i]);
    const std::span<const std::byte> piece(pieces[i].bytes);
    CHECK(internet_sum(piece.subspan(kEthernetHeader, kIpv4Header)) == 0xffff);
    CHECK(be16(piece, kEthernetHeader + 2) == piece.size() - kEthernetHeader);
    CHECK(internet_sum(piece.subspan(kTcp), pseudo_sum(kGuestAddress, kPeerAddress, kProtocolTcp,
                                                       piece.size() - kTcp)) == 0xffff);
    CHECK(be32(piece, kTcp + 4) == sequence);
    CHECK(be16(piece, kEthernetHeader + 4) == i);
    const auto flags = std::to_integer<unsigned>(piece[kTcp + 13]);
    CHECK(flags == (i == 0 ? 0x90u : i == 1 ? 0x10u : 0x19u));
    const Bytes part = from(pieces[i].bytes, kTcp + kTcpHeader);
    sequence += static_cast<std::uint32_t>(part.size());
    data = data + part;
  }
  CHECK(data == from(frame.bytes, kTcp + kTcpHeader));
}

TEST_CASE("offload: what does not fit the frame's bytes is seen") {
  Frame frame = plain(Bytes(60));
  frame.checksum = PartialChecksum{42, 16};
  CHECK(offloads_fit(frame));
  frame.checksum = PartialChecksum{43, 16};
  CHECK_FALSE(offloads_fit(frame));
  frame.checksum = PartialChecksum{65535, 65535};
  CHECK_FALSE(offloads_fit(frame));

  CHECK_FALSE(offloads_fit(large(2000, 0, 0x10)));
  frame = large(2000, 1000, 0x10);
  frame.segmentation->kind = SegmentKind::kTcp6;
  CHECK_FALSE(offloads_fit(frame));
  frame = large(2000, 1000, 0x10);
  frame.bytes[kTcp + 12] = std::byte{0x40};  // a header of 16 bytes
  CHECK_FALSE(offloads_fit(frame));
  frame = large(2000, 1000, 0x10);
  frame.checksum->start += 2;
  CHECK_FALSE(offloads_fit(frame));
  frame = large(2000, 1000, 0x10);
  frame.checksum.reset();
  CHECK_FALSE(offloads_fit(frame));
  const Frame whole = large(0, 1000, 0x10);
  for (std::size_t size = 0; size < whole.bytes.size(); ++size) {
    frame = whole;
    frame.bytes.resize(size);
    CHECK_FALSE(offloads_fit(frame));
  }
}

}  // namespace
}  // namespace kvitest
