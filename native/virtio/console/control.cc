// The control queues of a multiport console (virtio 1.3, 5.3.6.2).
#include <algorithm>
#include <array>
#include <bit>

#include "native/bus/little_endian.h"
#include "native/virtio/console/device.h"

namespace kvitest {
namespace {

// struct virtio_console_control: le32 id, le16 event, le16 value.
constexpr std::size_t kHeader = 8;

constexpr std::uint16_t kDeviceReady = 0;
constexpr std::uint16_t kPortAdd = 1;
constexpr std::uint16_t kPortReady = 3;
constexpr std::uint16_t kConsolePort = 4;
constexpr std::uint16_t kResize = 5;
constexpr std::uint16_t kPortOpen = 6;
constexpr std::uint16_t kPortName = 7;

std::uint16_t event_of(ConsoleMessage message) {
  switch (message) {
    case kMessageAdd:
      return kPortAdd;
    case kMessageConsole:
      return kConsolePort;
    case kMessageResize:
      return kResize;
    case kMessageName:
      return kPortName;
    case kMessageOpen:
      return kPortOpen;
  }
  return kPortAdd;
}

void write_number(DescriptorChain& chain, std::uint64_t value, std::size_t width) {
  std::array<std::byte, 8> bytes{};
  write_le(bytes, value);
  chain.write(std::span(bytes).first(width));
}

}  // namespace

void ConsoleDevice::pump_control_transmit() {
  VirtQueue* control = queue(kControlTransmit);
  if (control == nullptr || !state_.multiport) return;
  std::size_t left = request_budget(*control);
  for (; left != 0; --left) {
    if (outbox_.full()) {
      throttled_ = true;
      break;
    }
    auto chain = control->pop();
    if (!chain) break;
    std::array<std::byte, kHeader> raw{};
    const bool whole = chain->read(raw) == kHeader;
    control->push_used(*chain, 0);
    const std::span<const std::byte> bytes(raw);
    // Shorter ones carry no event.
    if (whole) {
      handle({static_cast<std::uint32_t>(read_le(bytes.subspan(0, 4))),
              static_cast<std::uint16_t>(read_le(bytes.subspan(4, 2))),
              static_cast<std::uint16_t>(read_le(bytes.subspan(6, 2)))});
    }
  }
  if (left == 0 || throttled_) control->request_notification();
  interrupt(kControlTransmit);
  pump_control_receive();
}

void ConsoleDevice::handle(const ControlMessage& message) {
  if (message.event == kDeviceReady) {
    if (message.value != 1) return;
    for (ConsolePortState& port : state_.ports) port.messages |= kMessageAdd;
    return;
  }
  if (message.port >= state_.ports.size()) return;
  ConsolePortState& port = state_.ports[message.port];
  if (message.event == kPortReady && message.value == 1) {
    port.ready = true;
    port.messages |= kMessageName | kMessageOpen;
    if (port.spec.console) port.messages |= kMessageConsole;
    if (port.size) port.messages |= kMessageResize;
  }
  if (message.event == kPortOpen) guest_opened(message.port, message.value == 1);
}

void ConsoleDevice::guest_opened(std::size_t index, bool open) {
  ConsolePortState& port = state_.ports[index];
  if (port.guest_open == open) return;
  port.guest_open = open;
  pump_transmit(index);
  VirtQueue* transmit = queue(transmit_queue(index));
  const std::uint64_t waiting = transmit == nullptr ? 0 : transmit->available();
  const std::uint64_t taken = transmit_[index].current ? 1 : 0;
  port.changes.push_back({port.transmitted + taken + waiting, open});
  if (port.changes.size() > kMaxChanges) port.changes.resize(kMaxChanges - 1);
  report_changes(port);
  pump_receive(index);
}

void ConsoleDevice::pump_control_receive() {
  VirtQueue* control = queue(kControlReceive);
  if (control == nullptr || !state_.multiport) return;
  for (std::size_t index = 0; index < state_.ports.size(); ++index) {
    std::uint8_t& messages = state_.ports[index].messages;
    while (messages != 0) {
      auto chain = control->pop();
      if (!chain) break;
      const auto next = static_cast<std::uint8_t>(1u << std::countr_zero(messages));
      messages &= static_cast<std::uint8_t>(~next);
      send(index, static_cast<ConsoleMessage>(next), *chain);
      control->push_used(*chain, chain->written());
    }
  }
  interrupt(kControlReceive);
}

void ConsoleDevice::send(std::size_t index, ConsoleMessage message, DescriptorChain& chain) const {
  const ConsolePortState& port = state_.ports[index];
  const std::uint16_t value = message == kMessageOpen ? (port.host_open ? 1 : 0) : 1;
  write_number(chain, index, 4);
  write_number(chain, event_of(message), 2);
  write_number(chain, value, 2);
  if (message == kMessageName) chain.write(std::as_bytes(std::span(port.spec.name)));
  if (message == kMessageResize && port.size) {
    write_number(chain, port.size->columns, 2);
    write_number(chain, port.size->rows, 2);
  }
}

}  // namespace kvitest
