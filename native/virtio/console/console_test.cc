#include "native/virtio/console/console.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <functional>
#include <map>
#include <string>
#include <thread>

#include "native/error.h"
#include "native/virtio/test_driver.h"

namespace kvitest {
namespace {

constexpr std::uint64_t kSizeFeature = 1;
constexpr std::uint64_t kMultiportFeature = 2;
constexpr std::uint64_t kEmergencyFeature = 4;
constexpr std::uint64_t kFeatures =
    TestDriver::kTransportFeatures | kSizeFeature | kMultiportFeature | kEmergencyFeature;

constexpr std::uint16_t kControlIn = 2;
constexpr std::uint16_t kControlOut = 3;
constexpr std::uint16_t kAgentIn = 4;
constexpr std::uint16_t kAgentOut = 5;

enum Event : std::uint16_t {
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

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text));
}

std::string number(std::uint64_t value, std::size_t width) {
  std::string text(width, '\0');
  write_le(std::as_writable_bytes(std::span(text)), value);
  return text;
}

std::string control(std::uint32_t port, std::uint16_t event, std::uint16_t value) {
  return number(port, 4) + number(event, 2) + number(value, 2);
}

// A console port `hvc` and a named port `agent`.
struct Bench {
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

std::string pattern(std::size_t length, unsigned seed = 0) {
  std::string text(length, '\0');
  for (std::size_t i = 0; i < length; ++i) {
    text[i] = static_cast<char>((i * 31 + i / 251 + seed) & 0xff);
  }
  return text;
}

TEST_CASE("console: specs without ports, with too many, or with unusable names are refused") {
  RecordingSink sink;
  std::vector<ConsolePortSpec> many;
  for (int i = 0; i < 32; ++i) many.push_back({"port" + std::to_string(i)});
  CHECK_THROWS_AS(make_console({}, sink), Error);
  CHECK_THROWS_AS(make_console({many}, sink), Error);
  CHECK_THROWS_AS(make_console({{{"a"}, {"a"}}}, sink), Error);
  CHECK_THROWS_AS(make_console({{{""}}}, sink), Error);
  CHECK_THROWS_AS(make_console({{{std::string(256, 'x')}}}, sink), Error);
  many.pop_back();
  CHECK(make_console({many}, sink)->queue_sizes().size() == 64);
}

TEST_CASE("console: config space names the number of ports") {
  Bench bench;
  CHECK(bench.board.mmio(TestBoard::kDevice + 4, 4) == 2);
  CHECK(bench.board.mmio(TestBoard::kDevice, 4) == 0);
  CHECK(bench.board.mmio(TestBoard::kDevice + 12, 4) == 0);
}

TEST_CASE("console: ports are announced, then described when the driver is ready for them") {
  Bench bench;
  bench.start();
  CHECK(bench.take_control() == Log{control(0, kPortAdd, 1), control(1, kPortAdd, 1)});
  bench.driver.send(kControlOut, control(0, kPortReady, 1));
  CHECK(bench.take_control() == Log{control(0, kConsolePort, 1), control(0, kPortName, 1) + "hvc",
                                    control(0, kPortOpen, 1)});
  bench.driver.send(kControlOut, control(1, kPortReady, 1));
  CHECK(bench.take_control() == Log{control(1, kPortName, 1) + "agent", control(1, kPortOpen, 1)});
}

TEST_CASE("console: control messages wait until the driver offers buffers") {
  Bench bench;
  REQUIRE(bench.driver.start(kFeatures) == 0x0f);
  bench.driver.send(kControlOut, control(0, kDeviceReady, 1));
  bench.driver.send(kControlOut, control(1, kPortReady, 1));
  bench.driver.offer(kControlIn, 64);
  CHECK(bench.take_control() == Log{control(0, kPortAdd, 1)});
  bench.driver.offer(kControlIn, 64);
  bench.driver.offer(kControlIn, 64);
  CHECK(bench.take_control() == Log{control(1, kPortAdd, 1), control(1, kPortName, 1) + "agent"});
}

TEST_CASE("console: control messages that are short, unknown or about no port change nothing") {
  Bench bench;
  bench.start();
  bench.take_control();
  bench.driver.send(kControlOut, "short");
  bench.driver.send(kControlOut, control(2, kPortReady, 1));
  bench.driver.send(kControlOut, control(0xffff'ffff, kPortOpen, 1));
  bench.driver.send(kControlOut, control(0, 77, 1));
  bench.driver.send(kControlOut, control(0, kPortReady, 0));
  CHECK(bench.take_control().empty());
  CHECK(bench.sink.log.empty());
  CHECK(bench.driver.queue(kControlOut).used_index() == 6);
  CHECK(bench.driver.status() == 0x0f);
}

TEST_CASE("console: guest opens and closes are reported once each") {
  Bench bench;
  bench.start_ports();
  bench.driver.send(kControlOut, control(1, kPortOpen, 1));
  bench.driver.send(kControlOut, control(1, kPortOpen, 1));
  bench.driver.send(kControlOut, control(1, kPortOpen, 0));
  bench.driver.send(kControlOut, control(1, kPortOpen, 1));
  CHECK(bench.sink.take_log() == Log{"agent:open", "agent:close", "agent:open"});
}

TEST_CASE("console: host opens and closes reach a ready driver") {
  Bench bench;
  bench.start_ports();
  bench.console->host_open("agent", false);
  bench.console->host_open("agent", false);
  bench.console->host_open("agent", true);
  CHECK(bench.take_control() == Log{control(1, kPortOpen, 0), control(1, kPortOpen, 1)});
}

TEST_CASE("console: a host side closed before the driver came is announced as closed") {
  Bench bench;
  bench.console->host_open("agent", false);
  bench.start();
  bench.take_control();
  bench.driver.send(kControlOut, control(1, kPortReady, 1));
  CHECK(bench.take_control().back() == control(1, kPortOpen, 0));
}

TEST_CASE("console: a size is sent as columns and rows, and stands in the config space") {
  Bench bench;
  bench.start_ports();
  const std::uint64_t before = bench.board.mmio(21, 1);
  bench.board.interrupts.take_messages(0);
  bench.console->resize("hvc", 132, 43);
  CHECK(bench.take_control() == Log{control(0, kResize, 1) + number(132, 2) + number(43, 2)});
  CHECK(bench.board.mmio(TestBoard::kDevice, 2) == 132);
  CHECK(bench.board.mmio(TestBoard::kDevice + 2, 2) == 43);
  CHECK(bench.board.mmio(21, 1) != before);
  CHECK(bench.board.interrupts.take_messages(0) == 1);
}

TEST_CASE("console: a size given before the driver came is sent when the port is ready") {
  Bench bench;
  bench.console->resize("hvc", 80, 25);
  bench.start();
  bench.take_control();
  bench.driver.send(kControlOut, control(0, kPortReady, 1));
  CHECK(bench.take_control().at(1) == control(0, kResize, 1) + number(80, 2) + number(25, 2));
}

TEST_CASE("console: what the guest writes arrives in order and its buffers come back") {
  Bench bench;
  bench.start_open();
  bench.driver.send(kAgentOut, "one ");
  bench.driver.send(kAgentOut, "two");
  bench.driver.send(1, "login: ");
  CHECK(bench.sink.bytes["agent"] == "one two");
  CHECK(bench.sink.bytes["hvc"] == "login: ");
  CHECK(bench.driver.queue(kAgentOut).used_index() == 2);
  CHECK(bench.board.interrupts.take_messages(kAgentOut + 1) >= 1);
}

TEST_CASE("console: a guest stops being served at the window until the host has consumed") {
  Bench bench;
  bench.start_open();
  const std::string piece = pattern(64 * 1024);
  for (int i = 0; i < 6; ++i) bench.driver.send(kAgentOut, piece);
  CHECK(bench.sink.bytes["agent"].size() == kPortWindow);
  CHECK(bench.driver.queue(kAgentOut).used_index() == 4);
  bench.console->consumed("agent", 1000);
  CHECK(bench.sink.bytes["agent"].size() == kPortWindow + 1000);
  CHECK(bench.driver.queue(kAgentOut).used_index() == 4);
  bench.console->consumed("agent", kPortWindow);
  CHECK(bench.driver.queue(kAgentOut).used_index() == 6);
  CHECK(bench.sink.bytes["agent"] == piece + piece + piece + piece + piece + piece);
}

TEST_CASE("console: a port at its window does not stop another") {
  Bench bench;
  bench.start_open();
  for (int i = 0; i < 5; ++i) bench.driver.send(kAgentOut, pattern(64 * 1024));
  bench.driver.send(1, "still here");
  CHECK(bench.sink.bytes["hvc"] == "still here");
}

TEST_CASE("console: a request of one MiB travels in parts, whole and in order") {
  Bench bench;
  bench.sink.on_data = [&](const std::string& port, std::size_t bytes) {
    bench.console->consumed(port, bytes);
  };
  bench.start_open();
  const std::string text = pattern(1024 * 1024);
  bench.driver.send(kAgentOut, text);
  CHECK(bench.sink.bytes["agent"] == text);
  CHECK(bench.driver.queue(kAgentOut).used_index() == 1);
}

TEST_CASE("console: an acknowledgement of more than was sent opens no larger window") {
  Bench bench;
  bench.start_open();
  bench.console->consumed("agent", 10 * kPortWindow);
  for (int i = 0; i < 6; ++i) bench.driver.send(kAgentOut, pattern(64 * 1024));
  CHECK(bench.sink.bytes["agent"].size() == kPortWindow);
}

TEST_CASE("console: a close comes after the data that was sent before it") {
  Bench bench;
  bench.start_open();
  const std::string piece = pattern(64 * 1024);
  for (int i = 0; i < 5; ++i) bench.driver.send(kAgentOut, piece);
  bench.driver.send(kControlOut, control(1, kPortOpen, 0));
  bench.driver.send(kControlOut, control(1, kPortOpen, 1));
  bench.driver.send(kAgentOut, "after");
  CHECK(std::ranges::count(bench.sink.log, "agent:close") == 0);
  bench.console->consumed("agent", kPortWindow);
  const Log log = bench.sink.take_log();
  const Log end(log.end() - 4, log.end());
  CHECK(end == Log{"agent:data", "agent:close", "agent:open", "agent:data"});
  CHECK(bench.sink.bytes["agent"].substr(5 * piece.size()) == "after");
}

TEST_CASE(
    "console: a port that opens and closes a thousand times behind its data ends in its last "
    "state") {
  Bench bench;
  bench.start_open();
  for (int i = 0; i < 5; ++i) bench.driver.send(kAgentOut, pattern(64 * 1024));
  for (int i = 0; i < 1000; ++i)
    bench.driver.send(kControlOut, control(1, kPortOpen, static_cast<std::uint16_t>(i % 2)));
  bench.driver.send(kControlOut, control(1, kPortOpen, 0));
  bench.sink.take_log();
  bench.console->consumed("agent", kPortWindow);
  const Log log = bench.sink.take_log();
  CHECK(log.size() < 40);
  CHECK(log.back() == "agent:close");
}

TEST_CASE(
    "console: while the host side is closed the guest's bytes are dropped and its buffers come "
    "back") {
  Bench bench;
  bench.start_open();
  bench.console->host_open("agent", false);
  for (int i = 0; i < 6; ++i) bench.driver.send(kAgentOut, pattern(64 * 1024));
  CHECK(bench.driver.queue(kAgentOut).used_index() == 6);
  bench.console->host_open("agent", true);
  bench.driver.send(kAgentOut, "heard");
  CHECK(bench.sink.bytes["agent"] == "heard");
}

TEST_CASE("console: bytes for a port that is not open are held until it opens") {
  Bench bench;
  bench.start_ports();
  bench.driver.offer(kAgentIn, 64);
  CHECK(bench.console->host_write("agent", bytes_of("early")) == 5);
  CHECK(bench.take_received(kAgentIn).empty());
  bench.driver.send(kControlOut, control(1, kPortOpen, 1));
  CHECK(bench.take_received(kAgentIn) == "early");
  CHECK(bench.sink.take_log() == Log{"agent:open", "agent:writable"});
}

TEST_CASE("console: bytes wait for buffers and fill them one after the other") {
  Bench bench;
  bench.start_open();
  bench.console->host_write("agent", bytes_of("0123456789"));
  bench.driver.offer(kAgentIn, 4);
  CHECK(bench.take_received(kAgentIn) == "0123");
  bench.driver.offer(kAgentIn, 4);
  bench.driver.offer(kAgentIn, 4);
  CHECK(bench.take_received(kAgentIn) == "456789");
  CHECK(bench.board.interrupts.take_messages(kAgentIn + 1) >= 1);
}

TEST_CASE("console: a full window takes no more until the guest makes room") {
  Bench bench;
  bench.start_open();
  const std::string text = pattern(kPortWindow + 1000);
  const std::size_t accepted = bench.console->host_write("agent", bytes_of(text));
  CHECK(accepted == kPortWindow);
  CHECK(bench.console->host_write("agent", bytes_of("x")) == 0);
  bench.sink.take_log();
  bench.driver.offer(kAgentIn, 4096);
  CHECK(bench.sink.take_log() == Log{"agent:writable"});
  CHECK(bench.sink.last_room == 4096);
  CHECK(bench.console->host_write("agent", bytes_of(text.substr(accepted))) == 1000);
  std::string received = bench.take_received(kAgentIn);
  while (received.size() < text.size()) {
    bench.driver.offer(kAgentIn, 50'000);
    received += bench.take_received(kAgentIn);
  }
  CHECK(received == text);
}

TEST_CASE("console: a buffer the device may not write comes back empty and costs no byte") {
  Bench bench;
  bench.start_open();
  bench.console->host_write("agent", bytes_of("data"));
  bench.driver.send(kAgentIn, "read only");
  CHECK(bench.driver.queue(kAgentIn).take_used()->length == 0);
  bench.driver.offer(kAgentIn, 16);
  CHECK(bench.take_received(kAgentIn) == "data");
}

TEST_CASE("console: bytes not yet given to a driver survive its reset, exactly once and in order") {
  Bench bench;
  bench.start_open();
  bench.console->host_write("agent", bytes_of("abcdef"));
  bench.driver.offer(kAgentIn, 2);
  std::string received = bench.take_received(kAgentIn);
  bench.driver.reset();
  bench.console->host_write("agent", bytes_of("ghi"));
  bench.start_open();
  bench.driver.offer(kAgentIn, 64);
  received += bench.take_received(kAgentIn);
  CHECK(received == "abcdefghi");
}

TEST_CASE("console: a reset closes the ports that were open") {
  Bench bench;
  bench.start_open();
  bench.driver.reset();
  CHECK(bench.sink.take_log() == Log{"agent:close"});
  bench.driver.reset();
  CHECK(bench.sink.log.empty());
}

TEST_CASE("console: the window counts across a reset") {
  Bench bench;
  bench.start_open();
  for (int i = 0; i < 5; ++i) bench.driver.send(kAgentOut, pattern(64 * 1024));
  bench.driver.reset();
  bench.start_open();
  bench.driver.send(kAgentOut, "next");
  CHECK(bench.sink.bytes["agent"].size() == kPortWindow);
  bench.console->consumed("agent", kPortWindow);
  CHECK(bench.sink.bytes["agent"].substr(kPortWindow) == "next");
}

TEST_CASE("console: a hundred unbinds and binds keep both directions whole") {
  Bench bench;
  std::string sent;
  std::string received;
  std::string wanted;
  for (unsigned i = 0; i < 100; ++i) {
    bench.start_open();
    const std::string text = "round " + std::to_string(i) + "\n";
    bench.driver.send(kAgentOut, text);
    sent += text;
    bench.console->host_write("agent", bytes_of(text));
    wanted += text;
    bench.driver.offer(kAgentIn, 64);
    received += bench.take_received(kAgentIn);
    bench.driver.reset();
  }
  CHECK(bench.sink.bytes["agent"] == sent);
  CHECK(received == wanted);
}

TEST_CASE("console: a driver without multiport has port 0, open from the start") {
  Bench bench;
  REQUIRE(bench.driver.start(TestDriver::kTransportFeatures | kSizeFeature) == 0x0f);
  CHECK(bench.sink.take_log() == Log{"hvc:open"});
  bench.driver.send(1, "out");
  bench.driver.offer(0, 16);
  bench.console->host_write("hvc", bytes_of("in"));
  bench.driver.send(kAgentOut, "no such port");
  bench.driver.send(kControlOut, control(0, kDeviceReady, 1));
  CHECK(bench.sink.bytes["hvc"] == "out");
  CHECK(bench.take_received(0) == "in");
  CHECK(bench.sink.bytes.count("agent") == 0);
}

TEST_CASE("console: emergency writes reach port 0 before any driver does, within its window") {
  Bench bench;
  bench.board.set_mmio(TestBoard::kDevice + 8, 4, 'H');
  bench.board.set_mmio(TestBoard::kDevice + 8, 1, 'i');
  CHECK(bench.sink.bytes["hvc"] == "Hi");
  for (std::size_t i = 0; i < kPortWindow + 100; ++i) {
    bench.board.set_mmio(TestBoard::kDevice + 8, 4, '.');
  }
  CHECK(bench.sink.bytes["hvc"].size() == kPortWindow);
}

TEST_CASE("console: ports are found by name, and an unknown one is an error") {
  Bench bench;
  CHECK(bench.console->has_port("agent"));
  CHECK_FALSE(bench.console->has_port("nobody"));
  CHECK_THROWS_AS(bench.console->host_write("nobody", {}), Error);
  CHECK_THROWS_AS(bench.console->consumed("nobody", 1), Error);
}

TEST_CASE("console: a ring that breaks asks for a reset and the rest of the device lives") {
  Bench bench;
  bench.start_open();
  bench.driver.queue(kAgentOut).set_available(9999);
  bench.driver.notify(kAgentOut);
  CHECK((bench.driver.status() & kStatusNeedsReset) != 0);
  bench.driver.send(1, "alive");
  CHECK(bench.sink.bytes["hvc"] == "alive");
  bench.start_open();
  bench.driver.send(kAgentOut, "again");
  CHECK(bench.sink.bytes["agent"] == "again");
}

TEST_CASE("console: a control ring fed by the device's own answers ends in bounded time") {
  Bench bench;
  bench.driver.negotiate(kFeatures);
  bench.driver.set_up_queues(false);
  bench.driver.negotiate(kFeatures);
  const std::uint16_t size = 128;
  const Gpa in_table = bench.driver.allocate(16 * size);
  const Gpa in_available = bench.driver.allocate(6 + 2 * size);
  const Gpa shared = bench.driver.allocate(6 + 8 * size);
  const Gpa out_table = bench.driver.allocate(16 * size);
  const Gpa out_used = bench.driver.allocate(6 + 8 * size);
  const Gpa message = bench.driver.allocate(64);
  GuestMemory& memory = bench.board.memory;
  // The used ring of the control input is the available ring of the control output: each PORT_ADD
  // and its like that the device sends makes one more DEVICE_READY for it to answer.
  REQUIRE(bench.driver.enable_queue(kControlIn, size, in_table, in_available, shared) == 1);
  REQUIRE(bench.driver.enable_queue(kControlOut, size, out_table, shared, out_used) == 1);
  const std::string ready = control(0, kDeviceReady, 1);
  REQUIRE(memory.write(message, bytes_of(ready)));
  for (std::uint16_t i = 0; i < size; ++i) {
    put_descriptor(memory, in_table + 16u * i, message + 32, 8, TestQueue::kWrite, 0);
    put_descriptor(memory, out_table + 16u * i, message, 8, 0, 0);
  }
  REQUIRE(memory.store<std::uint16_t>(in_available + 2, size));
  REQUIRE(memory.store<std::uint16_t>(shared + 2, 1));
  bench.driver.add_status(kStatusDriverOk);
  for (int i = 0; i < 100; ++i) bench.driver.notify(kControlOut);
  CHECK(memory.load<std::uint16_t>(out_used + 2).value() > 1);
}

TEST_CASE("console: two vCPUs and the host at once keep every byte of each port in order") {
  Bench bench;
  std::string hvc_text;
  std::string agent_text;
  for (unsigned i = 0; i < 200; ++i) {
    hvc_text += "hvc " + std::to_string(i) + "\n";
    agent_text += "agent " + std::to_string(i) + "\n";
  }
  bench.start_open();
  // Descriptors are laid out beforehand: the threads only publish and ring.
  const auto lay_out = [&](std::uint16_t queue, const std::string& text) {
    const Gpa at = bench.driver.allocate(text.size());
    REQUIRE(bench.board.memory.write(at, bytes_of(text)));
    for (std::uint16_t i = 0; i < 100; ++i) {
      const std::size_t begin = text.size() * i / 100;
      const std::size_t end = text.size() * (i + 1u) / 100;
      bench.driver.queue(queue).set_descriptor(i, at + begin,
                                               static_cast<std::uint32_t>(end - begin), 0, 0);
    }
  };
  lay_out(1, hvc_text);
  lay_out(kAgentOut, agent_text);
  const auto run = [&](std::uint16_t queue) {
    for (std::uint16_t i = 0; i < 100; ++i) {
      bench.driver.queue(queue).set_available(i);
      bench.driver.notify(queue);
    }
  };
  std::thread first([&] { run(1); });
  std::thread second([&] { run(kAgentOut); });
  for (int i = 0; i < 1000; ++i) {
    bench.console->consumed("agent", 1);
    bench.console->host_write("hvc", bytes_of("k"));
    bench.console->resize("hvc", static_cast<std::uint16_t>(i), 24);
  }
  first.join();
  second.join();
  CHECK(bench.sink.bytes["hvc"] == hvc_text);
  CHECK(bench.sink.bytes["agent"] == agent_text);
}

}  // namespace
}  // namespace kvitest
