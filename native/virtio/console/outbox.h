// Events on their way from a console device to its sink, in order.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "native/bytes.h"
#include "native/virtio/console/console.h"

namespace kvitest {

// Not locked.
class ConsoleOutbox {
 public:
  // Above this the device leaves requests in their rings until the sink has caught up.
  static constexpr std::size_t kMaxEvents = 256;

  bool empty() const { return events_.empty(); }
  bool full() const { return events_.size() >= kMaxEvents; }

  // Room for more bytes of a port, behind what it said last; all of it is to be written before the
  // next call. Consecutive data of one port travels as one event.
  std::span<std::byte> data(const std::string& port, std::size_t bytes);
  void open(const std::string& port, bool open);
  void writable(const std::string& port, std::size_t room);

  // Calls the sink for each event, oldest first.
  void deliver(ConsoleSink& sink) const;

 private:
  struct Data {
    RawBytes bytes;
  };
  struct Open {
    bool open;
  };
  struct Writable {
    std::size_t room;
  };
  struct Event {
    std::string port;
    std::variant<Data, Open, Writable> what;
  };
  std::vector<Event> events_;
};

}  // namespace kvitest
