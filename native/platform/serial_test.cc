#include "native/platform/serial.h"

#include <doctest/doctest.h>

#include <string>
#include <string_view>
#include <thread>

#include "native/platform/test_access.h"
#include "native/state/test_checkpoint.h"

namespace kvitest {
namespace {

constexpr std::uint64_t kThr = 0, kRbr = 0, kDll = 0;
constexpr std::uint64_t kIer = 1, kDlm = 1;
constexpr std::uint64_t kIir = 2, kFcr = 2;
constexpr std::uint64_t kLcr = 3, kMcr = 4, kLsr = 5, kMsr = 6, kScr = 7;
constexpr std::uint8_t kMcrOn = 0x0b;  // DTR, RTS, OUT2: what a driver sets on open
constexpr std::uint32_t kGsi = 4;

struct Port {
  std::string sent;
  std::vector<std::size_t> rooms;
  RecordingInterrupts interrupts;
  Serial uart{&interrupts,
              kGsi,
              {[this](std::span<const std::byte> data) {
                 sent.append(reinterpret_cast<const char*>(data.data()), data.size());
               },
               [this](std::size_t room) { rooms.push_back(room); }}};

  std::size_t type(std::string_view text) {
    return uart.host_write(std::as_bytes(std::span(text)));
  }
  std::string receive(std::size_t count) {
    std::string text;
    for (std::size_t i = 0; i < count; ++i) text += static_cast<char>(port_in(uart, kRbr));
    return text;
  }
};

TEST_CASE("serial: what is written to THR is transmitted at once") {
  Port port;

  for (const char c : std::string_view("boot\n")) {
    port_out(port.uart, kThr, static_cast<std::uint8_t>(c));
  }

  CHECK(port.sent == "boot\n");
  CHECK(port_in(port.uart, kLsr) == 0x60);
}

TEST_CASE("serial: the divisor latch hides THR and IER") {
  Port port;

  port_out(port.uart, kLcr, 0x83);
  port_out(port.uart, kDll, 0x01);
  port_out(port.uart, kDlm, 0x02);

  CHECK(port_in(port.uart, kDll) == 0x01);
  CHECK(port_in(port.uart, kDlm) == 0x02);
  port_out(port.uart, kLcr, 0x03);
  CHECK(port_in(port.uart, kIer) == 0);
  CHECK(port.sent.empty());
}

TEST_CASE("serial: a probe finds a 16550A: scratch, IER's four bits, FIFO bits in IIR") {
  Port port;

  port_out(port.uart, kScr, 0x5a);
  port_out(port.uart, kIer, 0xff);
  port_out(port.uart, kFcr, 0x01);

  CHECK(port_in(port.uart, kScr) == 0x5a);
  CHECK(port_in(port.uart, kIer) == 0x0f);
  CHECK((port_in(port.uart, kIir) & 0xc0) == 0xc0);
  port_out(port.uart, kFcr, 0x00);
  CHECK((port_in(port.uart, kIir) & 0xc0) == 0);
}

TEST_CASE("serial: loopback shows the modem outputs as inputs") {
  Port port;

  port_out(port.uart, kMcr, 0x10 | 0x0a);  // RTS and OUT2

  CHECK((port_in(port.uart, kMsr) & 0xf0) == 0x90);  // CTS and DCD
  port_out(port.uart, kMcr, 0x10 | 0x05);
  CHECK((port_in(port.uart, kMsr) & 0xf0) == 0x60);  // DSR and RI
}

TEST_CASE("serial: loopback returns bytes and transmits nothing") {
  Port port;

  port_out(port.uart, kMcr, 0x10);
  port_out(port.uart, kThr, 'x');

  CHECK(port.sent.empty());
  CHECK((port_in(port.uart, kLsr) & 1) == 1);
  CHECK(port_in(port.uart, kRbr) == 'x');
}

TEST_CASE("serial: a full receiver in loopback reports an overrun once") {
  Port port;
  port_out(port.uart, kMcr, 0x10);

  port_out(port.uart, kThr, 'a');
  port_out(port.uart, kThr, 'b');

  CHECK((port_in(port.uart, kLsr) & 0x02) != 0);
  CHECK((port_in(port.uart, kLsr) & 0x02) == 0);
  CHECK(port_in(port.uart, kRbr) == 'a');
}

TEST_CASE("serial: modem status changes are reported until read") {
  Port port;

  port_out(port.uart, kMcr, 0x10);  // CTS, DSR and DCD fall

  CHECK((port_in(port.uart, kMsr) & 0x0f) == 0x0b);
  CHECK((port_in(port.uart, kMsr) & 0x0f) == 0);
}

TEST_CASE("serial: outside loopback the host is connected and ready") {
  Port port;

  CHECK(port_in(port.uart, kMsr) == 0xb0);
}

TEST_CASE("serial: enabling the transmitter interrupt raises it, reading IIR takes it back") {
  Port port;
  port_out(port.uart, kMcr, kMcrOn);

  port_out(port.uart, kIer, 0x02);
  CHECK(port.interrupts.level());
  CHECK(port_in(port.uart, kIir) == 0x02);

  CHECK_FALSE(port.interrupts.level());
  CHECK(port_in(port.uart, kIir) == 0x01);
}

TEST_CASE("serial: every byte sent makes a new transmitter interrupt") {
  Port port;
  port_out(port.uart, kMcr, kMcrOn);
  port_out(port.uart, kIer, 0x02);
  port_in(port.uart, kIir);

  port_out(port.uart, kThr, 'x');

  CHECK(port.interrupts.level());
  CHECK(port.interrupts.changes().back() == std::pair<std::uint32_t, bool>{kGsi, true});
}

TEST_CASE("serial: enabling it again after it was reported raises it again") {
  Port port;
  port_out(port.uart, kMcr, kMcrOn);
  port_out(port.uart, kIer, 0x02);
  port_in(port.uart, kIir);
  port_out(port.uart, kIer, 0x00);

  port_out(port.uart, kIer, 0x02);

  CHECK(port_in(port.uart, kIir) == 0x02);
}

TEST_CASE("serial: no interrupt reaches the bus without OUT2") {
  Port port;

  port_out(port.uart, kIer, 0x02);

  CHECK(port.interrupts.changes().empty());
  port_out(port.uart, kMcr, 0x08);
  CHECK(port.interrupts.level());
}

TEST_CASE("serial: received bytes interrupt until they are read") {
  Port port;
  port_out(port.uart, kMcr, kMcrOn);
  port_out(port.uart, kIer, 0x01);

  port.type("ok");

  CHECK(port.interrupts.level());
  CHECK(port_in(port.uart, kIir) == 0x04);
  CHECK(port.receive(2) == "ok");
  CHECK_FALSE(port.interrupts.level());
  CHECK((port_in(port.uart, kLsr) & 1) == 0);
}

TEST_CASE("serial: below the FIFO's trigger level the timeout tells") {
  Port port;
  port_out(port.uart, kFcr, 0x81);  // trigger at 8
  port_out(port.uart, kMcr, kMcrOn);
  port_out(port.uart, kIer, 0x01);

  port.type("1234567");
  CHECK(port_in(port.uart, kIir) == 0xcc);

  port.type("8");
  CHECK(port_in(port.uart, kIir) == 0xc4);
}

TEST_CASE("serial: received data comes before the transmitter in IIR") {
  Port port;
  port_out(port.uart, kMcr, kMcrOn);
  port_out(port.uart, kIer, 0x03);
  port.type("x");

  CHECK(port_in(port.uart, kIir) == 0x04);
  port.receive(1);
  CHECK(port_in(port.uart, kIir) == 0x02);
}

TEST_CASE("serial: what is typed before the driver opens the port survives its FIFO reset") {
  Port port;
  port.type("hello");

  port_out(port.uart, kFcr, 0x07);
  const std::uint8_t stale = port_in(port.uart, kRbr);
  port_out(port.uart, kMcr, kMcrOn);

  CHECK(stale == 0);
  CHECK(port.receive(5) == "hello");
}

TEST_CASE("serial: a FIFO reset drops only what the FIFO holds") {
  Port port;
  port_out(port.uart, kFcr, 0x01);
  port_out(port.uart, kMcr, kMcrOn);
  port.type("0123456789abcdefREST");

  port_out(port.uart, kFcr, 0x03);

  CHECK(port.receive(4) == "REST");
}

TEST_CASE("serial: input beyond the limit is refused, and room is announced once it is back") {
  Port port;
  port_out(port.uart, kFcr, 0x01);
  port_out(port.uart, kMcr, kMcrOn);
  const std::string flood(kSerialInputLimit + 100, 'z');

  const std::size_t taken = port.type(flood);
  CHECK(taken == kSerialInputLimit);
  CHECK(port.rooms.empty());
  port.receive(kSerialInputLimit / 2);

  REQUIRE(port.rooms.size() == 1);
  CHECK(port.rooms[0] >= kSerialInputLimit / 2);
}

TEST_CASE("serial: a guest without irqchip can poll") {
  std::string sent;
  Serial uart(nullptr, kGsi,
              {[&sent](std::span<const std::byte> data) {
                 sent.append(reinterpret_cast<const char*>(data.data()), data.size());
               },
               {}});
  port_out(uart, kMcr, 0x0b);
  port_out(uart, kIer, 0x0f);

  port_out(uart, kThr, 'p');
  uart.host_write(std::as_bytes(std::span(std::string_view("q"))));

  CHECK(sent == "p");
  CHECK(port_in(uart, kRbr) == 'q');
}

TEST_CASE("serial: wide accesses reach consecutive registers and never leave the device") {
  Port port;

  port_out<std::uint32_t>(port.uart, 6, 0x1234'5678);

  CHECK(port_in(port.uart, kScr) == 0x56);
  CHECK(port_in<std::uint32_t>(port.uart, kScr) == 0xffff'ff56);
}

TEST_CASE("serial: two vCPUs and the host may use it at once without losing a byte") {
  Port port;
  port_out(port.uart, kFcr, 0x01);
  port_out(port.uart, kMcr, kMcrOn);
  port_out(port.uart, kIer, 0x03);
  constexpr std::size_t kBytes = 5000;
  std::size_t received = 0;

  {
    std::jthread writer([&port] {
      for (std::size_t i = 0; i < kBytes; ++i) port_out(port.uart, kThr, 'w');
    });
    std::jthread host([&port] {
      for (std::size_t i = 0; i < kBytes; ++i) port.type("h");
    });
    while (received < kBytes) {
      received += (port_in(port.uart, kLsr) & 1) != 0 && port_in(port.uart, kRbr) == 'h';
    }
  }

  CHECK(port.sent.size() == kBytes);
  CHECK(received == kBytes);
}

TEST_CASE("serial checkpoint: registers, received bytes and waiting input go on in the fork") {
  Port port;
  port_out(port.uart, kLcr, 0x80);
  port_out(port.uart, kDll, 0x34);
  port_out(port.uart, kDlm, 0x12);
  port_out(port.uart, kLcr, 0x03);
  port_out(port.uart, kFcr, 0x81);
  port_out(port.uart, kScr, 0x5a);
  port_out(port.uart, kMcr, kMcrOn);
  const std::string text = "more than sixteen bytes wait here";
  port.type(text);
  CHECK(port.receive(3) == text.substr(0, 3));

  Port fork;
  load(fork.uart, saved(port.uart));

  CHECK(port_in(fork.uart, kScr) == 0x5a);
  CHECK(port_in(fork.uart, kMcr) == kMcrOn);
  CHECK(port_in(fork.uart, kLcr) == 0x03);
  CHECK(fork.receive(text.size() - 3) == text.substr(3));
  CHECK((port_in(fork.uart, kLsr) & 1) == 0);
  port_out(fork.uart, kLcr, 0x83);
  CHECK(port_in(fork.uart, kDll) == 0x34);
  CHECK(port_in(fork.uart, kDlm) == 0x12);
  CHECK(port.receive(1) == text.substr(3, 1));
}

TEST_CASE("serial checkpoint: loading leaves the line alone, resuming drives it") {
  Port port;
  port_out(port.uart, kMcr, kMcrOn);
  port_out(port.uart, kIer, 0x01);
  port.type("x");
  REQUIRE(port.interrupts.level());

  Port fork;
  load(fork.uart, saved(port.uart));
  CHECK(fork.interrupts.changes().empty());
  fork.uart.resume();
  CHECK(fork.interrupts.level());
  CHECK(fork.receive(1) == "x");
  CHECK_FALSE(fork.interrupts.level());
}

TEST_CASE("serial checkpoint: a line that was low is driven low") {
  Port port;
  Port fork;
  load(fork.uart, saved(port.uart));
  fork.uart.resume();
  CHECK(fork.interrupts.changes() == std::vector<std::pair<std::uint32_t, bool>>{{kGsi, false}});
}

TEST_CASE("serial checkpoint: a transmitter interrupt not yet reported is reported in the fork") {
  Port port;
  port_out(port.uart, kMcr, kMcrOn);
  port_out(port.uart, kIer, 0x02);

  Port fork;
  load(fork.uart, saved(port.uart));
  CHECK((port_in(fork.uart, kIir) & 0x0f) == 0x02);
  CHECK((port_in(fork.uart, kIir) & 0x0f) == 0x01);
}

TEST_CASE("serial checkpoint: the host of a fork is told of room only when it waits itself") {
  Port port;
  port_out(port.uart, kMcr, kMcrOn);
  port.type(std::string(kSerialInputLimit + 100, 'x'));

  Port fork;
  load(fork.uart, saved(port.uart));
  fork.receive(kSerialInputLimit);
  CHECK(fork.rooms.empty());
}

TEST_CASE(
    "serial checkpoint: another version, impossible registers and too many bytes are refused") {
  Port port;
  const std::vector<std::byte> bytes = saved(port.uart);
  CHECK(refusal(port.uart, with_version(bytes, "serial", 3)).find("version 3") !=
        std::string::npos);
  std::vector<std::byte> registers = bytes;
  registers[registers.size() - 8] = std::byte{0xff};  // interrupt enable
  CHECK(refusal(port.uart, registers).find("a register that cannot be") != std::string::npos);

  StateWriter writer;
  SerialState state;
  state.fifo.resize(17);
  writer.save(state);
  CHECK(refusal(port.uart, writer.take()).find("more bytes wait") != std::string::npos);
}

TEST_CASE("serial: a break is a line status interrupt, then a NUL ahead of what was typed") {
  Port port;
  port_out(port.uart, kFcr, 0x01);
  port_out(port.uart, kMcr, kMcrOn);
  port_out(port.uart, kIer, 0x05);
  port.type("l");

  port.uart.host_break();

  CHECK((port_in(port.uart, kIir) & 0x0f) == 0x06);
  CHECK(port_in(port.uart, kLsr) == 0x71);
  CHECK(port_in(port.uart, kLsr) == 0x61);
  CHECK(port.receive(2) == std::string("\0l", 2));
  CHECK(port_in(port.uart, kLsr) == 0x60);
}

TEST_CASE("serial: a break finds room in a full FIFO, and a FIFO reset takes it back") {
  Port port;
  port_out(port.uart, kFcr, 0x01);
  port_out(port.uart, kMcr, kMcrOn);
  port.type("0123456789abcdef");

  port.uart.host_break();

  CHECK(port_in(port.uart, kLsr) == 0x73);
  port.uart.host_break();
  port_out(port.uart, kFcr, 0x03);
  CHECK((port_in(port.uart, kLsr) & 0x11) == 0);
}

TEST_CASE("serial checkpoint: a break that was not read yet is read in the fork") {
  Port port;
  port_out(port.uart, kMcr, kMcrOn);
  port.uart.host_break();

  Port fork;
  load(fork.uart, saved(port.uart));

  CHECK(port_in(fork.uart, kLsr) == 0x71);
}

}  // namespace
}  // namespace kvitest
