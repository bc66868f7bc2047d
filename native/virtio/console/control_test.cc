#include <algorithm>
#include <string>
#include <vector>

#include "native/error.h"
#include "native/virtio/console/test_console.h"

namespace kvitest {
namespace {

using Bench = ConsoleBench;

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

TEST_CASE("console: a reset closes the ports that were open") {
  Bench bench;
  bench.start_open();
  bench.driver.reset();
  CHECK(bench.sink.take_log() == Log{"agent:close"});
  bench.driver.reset();
  CHECK(bench.sink.log.empty());
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

TEST_CASE("console: ports are found by name, and an unknown one is an error") {
  Bench bench;
  CHECK(bench.console->has_port("agent"));
  CHECK_FALSE(bench.console->has_port("nobody"));
  CHECK_THROWS_AS(bench.console->host_write("nobody", {}), Error);
  CHECK_THROWS_AS(bench.console->consumed("nobody", 1), Error);
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

}  // namespace
}  // namespace kvitest
