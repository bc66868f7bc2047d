#include "native/virtio/console/console.h"

#include <algorithm>
#include <array>
#include <set>
#include <utility>

#include "native/error.h"
#include "native/little_endian.h"
#include "native/virtio/config_image.h"
#include "native/virtio/console/device.h"

namespace kvitest {
namespace {

constexpr std::uint32_t kTypeConsole = 3;
constexpr std::uint64_t kFeatureSize = 1 << 0;
constexpr std::uint64_t kFeatureEmergencyWrite = 1 << 2;
constexpr std::uint16_t kQueueSize = 128;
constexpr std::size_t kMaxPorts = 31;
constexpr std::size_t kMaxName = 255;

// struct virtio_console_config (virtio 1.3, 5.3.4).
constexpr std::size_t kConfigSize = 12;
constexpr std::uint64_t kConfigEmergencyWrite = 8;

// Data is copied once, to where it waits for the sink, in pieces of at most this.
constexpr std::size_t kPiece = 32 * 1024;
// How often one call looks again at rings it had to leave because the sink was behind.
constexpr int kMaxRounds = 16;

ConsoleState initial_state(const ConsoleSpec& spec) {
  std::set<std::string> names;
  for (const ConsolePortSpec& port : spec.ports) {
    if (port.name.empty() || port.name.size() > kMaxName || !names.insert(port.name).second) {
      throw Error("create virtio-console", EINVAL,
                  "port name \"" + port.name.substr(0, kMaxName) +
                      "\" is empty, longer than 255 bytes, or used twice");
    }
  }
  if (spec.ports.empty() || spec.ports.size() > kMaxPorts) {
    throw Error("create virtio-console", EINVAL,
                std::to_string(spec.ports.size()) + " ports is not 1..31");
  }
  ConsoleState state;
  for (const ConsolePortSpec& port : spec.ports) state.ports.emplace_back(port);
  return state;
}

}  // namespace

ConsoleDevice::ConsoleDevice(const ConsoleSpec& spec, ConsoleSink& sink)
    : sink_(sink), state_(initial_state(spec)), transmit_(spec.ports.size()) {}

std::uint32_t ConsoleDevice::type() const {
  return kTypeConsole;
}

std::uint64_t ConsoleDevice::features() const {
  return kFeatureSize | kFeatureMultiport | kFeatureEmergencyWrite;
}

std::span<const FeatureName> ConsoleDevice::feature_names() const {
  static constexpr std::array<FeatureName, 3> kNames{{{"size", kFeatureSize},
                                                      {"multiport", kFeatureMultiport},
                                                      {"emerg_write", kFeatureEmergencyWrite}}};
  return kNames;
}

std::vector<std::uint16_t> ConsoleDevice::queue_sizes() const {
  return std::vector<std::uint16_t>(2 * state_.ports.size() + 2, kQueueSize);
}

void ConsoleDevice::read_config(std::uint64_t offset, std::span<std::byte> data) {
  std::array<std::byte, kConfigSize> config{};
  {
    const std::lock_guard lock(mutex_);
    write_le(std::span(config).subspan(0, 2), state_.size.columns);
    write_le(std::span(config).subspan(2, 2), state_.size.rows);
    write_le(std::span(config).subspan(4, 4), state_.ports.size());
  }
  read_image(config, offset, data);
}

void ConsoleDevice::write_config(std::uint64_t offset, std::span<const std::byte> data) {
  if (offset != kConfigEmergencyWrite) return;
  std::unique_lock lock(mutex_);
  ConsolePortState& port = state_.ports[0];
  // Works before the driver does, so nobody else holds it back (5.3.4.1): a full window drops it.
  if (!port.host_open || port.unconsumed == port.window || outbox_.full()) return;
  port.unconsumed += 1;
  std::ranges::copy(data.first(1), outbox_.data(port.spec.name, 1).begin());
  deliver(lock);
}

std::uint8_t ConsoleDevice::config_generation() {
  const std::lock_guard lock(mutex_);
  return state_.config_generation;
}

void ConsoleDevice::activate(std::uint64_t features, std::span<VirtQueue* const> queues,
                             VirtioInterrupts& interrupts) {
  std::unique_lock lock(mutex_);
  queues_.assign(queues.begin(), queues.end());
  interrupts_ = &interrupts;
  state_.multiport = (features & kFeatureMultiport) != 0;
  // Without multiport there is one port, and nobody says when it opens.
  if (!state_.multiport) guest_opened(0, true);
  pump_everything();
  deliver(lock);
}

void ConsoleDevice::notify(std::uint16_t queue) {
  std::unique_lock lock(mutex_);
  if (queue >= queues_.size()) return;
  const std::size_t port = port_of_queue(queue);
  if (queue == kControlReceive) {
    pump_control_receive();
  } else if (queue == kControlTransmit) {
    pump_control_transmit();
  } else if (queue % 2 == 0) {
    pump_receive(port);
  } else {
    pump_transmit(port);
  }
  deliver(lock);
}

void ConsoleDevice::reset() {
  std::unique_lock lock(mutex_);
  for (const ConsolePortState& port : state_.ports) {
    // Data the driver had not handed over goes with its rings; what it said about the port counts.
    for (const auto& change : port.changes) outbox_.open(port.spec.name, change.open);
    if (port.guest_open) outbox_.open(port.spec.name, false);
  }
  forget_driver();
  deliver(lock);
}

void ConsoleDevice::reset_queue(std::uint16_t index) {
  std::unique_lock lock(mutex_);
  queues_[index] = nullptr;
  const std::size_t port = port_of_queue(index);
  if (port >= transmit_.size() || index != transmit_queue(port)) return;
  // What the driver had not handed over goes with its ring; what it said about the port counts.
  transmit_[port] = {};
  ConsolePortState& state = state_.ports[port];
  for (auto& change : state.changes) change.after = state.transmitted;
  report_changes(state);
  deliver(lock);
}

void ConsoleDevice::enable_queue(std::uint16_t index, VirtQueue& queue) {
  std::unique_lock lock(mutex_);
  queues_[index] = &queue;
  pump_everything();
  deliver(lock);
}

void ConsoleDevice::detach() {
  const std::lock_guard lock(mutex_);
  outbox_ = {};
  forget_driver();
}

void ConsoleDevice::forget_driver() {
  queues_.clear();
  interrupts_ = nullptr;
  throttled_ = false;
  for (Transmit& transmit : transmit_) transmit = {};
  for (ConsolePortState& port : state_.ports) {
    port.changes.clear();
    port.guest_open = false;
    port.ready = false;
    port.messages = 0;
    port.transmitted = 0;
  }
}

bool ConsoleDevice::has_port(const std::string& port) const {
  return std::ranges::any_of(state_.ports, [&](const auto& p) { return p.spec.name == port; });
}

std::size_t ConsoleDevice::index_of(const std::string& port, const char* operation) const {
  const auto found =
      std::ranges::find_if(state_.ports, [&](const auto& p) { return p.spec.name == port; });
  if (found == state_.ports.end()) {
    throw Error(operation, ENOENT, "virtio-console has no port \"" + port + "\"");
  }
  return static_cast<std::size_t>(found - state_.ports.begin());
}

std::size_t ConsoleDevice::host_write(const std::string& port, std::span<const std::byte> data) {
  const std::size_t index = index_of(port, "write to console port");
  std::unique_lock lock(mutex_);
  const std::size_t accepted = state_.ports[index].to_guest.push(data);
  pump_receive(index);
  deliver(lock);
  return accepted;
}

void ConsoleDevice::host_open(const std::string& port, bool open) {
  const std::size_t index = index_of(port, "open console port");
  std::unique_lock lock(mutex_);
  ConsolePortState& state = state_.ports[index];
  if (state.host_open == open) return;
  state.host_open = open;
  if (state.ready) state.messages |= kMessageOpen;
  pump_control_receive();
  pump_transmit(index);
  deliver(lock);
}

void ConsoleDevice::consumed(const std::string& port, std::size_t bytes) {
  const std::size_t index = index_of(port, "acknowledge console port");
  std::unique_lock lock(mutex_);
  ConsolePortState& state = state_.ports[index];
  state.unconsumed -= std::min(bytes, state.unconsumed);
  pump_transmit(index);
  deliver(lock);
}

void ConsoleDevice::drain() {
  std::unique_lock lock(mutex_);
  for (ConsolePortState& port : state_.ports) port.window = port.unconsumed + kDrainBytes;
  pump_everything();
  deliver(lock);
}

void ConsoleDevice::resize(const std::string& port, std::uint16_t columns, std::uint16_t rows) {
  const std::size_t index = index_of(port, "resize console port");
  std::unique_lock lock(mutex_);
  ConsolePortState& state = state_.ports[index];
  state.size = ConsoleSize{columns, rows};
  if (state.ready) state.messages |= kMessageResize;
  if (index == 0) {
    state_.size = *state.size;
    ++state_.config_generation;
    if (interrupts_ != nullptr) interrupts_->config_interrupt();
  }
  pump_control_receive();
  deliver(lock);
}

VirtQueue* ConsoleDevice::queue(std::size_t index) const {
  return index < queues_.size() ? queues_[index] : nullptr;
}

bool ConsoleDevice::port_exists(std::size_t port) const {
  return port < state_.ports.size() && (port == 0 || state_.multiport);
}

void ConsoleDevice::interrupt(std::size_t index) {
  if (queues_[index]->needs_interrupt()) {
    interrupts_->queue_interrupt(static_cast<std::uint16_t>(index));
  }
}

void ConsoleDevice::pump_everything() {
  throttled_ = false;
  pump_control_transmit();
  pump_control_receive();
  for (std::size_t port = 0; port < state_.ports.size(); ++port) {
    pump_transmit(port);
    pump_receive(port);
  }
}

void ConsoleDevice::pump_receive(std::size_t port) {
  VirtQueue* receive = queue(receive_queue(port));
  ConsolePortState& state = state_.ports[port];
  // A port that nobody in the guest has opened would throw the bytes away.
  if (receive == nullptr || !port_exists(port) || !state.guest_open) return;
  std::size_t taken = 0;
  std::size_t left = request_budget(*receive);
  for (; left != 0 && !state.to_guest.empty(); --left) {
    auto chain = receive->pop();
    if (!chain) break;
    while (!state.to_guest.empty()) {
      const std::size_t written = chain->write(state.to_guest.front());
      if (written == 0) break;
      state.to_guest.drop(written);
      taken += written;
    }
    receive->push_used(*chain, chain->written());
  }
  if (left == 0) receive->request_notification();
  if (taken != 0) outbox_.writable(state.spec.name, state.to_guest.room());
  interrupt(receive_queue(port));
}

bool ConsoleDevice::transmit_current(std::size_t port) {
  ConsolePortState& state = state_.ports[port];
  DescriptorChain& chain = *transmit_[port].current;
  // Nobody listens: the bytes are dropped, as those of a serial line without a terminal.
  if (!state.host_open) chain.skip(chain.readable());
  while (chain.readable() != 0) {
    const std::size_t room = state.window - state.unconsumed;
    if (room == 0) return false;
    const auto piece =
        static_cast<std::size_t>(std::min<std::uint64_t>({chain.readable(), room, kPiece}));
    const std::span<std::byte> data = outbox_.data(state.spec.name, piece);
    // What was RAM when the chain was popped is RAM.
    std::ranges::fill(data.subspan(chain.read(data)), std::byte{0});
    state.unconsumed += piece;
  }
  return true;
}

void ConsoleDevice::pump_transmit(std::size_t port) {
  VirtQueue* transmit = queue(transmit_queue(port));
  if (transmit == nullptr || !port_exists(port)) return;
  ConsolePortState& state = state_.ports[port];
  std::size_t left = request_budget(*transmit);
  for (; left != 0; --left) {
    if (outbox_.full()) {
      throttled_ = true;
      break;
    }
    // While the host is behind, requests stay in the ring and the guest's writer waits.
    const bool window_closed = state.host_open && state.unconsumed == state.window;
    auto& current = transmit_[port].current;
    if (!current && window_closed) break;
    if (!current) current = transmit->pop();
    if (!current || !transmit_current(port)) break;
    transmit->push_used(*current, 0);
    current.reset();
    ++state.transmitted;
    report_changes(state);
  }
  if (left == 0 || throttled_) transmit->request_notification();
  interrupt(transmit_queue(port));
}

void ConsoleDevice::report_changes(ConsolePortState& port) {
  while (!port.changes.empty() && port.changes.front().after <= port.transmitted) {
    outbox_.open(port.spec.name, port.changes.front().open);
    port.changes.pop_front();
  }
}

void ConsoleDevice::deliver(std::unique_lock<std::mutex>& lock) {
  if (delivering_) return;
  for (int round = 0; !outbox_.empty(); ++round) {
    const ConsoleOutbox due = std::exchange(outbox_, {});
    delivering_ = true;
    lock.unlock();
    due.deliver(sink_);
    lock.lock();
    delivering_ = false;
    if (throttled_ && round < kMaxRounds) pump_everything();
  }
}

std::unique_ptr<Console> make_console(const ConsoleSpec& spec, ConsoleSink& sink) {
  return std::make_unique<ConsoleDevice>(spec, sink);
}

}  // namespace kvitest
