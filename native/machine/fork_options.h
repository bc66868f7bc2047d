// What may differ between a fork and its checkpoint, and what its owner believes of that: the
// native side of ForkOptions in src/native/contract.ts.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "native/machine/spec.h"

namespace kvitest {

struct Checkpoint;

// What tells one fork from another to a device's driver or to what is outside. A device takes what
// it has: a network device `mac` and `network`.
struct DeviceIdentity {
  std::optional<MacAddress> mac;
  std::optional<std::string> network;  // of the switch
};

struct ForkOptions {
  std::optional<std::string> name;
  std::optional<std::array<std::byte, 16>> generation_id;
  std::map<std::string, DeviceIdentity> devices;  // by name
  std::optional<unsigned> expected_cpus;
  std::optional<std::uint64_t> expected_memory;  // bytes
  std::optional<std::vector<DeviceSpec>> expected_devices;
};

// The checkpoint's, under the fork's name and with its devices' identities. Throws Error (EINVAL)
// for an identity that no device has.
MachineSpec fork_spec(const Checkpoint& checkpoint, const ForkOptions& options);
// Throws Error (EINVAL) naming the first thing that the checkpoint is not.
void check_expected(const MachineSpec& spec, const ForkOptions& options);
// The one asked for, else a random one.
std::array<std::byte, 16> generation_id(const ForkOptions& options);

}  // namespace kvitest
