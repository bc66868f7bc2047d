#include <algorithm>
#include <string>
#include <thread>

#include "native/virtio/console/test_console.h"

namespace kvitest {
namespace {

using Bench = ConsoleBench;

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

TEST_CASE("console: draining hands over what the window held back, then the close behind it") {
  Bench bench;
  bench.start_open();
  const std::string piece = pattern(64 * 1024);
  for (int i = 0; i < 8; ++i) bench.driver.send(kAgentOut, piece);
  bench.driver.send(kControlOut, control(1, kPortOpen, 0));
  bench.console->drain();
  CHECK(bench.sink.bytes["agent"].size() == 8 * piece.size());
  CHECK(bench.sink.log.back() == "agent:close");
}

TEST_CASE("console: a driver whose buffers overlap cannot drain without end") {
  Bench bench;
  bench.start_open();
  TestQueue& ring = bench.driver.queue(kAgentOut);
  for (std::uint16_t i = 0; i < 128; ++i) ring.set_descriptor(i, 0, 1024 * 1024, 0, 0);
  for (std::uint16_t i = 0; i < 128; ++i) ring.set_available(i);
  bench.console->drain();
  CHECK(bench.sink.bytes["agent"].size() == kDrainBytes);
}

TEST_CASE("console: after its transport is gone the sink hears nothing more") {
  RecordingSink sink;
  const auto console = make_console({{{"hvc", true}}}, sink);
  {
    TestBoard board(*console);
    TestDriver driver(board);
    driver.start(TestDriver::kTransportFeatures);
    driver.send(1, "last words");
    sink.take_log();
  }
  console->consumed("hvc", 10);
  console->host_write("hvc", bytes_of("nobody"));
  console->resize("hvc", 80, 25);
  CHECK(sink.log.empty());
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
