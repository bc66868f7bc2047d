// The owner's way to the balloons of a Machine. Everything here runs on the device loop.
#include <cerrno>
#include <utility>

#include "native/error.h"
#include "native/machine/machine.h"

namespace kvitest {

Balloon& Machine::balloon(const std::string& name) const {
  require_running("balloon");
  if (Balloon* const found = board_->balloon(name)) return *found;
  throw Error("balloon", ENOENT, "machine " + spec_.name + " has no balloon \"" + name + "\"",
              "give it a virtio-balloon device");
}

void Machine::balloon(std::string device, BalloonRequest request,
                      std::function<void(BalloonReport, std::exception_ptr)> done) {
  loop_.post([this, device = std::move(device), request, done = std::move(done)] {
    answer(done, [&] {
      Balloon& found = balloon(device);
      if (request.target) found.set_target(*request.target);
      if (request.hints) found.ask_hints();
      if (request.statistics) found.ask_statistics();
      if (request.interval) {
        ask_balloon_later(device, *request.interval, ++balloon_rounds_[device]);
      }
      return found.report();
    });
  });
}

void Machine::ask_balloon_later(const std::string& name, std::chrono::milliseconds interval,
                                std::uint64_t round) {
  if (interval.count() == 0) return;
  loop_.post_later(interval, [this, name, interval, round] {
    if (ending_ || state_ == State::kEnded || balloon_rounds_[name] != round) return;
    if (board_ == nullptr) return;
    if (Balloon* const found = board_->balloon(name)) found->ask_statistics();
    ask_balloon_later(name, interval, round);
  });
}

}  // namespace kvitest
