#include "native/virtio/console/outbox.h"

namespace kvitest {
namespace {

// A sink takes one event as one message: megabytes in one are no gain.
constexpr std::size_t kMaxDataEvent = 64 * 1024;

}  // namespace

std::span<std::byte> ConsoleOutbox::data(const std::string& port, std::size_t bytes) {
  Data* last = nullptr;
  if (!events_.empty() && events_.back().port == port) {
    last = std::get_if<Data>(&events_.back().what);
    if (last != nullptr && last->bytes.size() + bytes > kMaxDataEvent) last = nullptr;
  }
  if (last == nullptr) last = &std::get<Data>(events_.emplace_back(Event{port, Data{}}).what);
  const std::size_t at = last->bytes.size();
  last->bytes.resize(at + bytes);
  return std::span(last->bytes).subspan(at);
}

void ConsoleOutbox::open(const std::string& port, bool open) {
  events_.push_back({port, Open{open}});
}

void ConsoleOutbox::writable(const std::string& port, std::size_t room) {
  events_.push_back({port, Writable{room}});
}

void ConsoleOutbox::deliver(ConsoleSink& sink) const {
  for (const Event& event : events_) {
    if (const Data* data = std::get_if<Data>(&event.what)) {
      sink.port_data(event.port, data->bytes);
    } else if (const Open* open = std::get_if<Open>(&event.what)) {
      sink.port_open(event.port, open->open);
    } else if (const Writable* writable = std::get_if<Writable>(&event.what)) {
      sink.port_writable(event.port, writable->room);
    }
  }
}

}  // namespace kvitest
