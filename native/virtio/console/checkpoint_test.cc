#include <set>
#include <string>
#include <vector>

#include "native/state/test_checkpoint.h"
#include "native/virtio/console/test_console.h"

namespace kvitest {
namespace {

struct Bench : ConsoleBench {
  Bench() = default;
  // A fork, not yet resumed.
  explicit Bench(const Bench& parent) : ConsoleBench() {
    copy(parent);
    load(board, saved(parent.board));
  }
  void copy(const Bench& parent) {
    driver.adopt(parent.driver);
    board.copy_memory(parent.board);
  }
};

TEST_CASE("console checkpoint: the owner of a fork hears of the ports that the guest has open") {
  Bench bench;
  bench.start_open();

  Bench fork(bench);
  CHECK(fork.sink.take_log() == Log{"agent:open"});
  fork.board.resume();
  CHECK(fork.sink.log.empty());
  CHECK(bench.sink.log.empty());
}

TEST_CASE("console checkpoint: open ports carry data both ways in every fork, apart") {
  Bench bench;
  bench.start_open();
  for (int i = 0; i < 8; ++i) bench.driver.offer(kAgentIn, 32);
  bench.driver.send(kAgentOut, "before");

  Bench first(bench);
  Bench second(bench);
  first.board.resume();
  second.board.resume();
  first.driver.send(kAgentOut, "from the first");
  second.driver.send(kAgentOut, "from the second");
  first.console->host_write("agent", bytes_of("to the first"));

  CHECK(bench.sink.bytes["agent"] == "before");
  CHECK(first.sink.bytes["agent"] == "from the first");
  CHECK(second.sink.bytes["agent"] == "from the second");
  CHECK(first.take_received(kAgentIn) == "to the first");
  CHECK(second.take_received(kAgentIn).empty());
  CHECK(bench.take_received(kAgentIn).empty());
}

TEST_CASE("console checkpoint: bytes that waited for the guest reach it in every fork") {
  Bench bench;
  bench.start_ports();
  const std::string early = pattern(3000);
  bench.console->host_write("agent", bytes_of(early));

  Bench first(bench);
  Bench second(bench);
  for (Bench* fork : {&first, &second}) {
    fork->board.resume();
    fork->console->host_write("agent", bytes_of(" and late"));
    fork->driver.send(kControlOut, control(1, kPortOpen, 1));
    fork->driver.offer(kAgentIn, 4096);
    CHECK(fork->take_received(kAgentIn) == early + " and late");
  }
}

TEST_CASE("console checkpoint: a wrapped queue of bytes keeps its order") {
  Bench bench;
  bench.start_open();
  const std::string text = pattern(kPortWindow);
  bench.console->host_write("agent", bytes_of(text));
  bench.driver.offer(kAgentIn, 5000);
  CHECK(bench.take_received(kAgentIn) == text.substr(0, 5000));
  bench.console->host_write("agent", bytes_of(text.substr(0, 4000)));

  Bench fork(bench);
  fork.board.resume();
  std::string received;
  while (received.size() < kPortWindow - 1000) {
    fork.driver.offer(kAgentIn, 50'000);
    received += fork.take_received(kAgentIn);
  }
  CHECK(received == text.substr(5000) + text.substr(0, 4000));
}

TEST_CASE("console checkpoint: a request read in part completes once in each fork") {
  Bench bench;
  bench.start_open();
  const std::string text = pattern(kPortWindow + 5000);
  bench.driver.send(kAgentOut, text);
  bench.driver.send(kAgentOut, "next");
  REQUIRE(bench.sink.bytes["agent"].size() == kPortWindow);
  REQUIRE(bench.driver.queue(kAgentOut).used_index() == 0);

  Bench first(bench);
  Bench second(bench);
  for (Bench* fork : {&first, &second}) {
    CHECK(fork->sink.bytes["agent"].empty());
    CHECK(fork->driver.queue(kAgentOut).used_index() == 0);
    fork->board.resume();
    CHECK(fork->sink.bytes["agent"] == text.substr(kPortWindow) + "next");
    CHECK(fork->driver.queue(kAgentOut).used_index() == 2);
    CHECK(fork->board.interrupts.take_messages(kAgentOut + 1) == 1);
  }
  bench.console->consumed("agent", kPortWindow);
  CHECK(bench.sink.bytes["agent"] == text + "next");
  CHECK(bench.driver.queue(kAgentOut).used_index() == 2);
}

TEST_CASE("console checkpoint: a fork of a fork carries an unfinished request on") {
  Bench bench;
  bench.start_open();
  const std::string text = pattern(2 * kPortWindow + 10);
  bench.driver.send(kAgentOut, text);

  Bench fork(bench);
  fork.board.resume();
  CHECK(fork.sink.bytes["agent"] == text.substr(kPortWindow, kPortWindow));
  Bench grandchild(fork);
  grandchild.board.resume();
  CHECK(grandchild.sink.bytes["agent"] == text.substr(2 * kPortWindow));
  CHECK(grandchild.driver.queue(kAgentOut).used_index() == 1);

  Bench before_resume(bench);
  Bench late(before_resume);
  late.board.resume();
  CHECK(late.sink.bytes["agent"] == text.substr(kPortWindow, kPortWindow));
}

TEST_CASE("console checkpoint: a close behind unread data is told after the data") {
  Bench bench;
  bench.start_open();
  bench.driver.send(kAgentOut, pattern(kPortWindow));
  bench.driver.send(kAgentOut, "tail");
  bench.driver.send(kControlOut, control(1, kPortOpen, 0));
  REQUIRE(bench.sink.log.back() == "agent:data");

  Bench fork(bench);
  CHECK(fork.sink.take_log() == Log{"agent:open"});
  fork.board.resume();
  CHECK(fork.sink.take_log() == Log{"agent:data", "agent:close"});
  CHECK(fork.sink.bytes["agent"] == "tail");
}

TEST_CASE("console checkpoint: control messages that wait for a buffer are sent in the fork") {
  Bench bench;
  REQUIRE(bench.driver.start(kFeatures) == 0x0f);
  bench.console->resize("hvc", 132, 43);
  bench.console->host_open("agent", false);
  bench.driver.send(kControlOut, control(0, kDeviceReady, 1));
  bench.driver.send(kControlOut, control(0, kPortReady, 1));
  bench.driver.send(kControlOut, control(1, kPortReady, 1));

  Bench fork(bench);
  fork.board.resume();
  for (Bench* each : {&bench, &fork}) {
    for (int i = 0; i < 16; ++i) each->driver.offer(kControlIn, 64);
  }
  const std::vector<std::string> wanted{
      control(0, kPortAdd, 1),
      control(0, kConsolePort, 1),
      control(0, kResize, 1) + number(132, 2) + number(43, 2),
      control(0, kPortName, 1) + "hvc",
      control(0, kPortOpen, 1),
      control(1, kPortAdd, 1),
      control(1, kPortName, 1) + "agent",
      control(1, kPortOpen, 0),
  };
  CHECK(fork.take_control() == wanted);
  CHECK(bench.take_control() == wanted);
}

TEST_CASE("console checkpoint: size, generation and a closed host side are kept") {
  Bench bench;
  bench.start_open();
  bench.console->resize("hvc", 100, 30);
  bench.console->host_open("agent", false);

  Bench fork(bench);
  fork.board.resume();
  CHECK(fork.board.mmio(TestBoard::kDevice, 2) == 100);
  CHECK(fork.board.mmio(TestBoard::kDevice + 2, 2) == 30);
  CHECK(fork.console->config_generation() == bench.console->config_generation());
  fork.driver.send(kAgentOut, "dropped");
  fork.console->host_open("agent", true);
  fork.driver.send(kAgentOut, "heard");
  CHECK(fork.sink.bytes["agent"] == "heard");
}

TEST_CASE("console checkpoint: a driver without multiport has its port open in the fork") {
  Bench bench;
  bench.driver.start(TestDriver::kTransportFeatures);
  bench.driver.send(1, "before");

  Bench fork(bench);
  CHECK(fork.sink.take_log() == Log{"hvc:open"});
  fork.board.resume();
  fork.driver.send(1, "after");
  CHECK(fork.sink.bytes["hvc"] == "after");
}

TEST_CASE("console checkpoint: without a driver, early bytes are kept and nothing is open") {
  Bench bench;
  bench.console->host_write("agent", bytes_of("early"));

  Bench fork(bench);
  fork.board.resume();
  CHECK(fork.sink.log.empty());
  fork.start_open();
  fork.driver.offer(kAgentIn, 16);
  CHECK(fork.take_received(kAgentIn) == "early");
}

TEST_CASE(
    "console checkpoint: a request that the guest spoils asks for a reset in that fork only") {
  Bench bench;
  bench.start_open();
  bench.driver.send(kAgentOut, pattern(kPortWindow + 1));

  Bench spoiled(bench);
  spoiled.driver.queue(kAgentOut).set_descriptor(0, TestBoard::kRam, 64, 0, 0);
  Bench fork(bench);
  spoiled.board.resume();
  fork.board.resume();

  CHECK((spoiled.driver.status() & kStatusNeedsReset) != 0);
  CHECK(spoiled.sink.bytes["agent"].empty());
  CHECK((fork.driver.status() & kStatusNeedsReset) == 0);
  CHECK(fork.sink.bytes["agent"].size() == 1);
}

TEST_CASE("console checkpoint: the fork's window is empty") {
  Bench bench;
  bench.start_open();
  bench.driver.send(kAgentOut, pattern(kPortWindow));

  Bench fork(bench);
  fork.board.resume();
  fork.driver.send(kAgentOut, pattern(kPortWindow));
  fork.driver.send(kAgentOut, "more");
  CHECK(fork.sink.bytes["agent"].size() == kPortWindow);
  fork.console->consumed("agent", 100);
  CHECK(fork.sink.bytes["agent"].substr(kPortWindow) == "more");
}

TEST_CASE("console checkpoint: other versions and other ports are refused") {
  Bench bench;
  bench.start_open();
  const std::vector<std::byte> bytes = saved(bench.board);
  for (const std::string section : {"virtio-console", "virtio-console-requests"}) {
    Bench fork;
    CHECK(refusal(fork.board, with_version(bytes, section, 9))
              .find("section " + section + ": it has version 9") != std::string::npos);
  }
  RecordingSink sink;
  const auto console = make_console({{{"hvc", true}, {"other", false}}}, sink);
  TestBoard other(*console);
  CHECK(refusal(other, bytes).find("other ports than this console's") != std::string::npos);
  CHECK(sink.log.empty());
}

TEST_CASE("console checkpoint: cut or changed anywhere it is refused or harmless") {
  Bench bench;
  bench.start_open();
  bench.driver.send(kAgentOut, pattern(kPortWindow + 100));
  bench.driver.send(kControlOut, control(1, kPortOpen, 0));
  bench.console->host_write("agent", bytes_of("waits"));
  const std::vector<std::byte> bytes = saved(bench.board);
  std::size_t refused = 0;
  for (std::size_t at = 0; at < bytes.size(); ++at) {
    Bench cut;
    refused += refusal(cut.board, std::span(bytes).first(at)).empty() ? 0 : 1;
    for (const std::byte value : {std::byte{0xff}, std::byte{1}, bytes[at] ^ std::byte{0x40}}) {
      std::vector<std::byte> changed = bytes;
      changed[at] = value;
      Bench fork;
      if (!refusal(fork.board, changed).empty()) continue;
      fork.copy(bench);
      fork.board.resume();
    }
  }
  CHECK(refused == bytes.size());
}

}  // namespace
}  // namespace kvitest
