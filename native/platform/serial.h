// A 16550A UART: COM1 of the machine, the kernel log's channel.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <span>

#include "native/bus/interrupts.h"
#include "native/bus/io_device.h"
#include "native/state/archive.h"

namespace kvitest {

inline constexpr std::uint64_t kSerialPorts = 8;
// Bytes from the host that may wait in front of the UART.
inline constexpr std::size_t kSerialInputLimit = 64 * 1024;

struct SerialSink {
  // What the guest transmitted. Called on the vCPU's thread with no lock held and may block it:
  // that is how a slow reader slows the guest down instead of losing its log.
  std::function<void(std::span<const std::byte>)> transmit;
  // Input has room again after host_write() took less than it was given. May be empty.
  std::function<void(std::size_t room)> writable;
};

struct SerialState {
  static constexpr StateTag kTag{"serial", 2};
  std::deque<std::byte> input;         // from the host, not yet on the line
  std::deque<std::byte> fifo;          // received
  bool transmitter_interrupt = false;  // THRE became true and was not yet reported
  bool overrun = false;
  bool break_received = false;  // its NUL is the first byte of the FIFO
  std::uint8_t interrupt_enable = 0;
  std::uint8_t fifo_control = 0;
  std::uint8_t line_control = 0;
  std::uint8_t modem_control = 0;
  std::uint8_t modem_deltas = 0;
  std::uint8_t scratch = 0;
  std::uint16_t divisor = 12;  // 9600 baud
  template <typename Archive>
  void fields(Archive& archive) {
    archive(input, fifo, transmitter_interrupt, overrun, break_received, interrupt_enable,
            fifo_control, line_control, modem_control, modem_deltas, scratch, divisor);
  }
};

// The host is a peer with hardware flow control: bytes go into the receive FIFO only while the
// guest asserts RTS, so what is typed before a driver opens the port is not lost to the driver's
// FIFO reset.
class Serial : public IoDevice {
 public:
  // interrupts may be null: a guest without irqchip polls. It must outlive this.
  Serial(InterruptController* interrupts, std::uint32_t gsi, SerialSink sink);

  void io_read(std::uint64_t offset, std::span<std::byte> data) override;
  void io_write(std::uint64_t offset, std::span<const std::byte> data) override;

  // Queues bytes for the guest; returns how many were taken, at most the room left. Any thread.
  std::size_t host_write(std::span<const std::byte> data);
  // The line is held at zero for longer than a character: the guest reads a NUL and "break" in LSR.
  // It overtakes what waits, as its sender wants to be heard now. Any thread.
  void host_break();

  // For checkpoints; load() throws Error (EBADMSG) and leaves the interrupt line alone, resume()
  // drives it.
  void save(StateWriter& writer) const;
  void load(StateReader& reader);
  void resume();

 private:
  std::uint8_t read_register(std::uint64_t offset);
  void write_register(std::uint64_t offset, std::uint8_t value);
  void write_fifo_control(std::uint8_t value);
  void write_modem_control(std::uint8_t value);
  std::uint8_t take_received();
  void transmit_locally(std::uint8_t value);
  void fill_fifo();
  std::uint8_t line_status() const;
  std::uint8_t modem_lines() const;
  std::uint8_t interrupt_identification() const;
  bool divisor_access() const;
  bool loopback() const;
  bool fifo_enabled() const;
  std::size_t fifo_depth() const;
  bool interrupt_level() const;
  void update_interrupt();

  InterruptController* interrupts_;
  std::uint32_t gsi_;
  SerialSink sink_;
  mutable std::mutex mutex_;
  SerialState state_;
  bool host_waits_ = false;  // the host's business: the host of a fork has not asked for anything
  bool line_level_ = false;  // follows from state_
};

}  // namespace kvitest
