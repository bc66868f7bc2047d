// virtio-console with multiport (virtio 1.3, 5.3).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "native/virtio/device.h"

namespace kvitest {

struct ConsolePortSpec {
  std::string name;
  bool console = false;  // an hvc console port
};

struct ConsoleSpec {
  std::vector<ConsolePortSpec> ports;
  std::vector<std::string> without_features{};
};

// Where a console device delivers what its guest does. Called with no device lock held, on vCPU
// threads or the device loop; must not block.
class ConsoleSink {
 public:
  virtual ~ConsoleSink() = default;
  virtual void port_data(const std::string& port, std::span<const std::byte> data) = 0;
  virtual void port_open(const std::string& port, bool open) = 0;
  // The guest took queued host bytes; room says how many more host_write() accepts now.
  virtual void port_writable(const std::string& port, std::size_t room) = 0;
};

// Bytes in flight a port may have towards the host before the device stops taking buffers, until
// consumed() says that they arrived; and bytes that may wait for the guest.
inline constexpr std::size_t kPortWindow = 256 * 1024;

// A Linux driver's transmit ring holds 128 requests of 32 KiB.
inline constexpr std::size_t kDrainBytes = 4 * 1024 * 1024;

class Console : public VirtioDevice {
 public:
  virtual bool has_port(const std::string& port) const = 0;
  // Queues bytes for the guest; returns how many were accepted (0 when full).
  virtual std::size_t host_write(const std::string& port, std::span<const std::byte> data) = 0;
  virtual void host_open(const std::string& port, bool open) = 0;
  virtual void consumed(const std::string& port, std::size_t bytes) = 0;
  // The guest has stopped for good: hands over what its drivers had written and the window held
  // back, at most kDrainBytes a port. Call it before the end of the machine is reported, so that
  // nothing is lost.
  virtual void drain() = 0;
  virtual void resize(const std::string& port, std::uint16_t columns, std::uint16_t rows) = 0;
};

std::unique_ptr<Console> make_console(const ConsoleSpec& spec, ConsoleSink& sink);

}  // namespace kvitest
