// A net device with a test driver on one side and the peer, or a switch, on the other.
#pragma once

#include <doctest/doctest.h>

#include <memory>
#include <string>
#include <utility>

#include "native/net/peer.h"
#include "native/net/switch.h"
#include "native/net/test_frames.h"
#include "native/virtio/features.h"
#include "native/virtio/net/header.h"
#include "native/virtio/net/net.h"
#include "native/virtio/test_driver.h"

namespace kvitest {

inline constexpr std::uint16_t kReceive = 0;
inline constexpr std::uint16_t kTransmit = 1;
inline constexpr std::uint16_t kControl = 2;  // of one queue pair

inline NetSpec net_spec(std::string network = "") {
  NetSpec spec;
  spec.name = "net0";
  spec.mac = kGuestMac;
  spec.network = std::move(network);
  return spec;
}

inline std::string text(const Bytes& bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

struct NetBench {
  // withheld: features, by name.
  explicit NetBench(const NetSpec& spec = net_spec(), const std::vector<std::string>& withheld = {})
      : net(make_net(
            spec,
            spec.network.empty() ? make_peer() : join_network(spec.network, [this] { ++woken; }),
            [this] { ++woken; })),
        board((net->withhold(named_features(*net, withheld)), *net)) {}

  void start(std::uint64_t features = 0) {
    REQUIRE(driver.start(TestDriver::kTransportFeatures | kNetMac | features) == 0x0f);
  }
  // A frame behind a header; of zeros unless it is given.
  void send(const Bytes& frame, std::string header = std::string(kNetHeader, '\0')) {
    driver.send(kTransmit, header + text(frame));
  }
  // What the driver receives after the device loop had its turn.
  std::optional<std::string> receive(std::uint16_t queue = kReceive) {
    net->deliver();
    return driver.receive(queue);
  }
  std::uint64_t config(std::uint64_t offset, std::size_t width) {
    return board.mmio(TestBoard::kDevice + offset, width);
  }
  // Sends a command; the status that the device answers.
  int control(std::uint8_t group, std::uint8_t command, const std::string& data,
              std::uint16_t queue = kControl) {
    const std::string request =
        std::string{static_cast<char>(group), static_cast<char>(command)} + data;
    const Gpa at = driver.allocate(request.size());
    const Gpa status = driver.allocate(1);
    CHECK(board.memory.write(at, std::as_bytes(std::span(request))));
    CHECK(board.memory.fill(status, std::byte{0xee}, 1));
    TestQueue& ring = driver.queue(queue);
    ring.set_descriptor(0, at, static_cast<std::uint32_t>(request.size()), TestQueue::kNext, 1);
    ring.set_descriptor(1, status, 1, TestQueue::kWrite, 0);
    ring.set_available(0);
    driver.notify(queue);
    CHECK(ring.take_used()->length == 1);
    return static_cast<int>(board.memory.load<std::uint8_t>(status).value());
  }

  int woken = 0;
  std::unique_ptr<Net> net;
  TestBoard board;
  TestDriver driver{board};
};

// Little-endian numbers.
inline std::string number(std::uint64_t value, std::size_t width) {
  std::string out(width, '\0');
  write_le(std::as_writable_bytes(std::span(out)), value);
  return out;
}

inline std::string mac_text(const MacAddress& mac) {
  return text(mac_bytes(mac));
}

// Flags, gso type, header length, gso size, checksum start and offset.
inline std::string header(std::uint8_t flags, std::uint8_t gso, std::uint16_t size,
                          std::uint16_t start, std::uint16_t offset) {
  return number(flags, 1) + number(gso, 1) + number(54, 2) + number(size, 2) + number(start, 2) +
         number(offset, 2) + number(0, 2);
}

}  // namespace kvitest
