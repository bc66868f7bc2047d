// struct virtio_vsock_hdr (virtio 1.3, 5.10.6).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "native/little_endian.h"

namespace kvitest {

inline constexpr std::size_t kVsockHeader = 44;
inline constexpr std::uint16_t kVsockStream = 1;

enum VsockOperation : std::uint16_t {
  kVsockInvalid = 0,
  kVsockRequest = 1,
  kVsockResponse = 2,
  kVsockReset = 3,
  kVsockShutdown = 4,
  kVsockData = 5,
  kVsockCreditUpdate = 6,
  kVsockCreditRequest = 7,
};

// Flags of kVsockShutdown: the sender receives no more, sends no more.
inline constexpr std::uint32_t kVsockNoReceive = 1;
inline constexpr std::uint32_t kVsockNoSend = 2;

struct VsockHeader {
  std::uint64_t from_cid = 0;
  std::uint64_t to_cid = 0;
  std::uint32_t from_port = 0;
  std::uint32_t to_port = 0;
  std::uint32_t length = 0;
  std::uint16_t type = kVsockStream;
  std::uint16_t operation = kVsockInvalid;
  std::uint32_t flags = 0;
  std::uint32_t buffer = 0;     // buf_alloc: bytes of room that the sender has
  std::uint32_t forwarded = 0;  // fwd_cnt: bytes that it has taken out of there

  static VsockHeader read(std::span<const std::byte, kVsockHeader> bytes) {
    return {load_le<std::uint64_t>(bytes, 0),  load_le<std::uint64_t>(bytes, 8),
            load_le<std::uint32_t>(bytes, 16), load_le<std::uint32_t>(bytes, 20),
            load_le<std::uint32_t>(bytes, 24), load_le<std::uint16_t>(bytes, 28),
            load_le<std::uint16_t>(bytes, 30), load_le<std::uint32_t>(bytes, 32),
            load_le<std::uint32_t>(bytes, 36), load_le<std::uint32_t>(bytes, 40)};
  }

  std::array<std::byte, kVsockHeader> bytes() const {
    std::array<std::byte, kVsockHeader> out{};
    store_le<std::uint64_t>(out, 0, from_cid);
    store_le<std::uint64_t>(out, 8, to_cid);
    store_le<std::uint32_t>(out, 16, from_port);
    store_le<std::uint32_t>(out, 20, to_port);
    store_le<std::uint32_t>(out, 24, length);
    store_le<std::uint16_t>(out, 28, type);
    store_le<std::uint16_t>(out, 30, operation);
    store_le<std::uint32_t>(out, 32, flags);
    store_le<std::uint32_t>(out, 36, buffer);
    store_le<std::uint32_t>(out, 40, forwarded);
    return out;
  }
};

}  // namespace kvitest
