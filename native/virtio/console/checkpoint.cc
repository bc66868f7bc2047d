// A console in a checkpoint.
#include <algorithm>
#include <utility>

#include "native/error.h"
#include "native/virtio/console/device.h"

namespace kvitest {

void ConsoleDevice::save(StateWriter& writer) const {
  const std::lock_guard lock(mutex_);
  // A thread that adds an event delivers it before it leaves the device. What the owner of this
  // guest has been told is no part of a checkpoint.
  if (delivering_ || !outbox_.empty()) {
    throw Error("save virtio-console", EBUSY, "a thread is still at work in the device");
  }
  writer.save(state_);
  ConsoleRequests requests;
  for (const Transmit& transmit : transmit_) {
    requests.ports.push_back(transmit.current ? std::optional(transmit.current->state())
                                              : transmit.saved);
  }
  writer.save(requests);
}

void ConsoleDevice::check(const ConsoleState& state, const VirtioActivation* active,
                          const StateReader& reader) const {
  const auto same = [](const ConsolePortState& a, const ConsolePortState& b) {
    return a.spec.name == b.spec.name && a.spec.console == b.spec.console;
  };
  if (!std::ranges::equal(state.ports, state_.ports, same)) {
    reader.fail("other ports than this console's");
  }
  if (active != nullptr && state.multiport != ((active->features & kFeatureMultiport) != 0)) {
    reader.fail("the multiport feature is not what was negotiated");
  }
  for (const ConsolePortState& port : state.ports) {
    if ((port.messages & ~kAllMessages) != 0) reader.fail("a control message of no known kind");
    if (port.changes.size() > kMaxChanges) reader.fail("more opens and closes than are kept");
    bool open = port.reported_open();
    for (const auto& change : port.changes) {
      if (change.open == open) reader.fail("a port that opens or closes twice");
      open = change.open;
    }
    const bool driver_known =
        port.ready || port.guest_open || port.messages != 0 || !port.changes.empty();
    if (active == nullptr && driver_known) reader.fail("a port in use without a driver");
  }
}

void ConsoleDevice::check(const ConsoleRequests& requests, const VirtioActivation* active,
                          const StateReader& reader) const {
  if (requests.ports.size() != state_.ports.size()) {
    reader.fail("other ports than this console's");
  }
  for (std::size_t port = 0; port < requests.ports.size(); ++port) {
    const std::size_t queue = transmit_queue(port);
    const bool in_use = active != nullptr && active->queues[queue] != nullptr;
    if (requests.ports[port] && !in_use) reader.fail("a request of a queue that is not in use");
  }
}

void ConsoleDevice::load(StateReader& reader, const VirtioActivation* active) {
  ConsoleState state = reader.load<ConsoleState>();
  check(state, active, reader);
  const auto requests = reader.load<ConsoleRequests>();
  check(requests, active, reader);

  std::unique_lock lock(mutex_);
  state_ = std::move(state);
  if (active != nullptr) {
    queues_.assign(active->queues.begin(), active->queues.end());
    interrupts_ = &active->interrupts;
  }
  for (std::size_t port = 0; port < transmit_.size(); ++port) {
    transmit_[port].saved = requests.ports[port];
  }
  // The sink is another one than the one that was told.
  for (const ConsolePortState& port : state_.ports) {
    if (port.reported_open()) outbox_.open(port.spec.name, true);
  }
  deliver(lock);
}

void ConsoleDevice::resume() {
  std::unique_lock lock(mutex_);
  for (std::size_t port = 0; port < transmit_.size(); ++port) {
    const auto saved = std::exchange(transmit_[port].saved, std::nullopt);
    VirtQueue* transmit = queue(transmit_queue(port));
    if (saved && transmit != nullptr) transmit_[port].current = transmit->retake(*saved);
  }
  pump_everything();
  deliver(lock);
}

}  // namespace kvitest
