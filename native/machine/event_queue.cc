#include "native/machine/event_queue.h"

#include <algorithm>
#include <utility>

namespace kvitest {
namespace {

// Port events of one channel in a row that the owner has not seen yet.
constexpr std::size_t kPortEventsInARow = 16;

// From here on consecutive data is a stream.
constexpr std::size_t kStream = 32 * 1024;

// Serial or debug bytes that the owner is woken for at once.
constexpr std::size_t kEnoughToWake = 4096;

}  // namespace

void EventQueue::append_data(const std::string& channel, std::span<const std::byte> data) {
  if (!events_.empty()) {
    auto* last = std::get_if<DataEvent>(&events_.back());
    if (last != nullptr && last->channel == channel) {
      std::vector<std::byte>& bytes = last->data;
      // A stream that goes on fills its window: room for all of it, before what is there is moved
      // again and again.
      const std::size_t all = bytes.size() + data.size();
      if (all > kStream && all <= kOutputWindow) bytes.reserve(kOutputWindow);
      bytes.insert(bytes.end(), data.begin(), data.end());
      return;
    }
  }
  events_.push_back(DataEvent{channel, {data.begin(), data.end()}});
}

EventQueue::Urgency EventQueue::raise(Urgency wanted) {
  if (wanted <= announced_) return Urgency::kNone;
  announced_ = wanted;
  return wanted;
}

void EventQueue::call(Urgency urgency) {
  if (urgency == Urgency::kNow) wake_();
  if (urgency == Urgency::kSoon) wake_soon_();
}

void EventQueue::push_data(const std::string& channel, std::span<const std::byte> data) {
  const iovec piece{const_cast<std::byte*>(data.data()), data.size()};
  if (!data.empty()) push_data(channel, std::span(&piece, 1));
}

void EventQueue::push_data(const std::string& channel, std::span<const iovec> pieces) {
  Urgency urgency = Urgency::kNone;
  {
    const std::lock_guard lock(mutex_);
    for (const iovec& piece : pieces) {
      append_data(channel, std::span(static_cast<const std::byte*>(piece.iov_base), piece.iov_len));
    }
    urgency = raise(Urgency::kNow);
  }
  call(urgency);
}

void EventQueue::push_data_with_credit(const std::string& channel,
                                       std::span<const std::byte> data) {
  if (data.empty()) return;
  Urgency urgency = Urgency::kNone;
  {
    std::unique_lock lock(mutex_);
    std::size_t& unacknowledged = unacknowledged_[channel];
    credit_.wait(lock, [&] { return cancelled_ || waived_ || unacknowledged < kOutputWindow; });
    unacknowledged += data.size();
    patient_bytes_ += data.size();
    append_data(channel, data);
    urgency = raise(patient_bytes_ >= kEnoughToWake ? Urgency::kNow : Urgency::kSoon);
  }
  call(urgency);
}

void EventQueue::push_port(const std::string& channel, bool open) {
  Urgency urgency = Urgency::kNone;
  {
    const std::lock_guard lock(mutex_);
    std::size_t in_a_row = 0;
    for (auto it = events_.rbegin(); it != events_.rend(); ++it) {
      const auto* port = std::get_if<PortEvent>(&*it);
      if (port == nullptr || port->channel != channel) break;
      if (++in_a_row == kPortEventsInARow) break;
    }
    if (in_a_row == kPortEventsInARow) {
      std::get<PortEvent>(events_.back()).open = open;
    } else {
      events_.push_back(PortEvent{channel, open});
    }
    urgency = raise(Urgency::kNow);
  }
  call(urgency);
}

void EventQueue::push(Event event) {
  Urgency urgency = Urgency::kNone;
  {
    const std::lock_guard lock(mutex_);
    events_.push_back(std::move(event));
    urgency = raise(Urgency::kNow);
  }
  call(urgency);
}

void EventQueue::consumed(const std::string& channel, std::size_t bytes) {
  {
    const std::lock_guard lock(mutex_);
    std::size_t& unacknowledged = unacknowledged_[channel];
    unacknowledged -= std::min(unacknowledged, bytes);
  }
  credit_.notify_all();
}

void EventQueue::waive_credit(bool on) {
  {
    const std::lock_guard lock(mutex_);
    waived_ = on;
  }
  credit_.notify_all();
}

void EventQueue::cancel_waits() {
  {
    const std::lock_guard lock(mutex_);
    cancelled_ = true;
  }
  credit_.notify_all();
}

std::vector<Event> EventQueue::take() {
  const std::lock_guard lock(mutex_);
  announced_ = Urgency::kNone;
  patient_bytes_ = 0;
  return std::exchange(events_, {});
}

}  // namespace kvitest
