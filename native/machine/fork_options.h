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

// What a fork's device has of its own. The guest learns of it as of any such change of its device:
// of a serial when its driver probes or asks again, of a MAC address when its driver probes, of a
// CID at once.
struct DeviceChange {
  std::optional<std::string> serial;   // of a disk
  std::optional<MacAddress> mac;       // of a network device
  std::optional<std::string> network;  // of a network device on a switch
  std::optional<std::uint32_t> cid;    // of a vsock
  std::optional<std::string> path;     // of a vsock with Unix sockets
};

struct ForkOptions {
  std::optional<std::string> name;
  std::map<std::string, DeviceChange> devices;  // by the device's name
  std::optional<std::array<std::byte, 16>> generation_id;
  std::optional<unsigned> expected_cpus;
  std::optional<std::uint64_t> expected_memory;  // bytes
  std::optional<std::vector<DeviceSpec>> expected_devices;
};

// The checkpoint's, with the fork's name and its own devices' changes. Throws Error (EINVAL).
MachineSpec fork_spec(const Checkpoint& checkpoint, const ForkOptions& options);
// Throws Error (EINVAL) naming the first thing that the checkpoint is not.
void check_expected(const MachineSpec& spec, const ForkOptions& options);
// The one asked for, else a random one.
std::array<std::byte, 16> generation_id(const ForkOptions& options);

}  // namespace kvitest
