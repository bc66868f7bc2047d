#include "native/virtio/vsock/unix_bridge.h"

#include <doctest/doctest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <string>
#include <thread>

#include "native/error.h"
#include "native/virtio/test_driver.h"
#include "native/virtio/vsock/packet.h"

namespace kvitest {
namespace {

constexpr std::uint16_t kReceive = 0;
constexpr std::uint16_t kTransmit = 1;
constexpr std::uint32_t kGuestPort = 99;
constexpr std::chrono::seconds kLimit{20};

// What is not of the sockets.
struct Sink : VsockSink {
  void vsock_open(const std::string&, VsockConnection connection, std::uint32_t,
                  std::uint32_t) override {
    opened = connection;
  }
  std::size_t vsock_data(const std::string&, VsockConnection, std::span<const iovec>) override {
    return 0;
  }
  void vsock_end(const std::string&, VsockConnection) override {}
  void vsock_close(const std::string&, VsockConnection) override {}
  void vsock_writable(const std::string&, VsockConnection) override {}
  VsockConnection opened = 0;
};

sockaddr_un address_of(const std::string& path) {
  sockaddr_un at{};
  at.sun_family = AF_UNIX;
  path.copy(at.sun_path, sizeof at.sun_path - 1);
  return at;
}

// Another program of the host.
struct Client {
  UniqueFd fd{::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};

  Client() = default;
  explicit Client(const std::string& path) {
    const sockaddr_un at = address_of(path);
    REQUIRE(::connect(fd.get(), reinterpret_cast<const sockaddr*>(&at), sizeof at) == 0);
  }
  void say(const std::string& text) const {
    REQUIRE(::send(fd.get(), text.data(), text.size(), 0) == static_cast<ssize_t>(text.size()));
  }
  // So many bytes; fewer at the end.
  std::string hear(std::size_t bytes) const {
    std::string text(bytes, '\0');
    const ssize_t got = ::recv(fd.get(), text.data(), bytes, MSG_WAITALL);
    text.resize(static_cast<std::size_t>(std::max<ssize_t>(got, 0)));
    return text;
  }
};

struct Listener {
  UniqueFd fd{::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
  std::string path;

  explicit Listener(const std::string& where) : path(where) {
    const sockaddr_un at = address_of(path);
    REQUIRE(::bind(fd.get(), reinterpret_cast<const sockaddr*>(&at), sizeof at) == 0);
    REQUIRE(::listen(fd.get(), 4) == 0);
  }
  ~Listener() { ::unlink(path.c_str()); }
  Client accept() const {
    Client client;
    client.fd = UniqueFd(::accept(fd.get(), nullptr, nullptr));
    return client;
  }
};

struct Bench {
  std::string path = "/tmp/kvitest-vsock-" + std::to_string(::getpid());
  Sink sink;
  VsockSpec spec{.name = "vsock0",
                 .cid = 7,
                 .backend = VsockBackend::kUnix,
                 .path = path,
                 .without_features = {}};
  std::unique_ptr<Vsock> vsock = make_unix_vsock(spec, sink);
  TestBoard board{*vsock};
  TestDriver driver{board};

  Bench() {
    REQUIRE(driver.start(TestDriver::kTransportFeatures | 1) == 0x0f);
    for (int i = 0; i < 64; ++i) driver.offer(kReceive, 4096);
  }
  static VsockHeader header(VsockOperation operation, std::uint32_t host_port,
                            std::uint32_t length = 0) {
    VsockHeader out;
    out.from_cid = 7;
    out.to_cid = kVsockHostCid;
    out.from_port = kGuestPort;
    out.to_port = host_port;
    out.operation = operation;
    out.length = length;
    out.buffer = 100'000;
    return out;
  }
  void send(const VsockHeader& header, const std::string& data = "") {
    const auto raw = header.bytes();
    driver.send(kTransmit,
                std::string(reinterpret_cast<const char*>(raw.data()), raw.size()) + data);
    CHECK(driver.queue(kTransmit).take_used()->length == 0);
  }
  struct Packet {
    VsockHeader header;
    std::string data;
  };
  // The next one, which comes when the sockets' thread has been there.
  Packet next() {
    const auto until = std::chrono::steady_clock::now() + kLimit;
    while (std::chrono::steady_clock::now() < until) {
      if (const auto raw = driver.receive(kReceive)) {
        driver.offer(kReceive, 4096);
        const auto bytes = std::as_bytes(std::span(*raw));
        return {VsockHeader::read(bytes.first<kVsockHeader>()), raw->substr(kVsockHeader)};
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    FAIL("no packet came");
    return {};
  }
  // Asked for by the host, and accepted; the port of the host.
  std::uint32_t accept() {
    const Packet request = next();
    CHECK(request.header.operation == kVsockRequest);
    CHECK(request.header.to_port == kGuestPort);
    send(header(kVsockResponse, request.header.from_port));
    return request.header.from_port;
  }
};

}  // namespace

TEST_CASE("vsock by Unix sockets: a client names a port of the guest, and is connected to it") {
  Bench bench;
  const Client client(bench.path);
  // Not at one go, and with what is the guest's right behind it.
  client.say("CONN");
  client.say("ECT 99\nto the guest");
  const std::uint32_t port = bench.accept();
  const std::string answer = "OK " + std::to_string(port) + "\n";
  CHECK(client.hear(answer.size()) == answer);
  CHECK(bench.next().data == "to the guest");
  bench.send(Bench::header(kVsockData, port, 11), "to the host");
  CHECK(client.hear(11) == "to the host");

  ::shutdown(client.fd.get(), SHUT_WR);
  const Bench::Packet end = bench.next();
  CHECK(end.header.operation == kVsockShutdown);
  CHECK(end.header.flags == kVsockNoSend);
  VsockHeader last = Bench::header(kVsockShutdown, port);
  last.flags = kVsockNoSend | kVsockNoReceive;
  bench.send(last);
  CHECK(client.hear(1).empty());
  CHECK(bench.next().header.operation == kVsockReset);
}

TEST_CASE("vsock by Unix sockets: a guest that refuses, and what is no request, are hung up on") {
  Bench bench;
  const Client refused(bench.path);
  refused.say("CONNECT 99\n");
  const Bench::Packet request = bench.next();
  CHECK(request.header.operation == kVsockRequest);
  bench.send(Bench::header(kVsockReset, request.header.from_port));
  CHECK(refused.hear(1).empty());
  for (const char* line : {"CONNECT\n", "CONNECT 1x\n", "connect 99\n", "CONNECT -1\n",
                           "CONNECT 4294967296\n", "CONNECT 99                   \n"}) {
    CAPTURE(line);
    const Client client(bench.path);
    client.say(line);
    CHECK(client.hear(1).empty());
  }
}

TEST_CASE("vsock by Unix sockets: a port of the host is the socket of its name") {
  Bench bench;
  const Listener listener(bench.path + "_1234");
  bench.send(Bench::header(kVsockRequest, 1234));
  const Client server = listener.accept();
  CHECK(bench.next().header.operation == kVsockResponse);
  bench.send(Bench::header(kVsockData, 1234, 5), "hello");
  CHECK(server.hear(5) == "hello");
  server.say("and back");
  CHECK(bench.next().data == "and back");
  CHECK(bench.sink.opened == 0);
}

TEST_CASE(
    "vsock by Unix sockets: a port without a socket is refused, the owner's own is the owner's") {
  Bench bench;
  bench.send(Bench::header(kVsockRequest, 1234));
  CHECK(bench.next().header.operation == kVsockReset);
  bench.vsock->listen(1234, true);
  bench.send(Bench::header(kVsockRequest, 1234));
  CHECK(bench.next().header.operation == kVsockResponse);
  CHECK(bench.sink.opened != 0);
}

TEST_CASE("vsock by Unix sockets: the credit of the guest comes back as the client reads") {
  Bench bench;
  const Client client(bench.path);
  client.say("CONNECT 99\n");
  const std::uint32_t port = bench.accept();
  CHECK(client.hear(3) == "OK ");
  client.hear(std::to_string(port).size() + 1);
  // More than a window in all.
  const std::string part(32 * 1024, 'x');
  std::size_t heard = 0;
  for (int i = 0; i < 12; ++i) {
    const auto length = static_cast<std::uint32_t>(part.size());
    // In pieces that the driver's buffer of the test holds.
    bench.send(Bench::header(kVsockData, port, length), part);
    heard += client.hear(part.size()).size();
  }
  CHECK(heard == 12 * part.size());
}

TEST_CASE("vsock by Unix sockets: a client that goes ends the connection behind its bytes") {
  Bench bench;
  {
    const Client client(bench.path);
    client.say("CONNECT 99\nlast words");
  }
  const std::uint32_t port = bench.accept();
  static_cast<void>(port);
  CHECK(bench.next().data == "last words");
  const Bench::Packet end = bench.next();
  CHECK(end.header.operation == kVsockShutdown);
}

TEST_CASE("vsock by Unix sockets: a path that something is at is refused, and left there") {
  Bench bench;
  Sink other;
  CHECK_THROWS_WITH_AS(make_unix_vsock(bench.spec, other), doctest::Contains("another path"),
                       Error);
  const Client client(bench.path);
}

TEST_CASE("vsock by Unix sockets: the path goes with the device, and has a length") {
  std::string path;
  {
    const Bench bench;
    path = bench.path;
    CHECK(::access(path.c_str(), F_OK) == 0);
  }
  CHECK(::access(path.c_str(), F_OK) != 0);
  VsockSpec spec{.name = "v", .backend = VsockBackend::kUnix, .without_features = {}};
  CHECK_THROWS_AS(validate(spec), Error);
  spec.path = std::string(97, 'x');
  CHECK_THROWS_AS(validate(spec), Error);
}

}  // namespace kvitest
