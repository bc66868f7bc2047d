#include "native/machine/fork_options.h"

#include <sys/random.h>

#include <algorithm>
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

// All but what a fork may have for itself.
std::string describe(const NetSpec& spec) {
  return "virtio-net(" + spec.name + ", MTU " + std::to_string(spec.mtu) + ", queues " +
         std::to_string(spec.queue_pairs) + ", " + (spec.network.empty() ? "peer" : "switch") +
         (spec.without == 0 ? "" : ", without " + std::to_string(spec.without)) + ")";
}

// virtio-rng, virtio-console(results, log)
std::string describe(const std::vector<DeviceSpec>& devices) {
  if (devices.empty()) return "no devices";
  std::string text;
  for (const DeviceSpec& device : devices) {
    if (!text.empty()) text += ", ";
    if (const auto* net = std::get_if<NetSpec>(&device)) {
      text += describe(*net);
      continue;
    }
    const auto* console = std::get_if<ConsoleSpec>(&device);
    if (console == nullptr) {
      text += "virtio-rng";
      continue;
    }
    text += "virtio-console(";
    for (const ConsolePortSpec& port : console->ports) {
      if (text.back() != '(') text += ", ";
      text += port.name + (port.console ? " as console" : "");
    }
    text += ")";
  }
  return text;
}

}  // namespace

MachineSpec fork_spec(const Checkpoint& checkpoint, const ForkOptions& options) {
  MachineSpec spec = checkpoint.machine.spec;
  if (options.name) spec.name = *options.name;
  for (const auto& [name, identity] : options.devices) {
    const auto found = std::ranges::find_if(spec.devices, [&name](const DeviceSpec& device) {
      const auto* net = std::get_if<NetSpec>(&device);
      return net != nullptr && net->name == name;
    });
    if (found == spec.devices.end()) {
      throw Error("fork", EINVAL, "the checkpoint has no device named \"" + name + "\"",
                  "name one that its spec names");
    }
    NetSpec& net = std::get<NetSpec>(*found);
    if (identity.mac) net.mac = *identity.mac;
    if (identity.network && net.network.empty()) {
      throw Error("fork", EINVAL, "the device \"" + name + "\" is on no switch",
                  "leave its network out");
    }
    if (identity.network) net.network = *identity.network;
  }
  // Of a spec that was good only the identities can have spoilt it.
  validate(spec);
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
