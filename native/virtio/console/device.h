// The console device itself; others use console.h.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "native/virtio/console/console.h"
#include "native/virtio/console/outbox.h"
#include "native/virtio/console/state.h"
#include "native/virtio/queue.h"

namespace kvitest {

inline constexpr std::uint64_t kFeatureMultiport = 1 << 1;  // VIRTIO_CONSOLE_F_MULTIPORT

// Queue numbers (virtio 1.3, 5.3.2): port 0 has 0 and 1, control 2 and 3, port n 2n+2 and 2n+3.
inline constexpr std::size_t kControlReceive = 2;
inline constexpr std::size_t kControlTransmit = 3;
constexpr std::size_t receive_queue(std::size_t port) {
  return port == 0 ? 0 : 2 * port + 2;
}
constexpr std::size_t transmit_queue(std::size_t port) {
  return receive_queue(port) + 1;
}
constexpr std::size_t port_of_queue(std::size_t queue) {
  return queue < 2 ? 0 : queue / 2 - 1;
}

// All work is done on the thread that brings it: the vCPU that rang a doorbell, or the host's
// thread. The sink is called after the device lock is dropped, by one thread at a time, so that
// order holds.
class ConsoleDevice : public Console {
 public:
  ConsoleDevice(const ConsoleSpec& spec, ConsoleSink& sink);

  std::uint32_t type() const override;
  std::uint64_t features() const override;
  std::span<const FeatureName> feature_names() const override;
  bool in_order() const override { return true; }
  bool resets_queues() const override { return true; }
  std::vector<std::uint16_t> queue_sizes() const override;
  void read_config(std::uint64_t offset, std::span<std::byte> data) override;
  void write_config(std::uint64_t offset, std::span<const std::byte> data) override;
  std::uint8_t config_generation() override;
  void activate(std::uint64_t features, std::span<VirtQueue* const> queues,
                VirtioInterrupts& interrupts) override;
  void notify(std::uint16_t queue) override;
  void reset() override;
  void reset_queue(std::uint16_t index) override;
  void enable_queue(std::uint16_t index, VirtQueue& queue) override;
  void detach() override;
  void save(StateWriter& writer) const override;
  void load(StateReader& reader, const VirtioActivation* active) override;
  void resume() override;

  bool has_port(const std::string& port) const override;
  std::size_t host_write(const std::string& port, std::span<const std::byte> data) override;
  void host_open(const std::string& port, bool open) override;
  void consumed(const std::string& port, std::size_t bytes) override;
  void drain() override;
  void resize(const std::string& port, std::uint16_t columns, std::uint16_t rows) override;

 private:
  struct ControlMessage {
    std::uint32_t port;
    std::uint16_t event;
    std::uint16_t value;
  };
  // What lives only between activate() and reset(), one per port.
  struct Transmit {
    std::optional<DescriptorChain> current;  // taken from the ring, not yet read to its end
    std::optional<ChainState> saved;         // between load() and resume(): what `current` was
  };

  std::size_t index_of(const std::string& port, const char* operation) const;
  VirtQueue* queue(std::size_t index) const;
  bool port_exists(std::size_t port) const;
  void interrupt(std::size_t index);
  void forget_driver();

  // console.cc; all of these with mutex_ held.
  void pump_everything();
  void pump_receive(std::size_t port);
  void pump_transmit(std::size_t port);
  bool transmit_current(std::size_t port);
  void report_changes(ConsolePortState& port);

  // checkpoint.cc
  void check(const ConsoleState& state, const VirtioActivation* active,
             const StateReader& reader) const;
  void check(const ConsoleRequests& requests, const VirtioActivation* active,
             const StateReader& reader) const;

  // control.cc; with mutex_ held.
  void pump_control_transmit();
  void pump_control_receive();
  void handle(const ControlMessage& message);
  void guest_opened(std::size_t port, bool open);
  void send(std::size_t port, ConsoleMessage message, DescriptorChain& chain) const;

  // Calls the sink with what has gathered; drops the lock meanwhile.
  void deliver(std::unique_lock<std::mutex>& lock);

  ConsoleSink& sink_;
  mutable std::mutex mutex_;
  ConsoleState state_;
  std::vector<VirtQueue*> queues_;  // empty while not active
  std::vector<Transmit> transmit_;
  VirtioInterrupts* interrupts_ = nullptr;
  ConsoleOutbox outbox_;
  bool delivering_ = false;  // some thread is in deliver(): it takes what others add
  bool throttled_ = false;   // a pump stopped because outbox_ was full
};

}  // namespace kvitest
