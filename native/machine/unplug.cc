// Devices that leave while the guest runs.
#include <cerrno>
#include <utility>

#include "native/error.h"
#include "native/machine/machine.h"

namespace kvitest {

void Machine::unplug(std::string device, bool surprise, Done done) {
  loop_.post([this, device = std::move(device), surprise, done = std::move(done)] {
    answer(done, [&] {
      require_running("unplug");
      board_->unplug(device, surprise);
    });
  });
}

void Machine::unplugged(const std::string& device) {
  events_.push(UnpluggedEvent{device});
}

}  // namespace kvitest
