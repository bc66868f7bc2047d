#include "native/net/switch.h"

#include <algorithm>
#include <deque>
#include <map>
#include <mutex>
#include <utility>

#include "native/net/packet.h"

namespace kvitest {
namespace {

MacAddress mac_at(const Frame& frame, std::size_t at) {
  MacAddress mac;
  for (std::size_t i = 0; i < mac.size(); ++i) {
    mac[i] = std::to_integer<std::uint8_t>(frame.bytes[at + i]);
  }
  return mac;
}

bool is_group(const MacAddress& mac) {
  return (mac[0] & 1) != 0;
}

struct Port {
  FramesWaiting frames_waiting;
  std::deque<Frame> waiting;
  std::size_t waiting_bytes = 0;
  LinkCounts counts;
};

// One lock for a whole network: what is done in it is a copy of a frame and a wake-up.
class Network {
 public:
  void join(Port& port) {
    const std::lock_guard lock(mutex_);
    ports_.push_back(&port);
  }

  // Afterwards frames_waiting is not called any more.
  void leave(Port& port) {
    const std::lock_guard lock(mutex_);
    std::erase(ports_, &port);
    std::erase_if(learned_, [&port](const auto& entry) { return entry.second == &port; });
  }

  void send(Port& from, Frame frame) {
    if (frame.bytes.size() < kEthernetHeader) return;
    const MacAddress destination = mac_at(frame, 0);
    const MacAddress source = mac_at(frame, 6);
    const std::lock_guard lock(mutex_);
    ++from.counts.sent;
    if (!is_group(source)) {
      if (learned_.size() >= kSwitchAddresses && !learned_.contains(source)) learned_.clear();
      learned_[source] = &from;
    }
    const auto known = is_group(destination) ? learned_.end() : learned_.find(destination);
    if (known != learned_.end()) {
      // Who asks for itself hears nothing.
      if (known->second != &from) give(*known->second, std::move(frame));
      return;
    }
    for (Port* port : ports_) {
      if (port != &from) give(*port, frame);
    }
  }

  std::optional<Frame> receive(Port& port) {
    const std::lock_guard lock(mutex_);
    if (port.waiting.empty()) return std::nullopt;
    Frame frame = std::move(port.waiting.front());
    port.waiting.pop_front();
    port.waiting_bytes -= frame.bytes.size();
    ++port.counts.received;
    return frame;
  }

  LinkCounts counts(const Port& port) const {
    const std::lock_guard lock(mutex_);
    return port.counts;
  }

 private:
  static void give(Port& port, Frame frame) {
    if (port.waiting.size() >= kSwitchBacklog ||
        port.waiting_bytes + frame.bytes.size() > kSwitchBacklogBytes) {
      ++port.counts.dropped;
      return;
    }
    port.waiting_bytes += frame.bytes.size();
    port.waiting.push_back(std::move(frame));
    port.frames_waiting();
  }

  mutable std::mutex mutex_;
  std::vector<Port*> ports_;
  std::map<MacAddress, Port*> learned_;
};

class SwitchLink : public Link {
 public:
  SwitchLink(std::shared_ptr<Network> network, FramesWaiting frames_waiting)
      : network_(std::move(network)), port_{std::move(frames_waiting), {}, 0, {}} {
    network_->join(port_);
  }
  ~SwitchLink() override { network_->leave(port_); }

  void send(Frame frame) override { network_->send(port_, std::move(frame)); }
  std::optional<Frame> receive() override { return network_->receive(port_); }
  LinkCounts counts() const override { return network_->counts(port_); }

 private:
  const std::shared_ptr<Network> network_;
  Port port_;
};

std::mutex networks_mutex;
std::map<std::string, std::weak_ptr<Network>> networks;

}  // namespace

std::unique_ptr<Link> join_network(const std::string& name, FramesWaiting frames_waiting) {
  std::shared_ptr<Network> network;
  {
    const std::lock_guard lock(networks_mutex);
    std::erase_if(networks, [](const auto& entry) { return entry.second.expired(); });
    network = networks[name].lock();
    if (network == nullptr) {
      network = std::make_shared<Network>();
      networks[name] = network;
    }
  }
  return std::make_unique<SwitchLink>(std::move(network), std::move(frames_waiting));
}

}  // namespace kvitest
