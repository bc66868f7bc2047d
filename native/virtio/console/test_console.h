// A console device with a test driver on one side and a recording sink on the other.
#pragma once

#include <doctest/doctest.h>

#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "native/virtio/console/console.h"
#include "native/virtio/test_driver.h"

namespace kvitest {

inline constexpr std::uint64_t kSizeFeature = 1;
inline constexpr std::uint64_t kMultiportFeature = 2;
inline constexpr std::uint64_t kEmergencyFeature = 4;
inline constexpr std::uint64_t kFeatures =
    TestDriver::kTransportFeatures | kSizeFeature | kMultiportFeature | kEmergencyFeature;

inline constexpr std::uint16_t kControlIn = 2;
inline constexpr std::uint16_t kControlOut = 3;
inline constexpr std::uint16_t kAgentIn = 4;
inline constexpr std::uint16_t kAgentOut = 5;

enum ConsoleEvent : std::uint16_t {
  kDeviceReady,
  kPortAdd,
  kPortRemove,
  kPortReady,
  kConsolePort,
  kResize,
  kPortOpen,
  kPortName,
};

class RecordingSink : public ConsoleSink {
 public:
  void port_data(const std::string& port, std::span<const std::byte> data) override {
    log.push_back(port + ":data");
    bytes[port].append(reinterpret_cast<const char*>(data.data()), data.size());
    if (on_data) on_data(port, data.size());
  }
  void port_open(const std::string& port, bool open) override {
    log.push_back(port + (open ? ":open" : ":close"));
  }
  void port_writable(const std::string& port, std::size_t room) override {
    log.push_back(port + ":writable");
    last_room = room;
  }
  std::vector<std::string> take_log() { return std::exchange(log, {}); }

  std::vector<std::string> log;
  std::map<std::string, std::string> bytes;
  std::size_t last_room = 0;
  std::function<void(const std::string&, std::size_t)> on_data;
};

using Log = std::vector<std::string>;

inline std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text));
}

inline std::string number(std::uint64_t value, std::size_t width) {
  std::string text(width, '\0');
  write_le(std::as_writable_bytes(std::span(text)), value);
  return text;
}

inline std::string control(std::uint32_t port, std::uint16_t event, std::uint16_t value) {
  return number(port, 4) + number(event, 2) + number(value, 2);
}

// A console port `hvc` and a named port `agent`.
struct ConsoleBench {
  RecordingSink sink;
  std::unique_ptr<Console> console = make_console({{{"hvc", true}, {"agent", false}}}, sink);
  TestBoard board{*console};
  TestDriver driver{board};

  // As Linux does: buffers for control messages, then DEVICE_READY, then PORT_READY for each.
  void start(std::uint64_t features = kFeatures) {
    REQUIRE(driver.start(features) == 0x0f);
    for (int i = 0; i < 16; ++i) driver.offer(kControlIn, 64);
    driver.send(kControlOut, control(0, kDeviceReady, 1));
  }
  void start_ports() {
    start();
    driver.send(kControlOut, control(0, kPortReady, 1));
    driver.send(kControlOut, control(1, kPortReady, 1));
    take_control();
  }
  void start_open() {
    start_ports();
    driver.send(kControlOut, control(1, kPortOpen, 1));
    sink.take_log();
  }
  std::vector<std::string> take_control() {
    std::vector<std::string> messages;
    while (auto message = driver.receive(kControlIn)) messages.push_back(*message);
    return messages;
  }
  std::string take_received(std::uint16_t queue) {
    std::string text;
    while (auto piece = driver.receive(queue)) text += *piece;
    return text;
  }
};

inline std::string pattern(std::size_t length, unsigned seed = 0) {
  std::string text(length, '\0');
  for (std::size_t i = 0; i < length; ++i) {
    text[i] = static_cast<char>((i * 31 + i / 251 + seed) & 0xff);
  }
  return text;
}

}  // namespace kvitest
