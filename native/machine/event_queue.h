// What a machine has to tell its owner, in order: filled by native threads, emptied by the owner,
// bounded by credit.
#pragma once

#include <sys/uio.h>

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "native/machine/end.h"

namespace kvitest {

struct DataEvent {
  std::string channel;
  std::vector<std::byte> data;
};

struct PortEvent {
  std::string channel;
  bool open;
};

// What became of a connection of a vsock, whose bytes are DataEvents of its channel.
struct VsockEvent {
  enum class Kind { kOpen, kEnd, kClose };
  std::string device;
  std::string channel;
  Kind kind;
  std::uint32_t host_port = 0;  // of kOpen
  std::uint32_t guest_port = 0;
};

struct PvpanicEvent {
  std::uint8_t event;
};

// A device left the machine: its guest ejected it, or the owner took it away.
struct UnpluggedEvent {
  std::string device;
};

// The moment of a checkpoint or of a reset, between what came before it and what comes after.
struct MarkEvent {
  bool reset;
};

struct EndEvent {
  MachineEnd end;
};

using Event = std::variant<DataEvent, PortEvent, VsockEvent, PvpanicEvent, UnpluggedEvent,
                           MarkEvent, EndEvent>;

// Bytes of `serial` or `debug` that may be unacknowledged before the writing vCPU waits. Console
// ports have the same window in their device (kPortWindow).
inline constexpr std::size_t kOutputWindow = 256 * 1024;

class EventQueue {
 public:
  // Both are called on the pushing thread, with no lock held, and must not block.
  // wake: there is something to take. wake_soon: there is something, but more is likely to follow
  // within milliseconds: serial lines and debug ports bring single bytes, and waking the owner for
  // each costs more than the byte.
  EventQueue(std::function<void()> wake, std::function<void()> wake_soon)
      : wake_(std::move(wake)), wake_soon_(std::move(wake_soon)) {}

  // Consecutive data of one channel travels as one event.
  void push_data(const std::string& channel, std::span<const std::byte> data);
  void push_data(const std::string& channel, std::span<const iovec> pieces);
  // As push_data, but first waits until the channel has credit, so that a slow owner slows the
  // guest and no byte is lost. Returns at once after cancel_waits().
  void push_data_with_credit(const std::string& channel, std::span<const std::byte> data);
  // A guest that opens and closes a port faster than the owner looks has intermediate states
  // dropped.
  void push_port(const std::string& channel, bool open);
  void push(Event event);

  // The owner took `bytes` of data_with_credit of this channel.
  void consumed(const std::string& channel, std::size_t bytes);
  // While on, nobody waits for credit: a vCPU must come out of its handler for a checkpoint. What
  // each then writes too much is what is left of one exit.
  void waive_credit(bool on);
  // For good: the machine ends, nobody may wait for the owner any more.
  void cancel_waits();

  // Everything there is, in order.
  std::vector<Event> take();

 private:
  void append_data(const std::string& channel, std::span<const std::byte> data);

  // What a push found: decides who is called once the lock is free.
  enum class Urgency { kNone, kSoon, kNow };
  Urgency raise(Urgency wanted);
  void call(Urgency urgency);

  std::function<void()> wake_;
  std::function<void()> wake_soon_;
  Urgency announced_ = Urgency::kNone;
  std::size_t patient_bytes_ = 0;  // pushed with credit since the last take()
  std::mutex mutex_;
  std::condition_variable credit_;
  std::vector<Event> events_;
  std::map<std::string, std::size_t> unacknowledged_;
  bool waived_ = false;
  bool cancelled_ = false;
};

}  // namespace kvitest
