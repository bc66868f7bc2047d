// Ports 0x60..0x64 of a PC: the keyboard controller, as far as resetting the machine needs it, and
// system control port B (0x61).
#pragma once

#include <cstdint>
#include <functional>
#include <mutex>
#include <span>

#include "native/bus/io_device.h"
#include "native/state/archive.h"

namespace kvitest {

inline constexpr std::uint64_t kI8042Ports = 5;

struct I8042State {
  static constexpr StateTag kTag{"i8042", 1};
  std::uint8_t system_control = 0;  // port 0x61, the bits that the guest owns
  template <typename Archive>
  void fields(Archive& archive) {
    archive(system_control);
  }
};

// There is no keyboard. The status reads as "output buffer full" for ever and "input buffer empty":
// a driver that flushes the controller gives up after a few reads and finds none, one that waits to
// send a reset need not wait. Port 0x61 shows timer 2 as expired, so that nobody waits for the
// timer that is not there, and names no NMI cause, so that an NMI we inject is not taken for a
// memory error, unless raise_io_check() asked for the cause at which Linux shows its registers.
class I8042 : public IoDevice {
 public:
  // reset: command 0xfe pulsed the processor's reset line. On the vCPU's thread.
  explicit I8042(std::function<void()> reset);
  void io_read(std::uint64_t offset, std::span<std::byte> data) override;
  void io_write(std::uint64_t offset, std::span<const std::byte> data) override;

  // The next `times` NMI handlers that ask find an I/O channel check, bit 6 of port 0x61; each
  // takes it back by bit 3, as the PC/AT's latch works. Any thread.
  void raise_io_check(unsigned times);

  void save(StateWriter& writer) const;
  void load(StateReader& reader);  // throws Error (EBADMSG)

 private:
  std::function<void()> reset_;
  mutable std::mutex mutex_;
  I8042State state_;
  unsigned io_checks_ = 0;  // the host's business: none is under way in a fork
};

}  // namespace kvitest
