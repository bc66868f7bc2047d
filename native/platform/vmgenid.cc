#include "native/platform/vmgenid.h"

#include <sys/random.h>

#include <cerrno>

#include "native/error.h"

namespace kvitest {

VmGenId::VmGenId(GuestMemory& memory, InterruptController& interrupts, Gpa page, std::uint32_t gsi)
    : memory_(memory), interrupts_(interrupts), page_(page), gsi_(gsi) {}

void VmGenId::initialize() {
  GenerationId id;
  // 16 bytes come whole or not at all (getrandom(2)); EINTR is possible only before the pool is
  // ready.
  while (::getrandom(id.data(), id.size(), 0) != static_cast<ssize_t>(id.size())) {
    if (errno != EINTR) throw Error("getrandom", errno, "new VM generation id");
  }
  write(id);
}

void VmGenId::write(const GenerationId& id) {
  if (!memory_.write(page_, id)) {
    throw Error("write VM generation id", EINVAL, "its page is outside the guest's memory");
  }
}

void VmGenId::renew(const GenerationId& id) {
  write(id);
  // The tables declare the input edge-triggered: each rise is one notification, and a line that
  // stayed high would hide the next one.
  interrupts_.set_irq_line(gsi_, true);
  interrupts_.set_irq_line(gsi_, false);
}

}  // namespace kvitest
