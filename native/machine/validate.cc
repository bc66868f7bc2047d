#include <algorithm>
#include <cerrno>
#include <set>
#include <string>

#include "native/error.h"
#include "native/machine/machine.h"

namespace kvitest {
namespace {

constexpr unsigned kMaxCpus = 8;
constexpr std::uint64_t kMiB = 1 << 20;
constexpr std::uint64_t kMinLinuxMemory = 64 * kMiB;
constexpr std::uint64_t kMinBareMemory = kMiB;
constexpr std::uint64_t kMaxMemory = 8192 * kMiB;

[[noreturn]] void refuse(const std::string& detail, const std::string& hint) {
  throw Error("machine spec", EINVAL, detail, hint);
}

void validate_ports(const MachineSpec& spec) {
  std::set<std::string> names{kSerialChannel, kDebugChannel};
  for (const DeviceSpec& device : spec.devices) {
    const auto* console = std::get_if<ConsoleSpec>(&device);
    if (console == nullptr) continue;
    if (console->ports.empty()) refuse("a virtio-console without ports", "give it one");
    for (const ConsolePortSpec& port : console->ports) {
      if (port.name.empty()) refuse("a virtio-console port without name", "name it");
      if (!names.insert(port.name).second) {
        refuse("the channel \"" + port.name + "\" exists twice",
               "give every port its own name; serial and debug are taken");
      }
    }
  }
}

void validate_net(const MachineSpec& spec) {
  std::set<std::string> names;
  for (const DeviceSpec& device : spec.devices) {
    const auto* net = std::get_if<NetSpec>(&device);
    if (net == nullptr) continue;
    if (net->name.empty()) refuse("a virtio-net without name", "name it");
    if (!names.insert(net->name).second) {
      refuse("two devices named \"" + net->name + "\"", "give every device its own name");
    }
    const bool is_null = std::ranges::all_of(net->mac, [](std::uint8_t byte) { return byte == 0; });
    if ((net->mac[0] & 1) != 0 || is_null) {
      refuse("the MAC address of " + net->name + " is no station's",
             "its first byte is even, and not all are 0");
    }
    if (net->mtu != 0 && net->mtu < kMinMtu) {
      refuse("an MTU of " + std::to_string(net->mtu), "give 68 to 65535");
    }
    if (net->queue_pairs < 1 || net->queue_pairs > kMaxQueuePairs) {
      refuse(std::to_string(net->queue_pairs) + " queues of " + net->name, "give 1 to 8");
    }
  }
}

}  // namespace

void validate(const MachineSpec& spec) {
  if (spec.cpus < 1 || spec.cpus > kMaxCpus) {
    refuse(std::to_string(spec.cpus) + " vCPUs", "ask for 1 to 8");
  }
  const bool is_linux = std::holds_alternative<LinuxPayload>(spec.payload);
  const std::uint64_t minimum = is_linux ? kMinLinuxMemory : kMinBareMemory;
  if (spec.memory < minimum || spec.memory > kMaxMemory || spec.memory % kPageSize != 0) {
    refuse(std::to_string(spec.memory) + " bytes of memory",
           is_linux ? "ask for 64 MiB to 8 GiB in pages of 4096"
                    : "ask for 1 MiB to 8 GiB in pages of 4096");
  }
  if (is_linux && !spec.irqchip) refuse("Linux without irqchip", "leave irqchip out or true");
  if (!spec.devices.empty() && !spec.irqchip) {
    refuse("devices without irqchip", "set irqchip: true, their interrupts need it");
  }
  validate_ports(spec);
  validate_net(spec);
}

}  // namespace kvitest
