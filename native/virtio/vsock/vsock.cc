#include "native/virtio/vsock/vsock.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include "native/error.h"
#include "native/virtio/config_image.h"
#include "native/virtio/vsock/device.h"

namespace kvitest {
namespace {

constexpr std::uint32_t kTypeVsock = 19;
constexpr std::uint64_t kFeatureStream = 1 << 0;
constexpr std::uint16_t kQueueSize = 128;
constexpr std::size_t kReceive = 0;
constexpr std::size_t kTransmit = 1;
constexpr std::size_t kEvent = 2;
constexpr std::size_t kConfigSize = 8;
constexpr std::size_t kMaxStreams = 256;
// Refusals that wait for a buffer of the guest; when there are more its packets wait.
constexpr std::size_t kMaxResets = 256;
constexpr int kMaxRounds = 16;
constexpr std::array<FeatureName, 1> kNames{{{"stream", kFeatureStream}}};

}  // namespace

void validate(const VsockSpec& spec) {
  if (spec.cid < kVsockFirstGuestCid || spec.cid == kVsockAnyCid) {
    throw Error("machine spec", EINVAL,
                "virtio-vsock \"" + spec.name + "\": the CID " + std::to_string(spec.cid),
                "give 3 to 4294967294");
  }
  if (spec.backend == VsockBackend::kUnix &&
      (spec.path.empty() || spec.path.size() > kVsockMaxPath ||
       spec.path.find('\0') != std::string::npos)) {
    throw Error("machine spec", EINVAL,
                "virtio-vsock \"" + spec.name + "\": the path \"" + spec.path + "\"",
                "give 1 to " + std::to_string(kVsockMaxPath) +
                    " bytes: a Unix socket's name, with _PORT behind it, has 107");
  }
}

VsockDevice::VsockDevice(const VsockSpec& spec, VsockSink& sink) : spec_(spec), sink_(sink) {
  state_.cid = spec.cid;
}

std::uint32_t VsockDevice::type() const {
  return kTypeVsock;
}

std::uint64_t VsockDevice::features() const {
  return kFeatureStream;
}

std::span<const FeatureName> VsockDevice::feature_names() const {
  return kNames;
}

std::vector<std::uint16_t> VsockDevice::queue_sizes() const {
  return {kQueueSize, kQueueSize, kQueueSize};
}

void VsockDevice::read_config(std::uint64_t offset, std::span<std::byte> data) {
  std::array<std::byte, kConfigSize> config{};
  {
    const std::lock_guard lock(mutex_);
    store_le<std::uint64_t>(config, 0, state_.cid);
  }
  read_image(config, offset, data);
}

void VsockDevice::attach(const VirtioActivation& active) {
  queues_.assign(active.queues.begin(), active.queues.end());
  interrupts_ = &active.interrupts;
}

void VsockDevice::activate(std::uint64_t features, std::span<VirtQueue* const> queues,
                           VirtioInterrupts& interrupts) {
  const std::lock_guard lock(mutex_);
  attach({features, queues, interrupts});
  pump_everything();
}

void VsockDevice::notify(std::uint16_t) {
  const std::lock_guard lock(mutex_);
  pump_everything();
}

void VsockDevice::reset() {
  const std::lock_guard lock(mutex_);
  forget_driver(true);
}

void VsockDevice::reset_queue(std::uint16_t index) {
  const std::lock_guard lock(mutex_);
  queues_[index] = nullptr;
}

void VsockDevice::enable_queue(std::uint16_t index, VirtQueue& queue) {
  const std::lock_guard lock(mutex_);
  queues_[index] = &queue;
  pump_everything();
}

void VsockDevice::detach() {
  const std::lock_guard lock(mutex_);
  forget_driver(false);
}

void VsockDevice::forget_driver(bool tell) {
  queues_.clear();
  interrupts_ = nullptr;
  resets_.clear();
  state_.reset_due = false;
  by_ports_.clear();
  for (const auto& [connection, stream] : std::exchange(streams_, {})) {
    if (!tell) continue;
    ended_.insert(connection);
    sink_.vsock_close(spec_.name, connection);
  }
}

VirtQueue* VsockDevice::queue(std::size_t index) const {
  return index < queues_.size() ? queues_[index] : nullptr;
}

void VsockDevice::interrupt(std::size_t index) {
  if (queues_[index]->needs_interrupt()) {
    interrupts_->queue_interrupt(static_cast<std::uint16_t>(index));
  }
}

void VsockDevice::pump_everything() {
  pump_events();
  for (int round = 0; round < kMaxRounds; ++round) {
    pump_transmit();
    const bool was_full = resets_.size() >= kMaxResets;
    pump_receive();
    // Packets wait only while refusals do.
    if (!was_full || resets_.size() >= kMaxResets) return;
  }
}

void VsockDevice::pump_events() {
  VirtQueue* ring = queue(kEvent);
  if (ring == nullptr || !state_.reset_due) return;
  auto chain = ring->pop();
  if (!chain) return;
  // struct virtio_vsock_event: VIRTIO_VSOCK_EVENT_TRANSPORT_RESET is 0.
  chain->write(std::array<std::byte, 4>{});
  ring->push_used(*chain, chain->written());
  state_.reset_due = false;
  interrupt(kEvent);
}

void VsockDevice::pump_transmit() {
  VirtQueue* ring = queue(kTransmit);
  if (ring == nullptr) return;
  std::size_t left = request_budget(*ring);
  for (; left != 0; --left) {
    // 5.10.6.1.2: what the device must still answer is bounded.
    if (resets_.size() >= kMaxResets) break;
    auto chain = ring->pop();
    if (!chain) break;
    handle(*chain);
    ring->push_used(*chain, 0);
  }
  if (left == 0 || resets_.size() >= kMaxResets) ring->request_notification();
  interrupt(kTransmit);
}

void VsockDevice::pump_receive() {
  VirtQueue* ring = queue(kReceive);
  if (ring == nullptr) return;
  for (std::size_t left = request_budget(*ring); left != 0; --left) {
    auto next = streams_.end();
    if (resets_.empty()) {
      const auto has_output = [](const auto& entry) { return entry.second.has_output(); };
      const auto after = streams_.upper_bound(last_served_);
      next = std::find_if(after, streams_.end(), has_output);
      if (next == streams_.end()) next = std::find_if(streams_.begin(), after, has_output);
      if (next == streams_.end()) break;
    }
    auto chain = ring->pop();
    if (!chain) break;
    if (chain->writable() < kVsockHeader) {
      // No packet fits: the driver's own loss.
      ring->push_used(*chain, 0);
      continue;
    }
    if (!resets_.empty()) {
      chain->write(resets_.front().bytes());
      resets_.pop_front();
    } else {
      last_served_ = next->first;
      send(next->second, next->first, *chain);
    }
    ring->push_used(*chain, chain->written());
  }
  interrupt(kReceive);
}

void VsockDevice::set_cid(std::uint32_t cid) {
  const std::lock_guard lock(mutex_);
  state_.cid = cid;
}

void VsockDevice::listen(std::uint32_t host_port, bool on) {
  const std::lock_guard lock(mutex_);
  if (on) {
    listening_.insert(host_port);
  } else {
    listening_.erase(host_port);
  }
}

VsockConnection VsockDevice::connect_as(std::uint32_t guest_port,
                                        const std::function<void(VsockConnection)>& named) {
  const std::lock_guard lock(mutex_);
  if (queues_.empty()) {
    throw Error("connect vsock", ENETDOWN, "the guest has no driver for " + spec_.name);
  }
  if (streams_.size() + ended_.size() >= kMaxStreams) {
    throw Error("connect vsock", EAGAIN, std::to_string(kMaxStreams) + " connections are open",
                "close some first");
  }
  Stream stream;
  stream.ports = {next_host_port_++, guest_port};
  stream.request_due = true;
  const VsockConnection connection = add(std::move(stream));
  if (named) named(connection);
  pump_receive();
  return connection;
}

std::size_t VsockDevice::host_write(VsockConnection connection, std::span<const std::byte> data) {
  const std::lock_guard lock(mutex_);
  const auto found = streams_.find(connection);
  if (found == streams_.end()) return data.size();
  Stream& stream = found->second;
  const bool closed = ((stream.shutdown_due | stream.shutdown_sent) & kVsockNoSend) != 0 ||
                      (stream.guest_shutdown & kVsockNoReceive) != 0;
  if (closed) return data.size();
  const std::size_t taken = std::min(data.size(), kVsockWindow - stream.to_guest.size());
  stream.to_guest.insert(stream.to_guest.end(), data.begin(),
                         data.begin() + static_cast<std::ptrdiff_t>(taken));
  pump_receive();
  return taken;
}

void VsockDevice::consumed(VsockConnection connection, std::size_t bytes) {
  const std::lock_guard lock(mutex_);
  const auto found = streams_.find(connection);
  if (found == streams_.end()) return;
  forward(found->second, bytes);
  pump_receive();
}

void VsockDevice::forward(Stream& stream, std::size_t bytes) {
  const std::uint32_t held = stream.received - stream.forwarded;
  stream.forwarded += static_cast<std::uint32_t>(std::min<std::size_t>(bytes, held));
  // Not for every byte: for what the guest cannot know when it runs short. Linux has no more on its
  // way than its own buffer holds, however large ours is.
  const std::size_t window = std::min<std::size_t>(kVsockWindow, stream.guest_buffer);
  stream.credit_due |= stream.forwarded - stream.told >= std::max<std::size_t>(window / 4, 1);
}

void VsockDevice::close(VsockConnection connection, bool whole) {
  const std::lock_guard lock(mutex_);
  ended_.erase(connection);
  const auto found = streams_.find(connection);
  if (found == streams_.end()) return;
  found->second.shutdown_due |= kVsockNoSend | (whole ? kVsockNoReceive : 0);
  pump_receive();
}

bool VsockDevice::has(VsockConnection connection) const {
  const std::lock_guard lock(mutex_);
  return streams_.contains(connection);
}

void VsockDevice::save(StateWriter& writer) const {
  const std::lock_guard lock(mutex_);
  writer.save(state_);
}

void VsockDevice::load(StateReader& reader, const VirtioActivation* active) {
  const auto state = reader.load<VsockState>();
  if (state.cid < kVsockFirstGuestCid || state.cid == kVsockAnyCid)
    reader.fail("a CID of no guest");
  const std::lock_guard lock(mutex_);
  state_ = state;
  if (active != nullptr) attach(*active);
}

void VsockDevice::resume() {
  const std::lock_guard lock(mutex_);
  if (queues_.empty()) return;
  // 5.10.6.7: the guest's connections are gone, and its CID may be another one.
  state_.reset_due = true;
  pump_everything();
}

VsockDevice::Streams::iterator VsockDevice::find(const Ports& ports) {
  const auto found = by_ports_.find(ports);
  return found == by_ports_.end() ? streams_.end() : streams_.find(found->second);
}

VsockConnection VsockDevice::add(Stream stream) {
  const VsockConnection connection = next_connection_++;
  by_ports_[stream.ports] = connection;
  streams_.emplace(connection, std::move(stream));
  return connection;
}

void VsockDevice::end(Streams::iterator stream) {
  const VsockConnection connection = stream->first;
  by_ports_.erase(stream->second.ports);
  streams_.erase(stream);
  ended_.insert(connection);
  // Writes that wait for room need wait no more.
  sink_.vsock_writable(spec_.name, connection);
  sink_.vsock_close(spec_.name, connection);
}

void VsockDevice::refuse(const VsockHeader& header) {
  // A reset is not answered with another (5.10.6.5).
  if (header.operation == kVsockReset) return;
  VsockHeader reset;
  reset.from_cid = header.to_cid;
  reset.to_cid = state_.cid;
  reset.from_port = header.to_port;
  reset.to_port = header.from_port;
  reset.type = header.type;
  reset.operation = kVsockReset;
  resets_.push_back(reset);
}

void VsockDevice::handle(DescriptorChain& chain) {
  std::array<std::byte, kVsockHeader> raw{};
  if (chain.read(raw) != raw.size()) return;
  const VsockHeader header = VsockHeader::read(raw);
  // 5.10.6.4: a packet of another guest is none of ours.
  if (header.from_cid != state_.cid) return;
  if (header.to_cid != kVsockHostCid || header.type != kVsockStream ||
      header.length > chain.readable()) {
    refuse(header);
    return;
  }
  const auto stream = find({header.to_port, header.from_port});
  if (stream != streams_.end()) {
    handle_stream(stream, header, chain);
  } else if (header.operation == kVsockRequest) {
    handle_request(header);
  } else {
    refuse(header);
  }
}

void VsockDevice::handle_request(const VsockHeader& header) {
  if (streams_.size() + ended_.size() >= kMaxStreams ||
      (!listening_.contains(header.to_port) && !sink_.vsock_wanted(spec_.name, header.to_port))) {
    refuse(header);
    return;
  }
  Stream stream;
  stream.ports = {header.to_port, header.from_port};
  stream.open = true;
  stream.response_due = true;
  stream.guest_buffer = header.buffer;
  stream.guest_forwarded = header.forwarded;
  const VsockConnection connection = add(std::move(stream));
  sink_.vsock_open(spec_.name, connection, header.to_port, header.from_port);
}

void VsockDevice::handle_stream(Streams::iterator found, const VsockHeader& header,
                                DescriptorChain& chain) {
  Stream& stream = found->second;
  stream.guest_buffer = header.buffer;
  stream.guest_forwarded = header.forwarded;
  // Who answers that there is no room is not asked again and again until there is.
  if (stream.credit() != 0) stream.credit_asked = false;
  switch (header.operation) {
    case kVsockResponse:
      if (stream.open || stream.request_due) break;
      stream.open = true;
      sink_.vsock_open(spec_.name, found->first, stream.ports.host, stream.ports.guest);
      return;
    case kVsockReset:
      end(found);
      return;
    case kVsockShutdown: {
      const std::uint32_t before = stream.guest_shutdown;
      stream.guest_shutdown |= header.flags & (kVsockNoReceive | kVsockNoSend);
      if (((stream.guest_shutdown & ~before) & kVsockNoSend) != 0) {
        sink_.vsock_end(spec_.name, found->first);
      }
      if (stream.guest_shutdown == (kVsockNoReceive | kVsockNoSend)) {
        refuse(header);
        end(found);
      }
      return;
    }
    case kVsockData:
      if (!stream.open) break;
      take_data(found, header, chain);
      return;
    case kVsockCreditUpdate:
      return;
    case kVsockCreditRequest:
      stream.credit_due = true;
      return;
    default:
      break;
  }
  // What makes no sense in this state ends it (5.10.6.5).
  refuse(header);
  end(found);
}

void VsockDevice::take_data(Streams::iterator found, const VsockHeader& header,
                            DescriptorChain& chain) {
  Stream& stream = found->second;
  const std::uint32_t held = stream.received - stream.forwarded;
  const bool ended = (stream.guest_shutdown & kVsockNoSend) != 0;
  // A guest that sends more than it has credit for, or after its end, is not to be believed.
  if (ended || header.length > kVsockWindow - held) {
    refuse(header);
    end(found);
    return;
  }
  stream.received += header.length;
  const bool dropped = ((stream.shutdown_due | stream.shutdown_sent) & kVsockNoReceive) != 0;
  if (dropped) {
    stream.forwarded += header.length;
    return;
  }
  std::vector<iovec> pieces;
  if (chain.lend_request(header.length, pieces) == 0) return;
  forward(stream, sink_.vsock_data(spec_.name, found->first, pieces));
}

std::uint32_t VsockDevice::Stream::credit() const {
  const std::uint32_t flying = sent - guest_forwarded;
  return guest_buffer > flying ? guest_buffer - flying : 0;
}

bool VsockDevice::Stream::has_output() const {
  if (request_due || response_due || credit_due) return true;
  if (!open) return false;
  if (!to_guest.empty()) return credit() != 0 || !credit_asked;
  return (shutdown_due & ~shutdown_sent) != 0;
}

VsockHeader VsockDevice::header_of(Stream& stream, VsockOperation operation) {
  VsockHeader header;
  header.from_cid = kVsockHostCid;
  header.to_cid = state_.cid;
  header.from_port = stream.ports.host;
  header.to_port = stream.ports.guest;
  header.operation = operation;
  header.buffer = kVsockWindow;
  header.forwarded = stream.forwarded;
  stream.told = stream.forwarded;
  stream.credit_due = false;
  return header;
}

void VsockDevice::send(Stream& stream, VsockConnection connection, DescriptorChain& chain) {
  if (stream.request_due) {
    stream.request_due = false;
    chain.write(header_of(stream, kVsockRequest).bytes());
    return;
  }
  if (stream.response_due) {
    stream.response_due = false;
    chain.write(header_of(stream, kVsockResponse).bytes());
    return;
  }
  const bool may_send = stream.open && !stream.to_guest.empty();
  const std::uint64_t room = chain.writable() - kVsockHeader;
  const auto length = static_cast<std::uint32_t>(
      may_send ? std::min<std::uint64_t>({stream.to_guest.size(), stream.credit(), room}) : 0);
  if (length != 0) {
    VsockHeader header = header_of(stream, kVsockData);
    header.length = length;
    chain.write(header.bytes());
    const auto last = stream.to_guest.begin() + static_cast<std::ptrdiff_t>(length);
    const std::vector<std::byte> data(stream.to_guest.begin(), last);
    chain.write(data);
    stream.to_guest.erase(stream.to_guest.begin(), last);
    stream.sent += length;
    sink_.vsock_writable(spec_.name, connection);
    return;
  }
  if (stream.credit_due) {
    chain.write(header_of(stream, kVsockCreditUpdate).bytes());
    return;
  }
  if (may_send) {
    // Out of credit, or a buffer that takes no byte: the guest says more when it has room.
    stream.credit_asked = true;
    chain.write(header_of(stream, kVsockCreditRequest).bytes());
    return;
  }
  VsockHeader header = header_of(stream, kVsockShutdown);
  stream.shutdown_sent |= stream.shutdown_due;
  header.flags = stream.shutdown_sent;
  chain.write(header.bytes());
}

std::unique_ptr<Vsock> make_vsock(const VsockSpec& spec, VsockSink& sink) {
  return std::make_unique<VsockDevice>(spec, sink);
}

}  // namespace kvitest
