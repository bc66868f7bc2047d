#include "native/machine/fork_options.h"

#include <sys/random.h>

#include <cerrno>

#include "native/error.h"
#include "native/machine/checkpoint.h"
#include "native/machine/machine.h"

namespace kvitest {
namespace {

[[noreturn]] void differs(const std::string& has, const std::string& asked) {
  throw Error("fork", EINVAL, "the checkpoint has " + has + ", " + asked,
              "take a checkpoint of the machine you want");
}

std::string mebibytes(std::uint64_t bytes) {
  return bytes % (1 << 20) == 0 ? std::to_string(bytes >> 20) + " MiB"
                                : std::to_string(bytes) + " bytes";
}

std::string describe(const std::vector<DeviceSpec>& devices) {
  if (devices.empty()) return "no devices";
  std::string text;
  for (const DeviceSpec& device : devices) {
    if (!text.empty()) text += ", ";
    text += describe(device);
  }
  return text;
}

[[noreturn]] void refuse(const std::string& detail, const std::string& hint) {
  throw Error("fork", EINVAL, detail, hint);
}

void apply(BlkSpec& disk, const DeviceChange& change) {
  if (change.mac || change.network || change.cid || change.path) {
    refuse("the disk " + disk.name + " has a serial and no address", "");
  }
  if (change.serial) disk.serial = *change.serial;
}

void apply(NetSpec& net, const DeviceChange& change) {
  if (change.serial || change.cid || change.path) {
    refuse("the network device " + net.name + " has neither serial nor CID nor path", "");
  }
  if (change.mac) net.mac = *change.mac;
  if (!change.network) return;
  if (change.network->empty()) refuse("a network without a name", "name it");
  if (!net.tap.empty()) {
    net.tap = *change.network;
    return;
  }
  if (net.network.empty()) {
    refuse("the network device " + net.name + " is on no switch", "leave its network out");
  }
  net.network = *change.network;
}

void apply(VsockSpec& vsock, const DeviceChange& change) {
  if (change.serial || change.mac || change.network) {
    refuse("the vsock " + vsock.name + " has a CID and nothing else", "");
  }
  if (change.path && vsock.backend != VsockBackend::kUnix) {
    refuse("the vsock " + vsock.name + " has no Unix sockets", "leave its path out");
  }
  if (change.cid) vsock.cid = *change.cid;
  if (change.path) vsock.path = *change.path;
}

// False when no device has that name.
bool apply(MachineSpec& spec, const std::string& name, const DeviceChange& change) {
  for (DeviceSpec& device : spec.devices) {
    if (auto* blk = std::get_if<BlkSpec>(&device); blk != nullptr && blk->name == name) {
      apply(*blk, change);
      return true;
    }
    if (auto* net = std::get_if<NetSpec>(&device); net != nullptr && net->name == name) {
      apply(*net, change);
      return true;
    }
    if (auto* vsock = std::get_if<VsockSpec>(&device); vsock != nullptr && vsock->name == name) {
      apply(*vsock, change);
      return true;
    }
  }
  return false;
}

}  // namespace

MachineSpec fork_spec(const Checkpoint& checkpoint, const ForkOptions& options) {
  MachineSpec spec = checkpoint.machine.spec;
  if (options.name) spec.name = *options.name;
  for (const auto& [name, change] : options.devices) {
    if (apply(spec, name, change)) continue;
    refuse("the checkpoint has no device named " + name,
           "name a device of the machine it was taken from");
  }
  // What was good only a change can have spoilt.
  if (!options.devices.empty()) validate(spec);
  return spec;
}

void check_expected(const MachineSpec& spec, const ForkOptions& options) {
  if (options.expected_cpus && *options.expected_cpus != spec.cpus) {
    differs(std::to_string(spec.cpus) + " vCPUs",
            std::to_string(*options.expected_cpus) + " were asked for");
  }
  if (options.expected_memory && *options.expected_memory != spec.memory) {
    differs(mebibytes(spec.memory) + " of memory",
            mebibytes(*options.expected_memory) + " were asked for");
  }
  if (!options.expected_devices) return;
  const std::string has = describe(spec.devices);
  const std::string asked = describe(*options.expected_devices);
  if (has != asked) differs(has, asked + " were asked for");
}

std::array<std::byte, 16> generation_id(const ForkOptions& options) {
  if (options.generation_id) return *options.generation_id;
  std::array<std::byte, 16> id;
  // 16 bytes come whole or not at all (getrandom(2)); EINTR only before the pool is ready.
  while (::getrandom(id.data(), id.size(), 0) != static_cast<ssize_t>(id.size())) {
    if (errno != EINTR) throw Error("getrandom", errno, "new VM generation id");
  }
  return id;
}

}  // namespace kvitest
