#include "native/platform/serial.h"

#include <algorithm>
#include <utility>

namespace kvitest {
namespace {

// Register numbers and bits: National Semiconductor PC16550D data sheet, table 2.
constexpr std::uint64_t kData = 0;             // RBR, THR; divisor low
constexpr std::uint64_t kInterruptEnable = 1;  // IER; divisor high
constexpr std::uint64_t kInterruptId = 2;      // IIR, FCR
constexpr std::uint64_t kLineControl = 3;
constexpr std::uint64_t kModemControl = 4;
constexpr std::uint64_t kLineStatus = 5;
constexpr std::uint64_t kModemStatus = 6;
constexpr std::uint64_t kScratch = 7;

constexpr std::uint8_t kIerReceived = 1 << 0;
constexpr std::uint8_t kIerTransmitterEmpty = 1 << 1;
constexpr std::uint8_t kIerLineStatus = 1 << 2;
constexpr std::uint8_t kIerModemStatus = 1 << 3;
constexpr std::uint8_t kIerMask = 0x0f;

constexpr std::uint8_t kIirNone = 0x01;
constexpr std::uint8_t kIirModemStatus = 0x00;
constexpr std::uint8_t kIirTransmitterEmpty = 0x02;
constexpr std::uint8_t kIirReceived = 0x04;
constexpr std::uint8_t kIirLineStatus = 0x06;
constexpr std::uint8_t kIirTimeout = 0x0c;
constexpr std::uint8_t kIirFifoEnabled = 0xc0;
constexpr std::uint8_t kIirIdMask = 0x0f;

constexpr std::uint8_t kFcrEnable = 1 << 0;
constexpr std::uint8_t kFcrClearReceiver = 1 << 1;
constexpr std::uint8_t kFcrKept =
    0xc9;  // trigger level, DMA mode, enable; the clear bits clear themselves

constexpr std::uint8_t kLcrDivisorAccess = 1 << 7;

constexpr std::uint8_t kMcrDtr = 1 << 0;
constexpr std::uint8_t kMcrRts = 1 << 1;
constexpr std::uint8_t kMcrOut1 = 1 << 2;
constexpr std::uint8_t kMcrOut2 = 1 << 3;
constexpr std::uint8_t kMcrLoopback = 1 << 4;
constexpr std::uint8_t kMcrMask = 0x1f;

constexpr std::uint8_t kLsrDataReady = 1 << 0;
constexpr std::uint8_t kLsrOverrun = 1 << 1;
constexpr std::uint8_t kLsrBreak = 1 << 4;
constexpr std::uint8_t kLsrHoldingEmpty = 1 << 5;
constexpr std::uint8_t kLsrTransmitterEmpty = 1 << 6;

constexpr std::uint8_t kMsrCts = 1 << 4;
constexpr std::uint8_t kMsrDsr = 1 << 5;
constexpr std::uint8_t kMsrRing = 1 << 6;
constexpr std::uint8_t kMsrCarrier = 1 << 7;
constexpr std::uint8_t kMsrTrailingEdgeRing = 1 << 2;

constexpr std::size_t kFifoDepth = 16;
constexpr std::size_t kTriggerLevels[] = {1, 4, 8, 14};

}  // namespace

Serial::Serial(InterruptController* interrupts, std::uint32_t gsi, SerialSink sink)
    : interrupts_(interrupts), gsi_(gsi), sink_(std::move(sink)) {}

bool Serial::divisor_access() const {
  return (state_.line_control & kLcrDivisorAccess) != 0;
}
bool Serial::loopback() const {
  return (state_.modem_control & kMcrLoopback) != 0;
}
bool Serial::fifo_enabled() const {
  return (state_.fifo_control & kFcrEnable) != 0;
}
std::size_t Serial::fifo_depth() const {
  return fifo_enabled() ? kFifoDepth : 1;
}

// Registers are a byte each; a wider access reaches consecutive ones, as on the ISA bus.
void Serial::io_read(std::uint64_t offset, std::span<std::byte> data) {
  bool tell_host = false;
  std::size_t room = 0;
  {
    const std::lock_guard lock(mutex_);
    for (std::size_t i = 0; i < data.size(); ++i) {
      data[i] =
          static_cast<std::byte>(offset + i < kSerialPorts ? read_register(offset + i) : 0xff);
    }
    update_interrupt();
    room = kSerialInputLimit - state_.input.size();
    // Not for every byte: a waiting host is told when half of the queue is free.
    tell_host = host_waits_ && room >= kSerialInputLimit / 2;
    if (tell_host) host_waits_ = false;
  }
  if (tell_host && sink_.writable) sink_.writable(room);
}

void Serial::io_write(std::uint64_t offset, std::span<const std::byte> data) {
  for (std::size_t i = 0; i < data.size(); ++i) {
    const std::uint64_t reg = offset + i;
    if (reg >= kSerialPorts) return;
    bool transmit = false;
    {
      const std::lock_guard lock(mutex_);
      write_register(reg, std::to_integer<std::uint8_t>(data[i]));
      transmit = reg == kData && !divisor_access() && !loopback();
      update_interrupt();
    }
    if (transmit && sink_.transmit) sink_.transmit(data.subspan(i, 1));
  }
}

std::size_t Serial::host_write(std::span<const std::byte> data) {
  const std::lock_guard lock(mutex_);
  const std::size_t taken = std::min(data.size(), kSerialInputLimit - state_.input.size());
  state_.input.insert(state_.input.end(), data.begin(),
                      data.begin() + static_cast<std::ptrdiff_t>(taken));
  if (taken < data.size()) host_waits_ = true;
  fill_fifo();
  update_interrupt();
  return taken;
}

void Serial::host_break() {
  const std::lock_guard lock(mutex_);
  if (state_.fifo.size() >= fifo_depth()) {
    state_.fifo.pop_back();
    state_.overrun = true;
  }
  state_.fifo.push_front(std::byte{0});
  state_.break_received = true;
  update_interrupt();
}

std::uint8_t Serial::read_register(std::uint64_t offset) {
  switch (offset) {
    case kData:
      return divisor_access() ? static_cast<std::uint8_t>(state_.divisor) : take_received();
    case kInterruptEnable:
      return divisor_access() ? static_cast<std::uint8_t>(state_.divisor >> 8)
                              : state_.interrupt_enable;
    case kInterruptId: {
      const std::uint8_t id = interrupt_identification();
      // Reading IIR takes the transmitter interrupt back if it is the one reported.
      if ((id & kIirIdMask) == kIirTransmitterEmpty) state_.transmitter_interrupt = false;
      return id;
    }
    case kLineControl:
      return state_.line_control;
    case kModemControl:
      return state_.modem_control;
    case kLineStatus: {
      const std::uint8_t status = line_status();
      state_.overrun = false;
      state_.break_received = false;
      return status;
    }
    case kModemStatus: {
      const std::uint8_t status = modem_lines() | state_.modem_deltas;
      state_.modem_deltas = 0;
      return status;
    }
    default:
      return state_.scratch;
  }
}

void Serial::write_register(std::uint64_t offset, std::uint8_t value) {
  switch (offset) {
    case kData:
      if (divisor_access()) {
        state_.divisor = static_cast<std::uint16_t>((state_.divisor & 0xff00) | value);
      } else {
        if (loopback()) transmit_locally(value);
        // The transmitter is infinitely fast: holding register and shift register are empty again.
        state_.transmitter_interrupt = true;
      }
      break;
    case kInterruptEnable:
      if (divisor_access()) {
        state_.divisor = static_cast<std::uint16_t>((state_.divisor & 0x00ff) | value << 8);
      } else {
        const bool newly_enabled = (value & ~state_.interrupt_enable & kIerTransmitterEmpty) != 0;
        state_.interrupt_enable = value & kIerMask;
        // Enabling it with an empty transmitter raises it; drivers begin to send that way.
        if (newly_enabled) state_.transmitter_interrupt = true;
      }
      break;
    case kInterruptId:
      write_fifo_control(value);
      break;
    case kLineControl:
      state_.line_control = value;
      break;
    case kModemControl:
      write_modem_control(value);
      break;
    case kScratch:
      state_.scratch = value;
      break;
    case kLineStatus:
    case kModemStatus:
    default:
      break;
  }
}

void Serial::write_fifo_control(std::uint8_t value) {
  const bool toggled = ((value ^ state_.fifo_control) & kFcrEnable) != 0;
  if (toggled || (value & kFcrClearReceiver) != 0) {
    state_.fifo.clear();
    state_.break_received = false;
  }
  // Without the enable bit the other bits are not programmed.
  state_.fifo_control = (value & kFcrEnable) != 0 ? value & kFcrKept : 0;
  fill_fifo();
}

void Serial::write_modem_control(std::uint8_t value) {
  const std::uint8_t before = modem_lines();
  state_.modem_control = value & kMcrMask;
  const std::uint8_t after = modem_lines();
  const std::uint8_t changed = before ^ after;
  state_.modem_deltas |= (changed & (kMsrCts | kMsrDsr | kMsrCarrier)) >> 4;
  if ((before & ~after & kMsrRing) != 0) state_.modem_deltas |= kMsrTrailingEdgeRing;
  fill_fifo();
}

std::uint8_t Serial::take_received() {
  if (state_.fifo.empty()) return 0;
  const auto value = std::to_integer<std::uint8_t>(state_.fifo.front());
  state_.fifo.pop_front();
  state_.break_received = false;
  fill_fifo();
  return value;
}

void Serial::transmit_locally(std::uint8_t value) {
  if (state_.fifo.size() < fifo_depth()) {
    state_.fifo.push_back(static_cast<std::byte>(value));
  } else {
    state_.overrun = true;
  }
}

void Serial::fill_fifo() {
  // In loopback the receiver is cut off from the line.
  const bool ready = (state_.modem_control & kMcrRts) != 0 && !loopback();
  while (ready && !state_.input.empty() && state_.fifo.size() < fifo_depth()) {
    state_.fifo.push_back(state_.input.front());
    state_.input.pop_front();
  }
}

std::uint8_t Serial::line_status() const {
  std::uint8_t status = kLsrHoldingEmpty | kLsrTransmitterEmpty;
  if (!state_.fifo.empty()) status |= kLsrDataReady;
  if (state_.overrun) status |= kLsrOverrun;
  if (state_.break_received) status |= kLsrBreak;
  return status;
}

std::uint8_t Serial::modem_lines() const {
  // The host is always there and ready; in loopback the chip's own outputs are its inputs.
  if (!loopback()) return kMsrCts | kMsrDsr | kMsrCarrier;
  std::uint8_t lines = 0;
  if ((state_.modem_control & kMcrRts) != 0) lines |= kMsrCts;
  if ((state_.modem_control & kMcrDtr) != 0) lines |= kMsrDsr;
  if ((state_.modem_control & kMcrOut1) != 0) lines |= kMsrRing;
  if ((state_.modem_control & kMcrOut2) != 0) lines |= kMsrCarrier;
  return lines;
}

// The highest pending interrupt in the chip's order of priority.
std::uint8_t Serial::interrupt_identification() const {
  const std::uint8_t fifo_bits = fifo_enabled() ? kIirFifoEnabled : 0;
  if ((state_.interrupt_enable & kIerLineStatus) != 0 && (state_.overrun || state_.break_received))
    return kIirLineStatus | fifo_bits;
  if ((state_.interrupt_enable & kIerReceived) != 0 && !state_.fifo.empty()) {
    const std::size_t trigger = fifo_enabled() ? kTriggerLevels[state_.fifo_control >> 6] : 1;
    // Below the trigger level the character timeout tells; no more bytes are on their way, so at
    // once.
    return (state_.fifo.size() >= trigger ? kIirReceived : kIirTimeout) | fifo_bits;
  }
  if ((state_.interrupt_enable & kIerTransmitterEmpty) != 0 && state_.transmitter_interrupt) {
    return kIirTransmitterEmpty | fifo_bits;
  }
  if ((state_.interrupt_enable & kIerModemStatus) != 0 && state_.modem_deltas != 0) {
    return kIirModemStatus | fifo_bits;
  }
  return kIirNone | fifo_bits;
}

bool Serial::interrupt_level() const {
  // On a PC, OUT2 connects the chip's interrupt pin to the bus, and loopback forces OUT2 inactive.
  const bool connected = (state_.modem_control & kMcrOut2) != 0 && !loopback();
  return connected && (interrupt_identification() & kIirNone) == 0;
}

void Serial::update_interrupt() {
  const bool level = interrupt_level();
  if (level == line_level_) return;
  line_level_ = level;
  // Under the lock, so that two vCPUs cannot swap the order of a rise and a fall; KVM_IRQ_LINE
  // never waits for us.
  if (interrupts_ != nullptr) interrupts_->set_irq_line(gsi_, level);
}

void Serial::save(StateWriter& writer) const {
  const std::lock_guard lock(mutex_);
  writer.save(state_);
}

void Serial::load(StateReader& reader) {
  auto state = reader.load<SerialState>();
  if (state.input.size() > kSerialInputLimit || state.fifo.size() > kFifoDepth) {
    reader.fail("more bytes wait than there is room for");
  }
  if ((state.interrupt_enable & ~kIerMask) != 0 || (state.fifo_control & ~kFcrKept) != 0 ||
      (state.modem_control & ~kMcrMask) != 0) {
    reader.fail("a register that cannot be");
  }
  if (state.break_received && state.fifo.empty()) reader.fail("a break without its byte");
  const std::lock_guard lock(mutex_);
  state_ = std::move(state);
}

void Serial::resume() {
  const std::lock_guard lock(mutex_);
  // Low too: an interrupt controller that is used again remembers the level from before.
  line_level_ = interrupt_level();
  if (interrupts_ != nullptr) interrupts_->set_irq_line(gsi_, line_level_);
}

}  // namespace kvitest
