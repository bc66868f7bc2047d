// What a machine is made of: the native side of MachineSpec in src/native/contract.ts.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "native/machine/device_spec.h"

namespace kvitest {

struct LinuxPayload {
  std::string kernel;     // path of a bzImage or of an ELF vmlinux with a PVH note
  std::string initramfs;  // path, or empty
  std::string cmdline;
};

struct BarePayload {
  std::string elf;  // path of a freestanding static ELF64
  int ring = 0;     // 0 or 3
};

struct MachineSpec {
  std::string name;
  unsigned cpus = 1;
  std::uint64_t memory = 0;  // bytes
  std::variant<LinuxPayload, BarePayload> payload;
  std::vector<DeviceSpec> devices;
  // Bare guests default to none: they then run on any /dev/kvm.
  bool irqchip = false;
};

}  // namespace kvitest
