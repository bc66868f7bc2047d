// How a machine ended, and what its vCPUs looked like: the native side of MachineEnd in
// src/native/contract.ts.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace kvitest {

struct VcpuState {
  unsigned index = 0;
  // By name, hexadecimal with 0x: rip, rsp, rflags, rax.., cr0, cr2, cr3, cr4, efer, cs.
  std::vector<std::pair<std::string, std::string>> registers;
  std::optional<std::string> mp_state;  // absent without irqchip
  bool interrupts_enabled = false;      // rflags.IF
  unsigned cpl = 0;
  // Vectors: in the LAPIC's IRR, and in its ISR; empty without irqchip.
  std::vector<std::uint8_t> pending;
  std::vector<std::uint8_t> in_service;
  bool nmi_masked = false;  // within an NMI's handler
};

struct MachineEnd {
  std::string reason;  // MachineEndReason of the contract
  std::optional<std::uint64_t> code;
  std::string detail;  // one line for a person
  bool panicked = false;
  std::map<std::string, std::uint64_t> exits;
  std::vector<VcpuState> vcpus;
  double elapsed = 0;  // milliseconds from start() to the end
};

}  // namespace kvitest
