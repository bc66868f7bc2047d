// The VM generation id: 16 random bytes in guest memory that change whenever a guest is forked or
// restored (Microsoft, "Virtual Machine Generation ID", 2012). Linux reseeds its random generator
// then.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "native/bus/interrupts.h"
#include "native/memory/guest_memory.h"

namespace kvitest {

using GenerationId = std::array<std::byte, 16>;

// Remembers nothing itself: the id lies in guest memory.
class VmGenId {
 public:
  // Both must outlive this. page: what the ACPI tables name (kVmGenIdPage).
  VmGenId(GuestMemory& memory, InterruptController& interrupts, Gpa page, std::uint32_t gsi);

  // Writes a random id without telling the guest: before it starts. Throws Error.
  void initialize();
  // Writes this id, then pulses the interrupt, in that order: the guest reads the id in the
  // handler. Once the irqchip's state is back after a restore, or the interrupt is lost. Throws
  // Error.
  void renew(const GenerationId& id);

 private:
  void write(const GenerationId& id);

  GuestMemory& memory_;
  InterruptController& interrupts_;
  Gpa page_;
  std::uint32_t gsi_;
};

}  // namespace kvitest
