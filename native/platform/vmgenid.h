// The VM generation id: 16 random bytes in guest memory that change whenever a guest is forked or
// restored (Microsoft, "Virtual Machine Generation ID", 2012). Linux reseeds its random generator
// then.
#pragma once

#include <cstdint>

#include "native/bus/interrupts.h"
#include "native/memory/guest_memory.h"

namespace kvitest {

class VmGenId {
 public:
  // Both must outlive this. page: what the ACPI tables name (kVmGenIdPage).
  VmGenId(GuestMemory& memory, InterruptController& interrupts, Gpa page, std::uint32_t gsi);

  // Writes a fresh id without telling the guest: before it starts. Throws Error.
  void initialize();
  // Writes a fresh id, then raises the interrupt, in that order: the guest reads it in the handler.
  // After a restore call it once the irqchip's state is back, or the interrupt is lost. Throws
  // Error.
  void regenerate();

 private:
  GuestMemory& memory_;
  InterruptController& interrupts_;
  Gpa page_;
  std::uint32_t gsi_;
};

}  // namespace kvitest
