#include "native/virtio/vsock/vsock.h"

#include <doctest/doctest.h>

#include <string>
#include <utility>
#include <vector>

#include "native/error.h"
#include "native/state/test_checkpoint.h"
#include "native/virtio/test_driver.h"
#include "native/virtio/vsock/packet.h"

namespace kvitest {
namespace {

constexpr std::uint16_t kReceive = 0;
constexpr std::uint16_t kTransmit = 1;
constexpr std::uint16_t kEvent = 2;
constexpr std::uint32_t kPort = 1234;  // of the host
constexpr std::uint32_t kGuestPort = 99;
constexpr std::uint32_t kBuffer = 100'000;

using Log = std::vector<std::string>;

struct Sink : VsockSink {
  void vsock_open(const std::string&, VsockConnection connection, std::uint32_t host_port,
                  std::uint32_t guest_port) override {
    log.push_back("open " + std::to_string(host_port) + " " + std::to_string(guest_port));
    last = connection;
  }
  std::size_t vsock_data(const std::string&, VsockConnection,
                         std::span<const iovec> pieces) override {
    const std::size_t before = text.size();
    for (const iovec& piece : pieces) {
      text.append(static_cast<const char*>(piece.iov_base), piece.iov_len);
    }
    return consumes ? text.size() - before : 0;
  }
  void vsock_end(const std::string&, VsockConnection) override { log.push_back("end"); }
  void vsock_close(const std::string&, VsockConnection) override { log.push_back("close"); }
  void vsock_writable(const std::string&, VsockConnection) override { ++writable; }
  Log take() { return std::exchange(log, {}); }
  Log log;
  std::string text;
  bool consumes = false;  // at once
  VsockConnection last = 0;
  int writable = 0;
};

struct Packet {
  VsockHeader header;
  std::string data;
};

struct Bench {
  Sink sink;
  VsockSpec spec{.name = "vsock0", .cid = 7, .without_features = {}};
  std::unique_ptr<Vsock> vsock = make_vsock(spec, sink);
  TestBoard board{*vsock};
  TestDriver driver{board};

  void start(int buffers = 32) {
    REQUIRE(driver.start(TestDriver::kTransportFeatures | 1) == 0x0f);
    for (int i = 0; i < buffers; ++i) driver.offer(kReceive, 4096);
    vsock->listen(kPort, true);
  }
  static VsockHeader header(VsockOperation operation, std::uint32_t length = 0) {
    VsockHeader out;
    out.from_cid = 7;
    out.to_cid = kVsockHostCid;
    out.from_port = kGuestPort;
    out.to_port = kPort;
    out.operation = operation;
    out.length = length;
    out.buffer = kBuffer;
    return out;
  }
  void send(const VsockHeader& header, const std::string& data = "") {
    const auto raw = header.bytes();
    driver.send(kTransmit,
                std::string(reinterpret_cast<const char*>(raw.data()), raw.size()) + data);
    CHECK(driver.queue(kTransmit).take_used()->length == 0);
  }
  void data(const std::string& text) {
    send(header(kVsockData, static_cast<std::uint32_t>(text.size())), text);
  }
  std::optional<Packet> receive() {
    const auto raw = driver.receive(kReceive);
    if (!raw) return std::nullopt;
    const auto bytes = std::as_bytes(std::span(*raw));
    return Packet{VsockHeader::read(bytes.first<kVsockHeader>()), raw->substr(kVsockHeader)};
  }
  // The operation of the next packet; kVsockInvalid when there is none.
  VsockOperation next() {
    const auto packet = receive();
    return packet ? static_cast<VsockOperation>(packet->header.operation) : kVsockInvalid;
  }
  // A connection that the guest made.
  VsockConnection connected() {
    send(header(kVsockRequest));
    CHECK(next() == kVsockResponse);
    CHECK(sink.take() == Log{"open 1234 99"});
    return sink.last;
  }
  std::size_t write(VsockConnection connection, const std::string& text) {
    return vsock->host_write(connection, std::as_bytes(std::span(text)));
  }
};

TEST_CASE("vsock: the config space has the CID, and a spec of no guest's is refused") {
  Bench bench;
  CHECK(bench.board.mmio(TestBoard::kDevice, 8) == 7);
  CHECK(bench.board.mmio(TestBoard::kDevice + 8, 4) == 0);
  CHECK_THROWS_AS(validate(VsockSpec{"v", 2, {}}), Error);
  CHECK_THROWS_AS(validate(VsockSpec{"v", 0xffff'ffff, {}}), Error);
}

TEST_CASE("vsock: the guest connects to a port that is listened on, bytes pass both ways") {
  Bench bench;
  bench.start();
  const VsockConnection connection = bench.connected();
  bench.data("to the host");
  CHECK(bench.sink.text == "to the host");
  CHECK(bench.write(connection, "to the guest") == 12);
  const auto packet = bench.receive();
  REQUIRE(packet.has_value());
  CHECK(packet->data == "to the guest");
  CHECK(packet->header.from_cid == kVsockHostCid);
  CHECK(packet->header.to_cid == 7);
  CHECK(packet->header.from_port == kPort);
  CHECK(packet->header.to_port == kGuestPort);
  CHECK(packet->header.length == 12);
  CHECK(packet->header.buffer == kVsockWindow);
}

TEST_CASE("vsock: what is no connection, no stream or not for the host is reset, a reset is not") {
  Bench bench;
  bench.start();
  VsockHeader other = Bench::header(kVsockRequest);
  other.to_port = 5;
  bench.send(other);
  CHECK(bench.next() == kVsockReset);
  bench.data("nowhere");
  CHECK(bench.next() == kVsockReset);
  other = Bench::header(kVsockRequest);
  other.to_cid = 8;
  bench.send(other);
  const auto reset = bench.receive();
  REQUIRE(reset.has_value());
  CHECK(reset->header.from_cid == 8);
  other = Bench::header(kVsockRequest);
  other.type = 2;
  bench.send(other);
  CHECK(bench.next() == kVsockReset);
  bench.send(Bench::header(kVsockReset));
  CHECK(bench.next() == kVsockInvalid);
  other = Bench::header(kVsockRequest);
  other.from_cid = 8;
  bench.send(other);
  CHECK(bench.next() == kVsockInvalid);
  CHECK(bench.sink.log.empty());
}

TEST_CASE("vsock: malformed packets end nothing but their own connection") {
  Bench bench;
  bench.start();
  bench.driver.send(kTransmit, "short");
  bench.driver.send(kTransmit, "");
  bench.driver.offer(kTransmit, 100);
  for (int i = 0; i < 3; ++i) CHECK(bench.driver.queue(kTransmit).take_used()->length == 0);
  CHECK(bench.next() == kVsockInvalid);
  bench.connected();
  // It says that more bytes come than there are.
  bench.send(Bench::header(kVsockData, 100), "few");
  CHECK(bench.next() == kVsockReset);
  CHECK(bench.sink.text.empty());
  bench.data("still there");
  CHECK(bench.sink.text == "still there");
  bench.send(Bench::header(kVsockResponse));
  CHECK(bench.next() == kVsockReset);
  CHECK(bench.sink.take() == Log{"close"});
  bench.connected();
  VsockHeader odd = Bench::header(kVsockInvalid);
  odd.operation = 77;
  bench.send(odd);
  CHECK(bench.next() == kVsockReset);
  CHECK(bench.driver.status() == 0x0f);
}

TEST_CASE("vsock: the host sends no more than the guest has room for") {
  Bench bench;
  bench.start(64);
  const VsockConnection connection = bench.connected();
  const std::string much(150'000, 'x');
  CHECK(bench.write(connection, much) == much.size());
  std::size_t got = 0;
  VsockOperation last = kVsockInvalid;
  while (auto packet = bench.receive()) {
    got += packet->data.size();
    last = static_cast<VsockOperation>(packet->header.operation);
  }
  CHECK(got == kBuffer);
  CHECK(last == kVsockCreditRequest);
  VsockHeader update = Bench::header(kVsockCreditUpdate);
  // No room yet: it says more when it has some, and is not asked again.
  bench.send(update);
  CHECK(bench.next() == kVsockInvalid);
  update.forwarded = kBuffer;
  bench.send(update);
  while (auto packet = bench.receive()) got += packet->data.size();
  CHECK(got == much.size());
  CHECK(bench.sink.writable > 0);
  // A counter that says more than was sent gives no credit for it.
  update.forwarded = 4'000'000'000;
  bench.send(update);
  CHECK(bench.write(connection, "y") == 1);
  CHECK(bench.next() == kVsockCreditRequest);
}

TEST_CASE("vsock: what waits for the guest is bounded, and the rest comes when it makes room") {
  Bench bench;
  bench.start(0);
  bench.driver.offer(kReceive, 4096);
  const VsockConnection connection = bench.connected();
  const std::string much(kVsockWindow + 1, 'x');
  CHECK(bench.write(connection, much) == kVsockWindow);
  CHECK(bench.write(connection, "x") == 0);
  CHECK(bench.sink.writable == 0);
  bench.driver.offer(kReceive, 4096);
  CHECK(bench.sink.writable == 1);
  CHECK(bench.receive()->data.size() == 4096 - kVsockHeader);
}

TEST_CASE("vsock: the guest is told of its credit, and one that ignores it is reset") {
  Bench bench;
  bench.start();
  const VsockConnection connection = bench.connected();
  const std::string piece(kVsockWindow / 4, 'x');
  for (int i = 0; i < 4; ++i) bench.data(piece);
  CHECK(bench.next() == kVsockInvalid);
  bench.vsock->consumed(connection, piece.size());
  const auto update = bench.receive();
  REQUIRE(update.has_value());
  CHECK(update->header.operation == kVsockCreditUpdate);
  CHECK(update->header.forwarded == piece.size());
  bench.send(Bench::header(kVsockCreditRequest));
  CHECK(bench.next() == kVsockCreditUpdate);
  bench.data(piece);
  CHECK(bench.next() == kVsockInvalid);
  bench.data("x");
  CHECK(bench.next() == kVsockReset);
  CHECK(bench.sink.take() == Log{"close"});
  CHECK(bench.sink.text.size() == 5 * piece.size());
}

TEST_CASE("vsock: what its owner is done with at once needs no consumed()") {
  Bench bench;
  bench.start();
  bench.connected();
  bench.sink.consumes = true;
  const std::string piece(kVsockWindow / 2, 'x');
  for (std::uint32_t i = 1; i <= 5; ++i) {
    bench.data(piece);
    const auto update = bench.receive();
    REQUIRE(update.has_value());
    CHECK(update->header.operation == kVsockCreditUpdate);
    CHECK(update->header.forwarded == i * piece.size());
  }
  CHECK(bench.sink.text.size() == 5 * piece.size());
}

TEST_CASE("vsock: a guest with a small buffer is told of its credit sooner") {
  Bench bench;
  bench.start();
  const VsockConnection connection = bench.connected();
  VsockHeader data = Bench::header(kVsockData, 64);
  data.buffer = 64;
  bench.send(data, std::string(64, 'x'));
  bench.vsock->consumed(connection, 15);
  CHECK(bench.next() == kVsockInvalid);
  bench.vsock->consumed(connection, 1);
  const auto update = bench.receive();
  REQUIRE(update.has_value());
  CHECK(update->header.operation == kVsockCreditUpdate);
  CHECK(update->header.forwarded == 16);
  // One that says it has none is told of what was taken, and of nothing else.
  data.buffer = 0;
  data.length = 1;
  bench.send(data, "x");
  bench.vsock->consumed(connection, 0);
  CHECK(bench.next() == kVsockInvalid);
  bench.vsock->consumed(connection, 1);
  CHECK(bench.next() == kVsockCreditUpdate);
}

TEST_CASE("vsock: the guest ends a connection, half or whole") {
  Bench bench;
  bench.start();
  const VsockConnection connection = bench.connected();
  VsockHeader shutdown = Bench::header(kVsockShutdown);
  shutdown.flags = kVsockNoSend;
  bench.send(shutdown);
  CHECK(bench.sink.take() == Log{"end"});
  CHECK(bench.write(connection, "still heard") == 11);
  CHECK(bench.receive()->data == "still heard");
  shutdown.flags = kVsockNoReceive;
  bench.send(shutdown);
  CHECK(bench.next() == kVsockReset);
  CHECK(bench.sink.take() == Log{"close"});
  CHECK_FALSE(bench.vsock->has(connection));
  // To nowhere, so that nobody waits for it.
  CHECK(bench.write(connection, "too late") == 8);
}

TEST_CASE("vsock: the host ends a connection behind its last bytes") {
  Bench bench;
  bench.start(0);
  bench.driver.offer(kReceive, 4096);
  const VsockConnection connection = bench.connected();
  bench.write(connection, "last");
  bench.vsock->close(connection, true);
  bench.driver.offer(kReceive, 4096);
  CHECK(bench.receive()->data == "last");
  bench.driver.offer(kReceive, 4096);
  const auto packet = bench.receive();
  REQUIRE(packet.has_value());
  CHECK(packet->header.operation == kVsockShutdown);
  CHECK(packet->header.flags == (kVsockNoSend | kVsockNoReceive));
  bench.data("nobody takes it");
  CHECK(bench.sink.text.empty());
  bench.send(Bench::header(kVsockReset));
  CHECK(bench.sink.take() == Log{"close"});
}

TEST_CASE("vsock: the host connects; the guest accepts or refuses") {
  Bench bench;
  CHECK_THROWS_WITH_AS(bench.vsock->connect(80),
                       "connect vsock: the guest has no driver for vsock0 (Network is down)",
                       Error);
  bench.start();
  const VsockConnection connection = bench.vsock->connect(80);
  const auto request = bench.receive();
  REQUIRE(request.has_value());
  CHECK(request->header.operation == kVsockRequest);
  CHECK(request->header.to_port == 80);
  VsockHeader answer = Bench::header(kVsockResponse);
  answer.from_port = 80;
  answer.to_port = request->header.from_port;
  bench.send(answer);
  CHECK(bench.sink.take() == Log{"open " + std::to_string(request->header.from_port) + " 80"});
  CHECK(bench.sink.last == connection);
  bench.vsock->connect(81);
  const auto second = bench.receive();
  REQUIRE(second.has_value());
  answer.operation = kVsockReset;
  answer.from_port = 81;
  answer.to_port = second->header.from_port;
  bench.send(answer);
  CHECK(bench.sink.take() == Log{"close"});
}

TEST_CASE("vsock: connections are bounded until the host has closed those that are over") {
  Bench bench;
  bench.start(0);
  int opened = 0;
  for (std::uint32_t i = 0; i < 400; ++i) {
    VsockHeader request = Bench::header(kVsockRequest);
    request.from_port = i;
    bench.send(request);
    opened += bench.sink.take().size() == 1 ? 1 : 0;
    request.operation = kVsockReset;
    bench.send(request);
    bench.sink.take();
  }
  CHECK(opened == 256);
  CHECK_THROWS_AS(bench.vsock->connect(1), Error);
  for (VsockConnection each = 1; each <= 256; ++each) bench.vsock->close(each, true);
  bench.send(Bench::header(kVsockRequest));
  CHECK(bench.sink.take() == Log{"open 1234 99"});
}

TEST_CASE("vsock: refusals that the guest does not fetch hold its packets back") {
  Bench bench;
  bench.start(0);
  const auto raw = Bench::header(kVsockData).bytes();
  const std::string packet(reinterpret_cast<const char*>(raw.data()), raw.size());
  int answered = 0;
  for (int i = 0; i < 300; ++i) {
    bench.driver.send(kTransmit, packet);
    while (bench.driver.queue(kTransmit).take_used()) ++answered;
  }
  CHECK(answered == 256);
  int resets = 0;
  for (int i = 0; i < 300; ++i) {
    bench.driver.offer(kReceive, 4096);
    resets += bench.next() == kVsockReset ? 1 : 0;
  }
  while (bench.driver.queue(kTransmit).take_used()) ++answered;
  CHECK(answered == 300);
  CHECK(resets == 300);
}

TEST_CASE("vsock checkpoint: a fork's guest is told that its connections are gone, and its CID") {
  Bench parent;
  parent.start();
  const VsockConnection connection = parent.connected();
  Bench child;
  child.board.copy_memory(parent.board);
  load(child.board, saved(parent.board));
  child.vsock->set_cid(9);
  child.board.resume();
  child.driver.adopt(parent.driver);
  CHECK(child.board.mmio(TestBoard::kDevice, 8) == 9);
  CHECK_FALSE(child.vsock->has(connection));
  // The event waits for a buffer.
  child.driver.offer(kEvent, 4);
  CHECK(child.driver.receive(kEvent) == std::string(4, '\0'));
  child.driver.offer(kEvent, 4);
  CHECK_FALSE(child.driver.receive(kEvent).has_value());
  VsockHeader late = Bench::header(kVsockData, 1);
  late.from_cid = 9;
  child.send(late, "x");
  CHECK(child.next() == kVsockReset);
  // The parent goes on.
  parent.data("x");
  CHECK(parent.sink.text == "x");
  CHECK(parent.vsock->has(connection));
}

TEST_CASE("vsock checkpoint: a part of one, or one with a changed byte, is refused or harmless") {
  Bench parent;
  parent.start();
  const std::vector<std::byte> bytes = saved(parent.board);
  std::size_t refused = 0;
  for (std::size_t at = 0; at < bytes.size(); ++at) {
    Bench cut;
    refused += refusal(cut.board, std::span(bytes).first(at)).empty() ? 0 : 1;
    std::vector<std::byte> changed = bytes;
    changed[at] ^= std::byte{0xff};
    Bench child;
    child.board.copy_memory(parent.board);
    if (refusal(child.board, changed).empty()) child.board.resume();
  }
  CHECK(refused == bytes.size());
}

TEST_CASE("vsock: a reset ends every connection, and all works again") {
  Bench bench;
  for (int i = 0; i < 100; ++i) {
    bench.start();
    const VsockConnection connection = bench.connected();
    bench.write(connection, "on its way");
    bench.driver.reset();
    CHECK(bench.sink.take() == Log{"close"});
    bench.vsock->close(connection, true);
  }
}

}  // namespace
}  // namespace kvitest
