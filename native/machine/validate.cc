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

void validate_disks(const MachineSpec& spec) {
  std::set<std::string> names;
  for (const DeviceSpec& device : spec.devices) {
    const auto* blk = std::get_if<BlkSpec>(&device);
    if (blk == nullptr) continue;
    if (blk->name.empty()) refuse("a virtio-blk without name", "name it: disk0");
    if (!names.insert(blk->name).second) {
      refuse("the disk \"" + blk->name + "\" exists twice", "give every disk its own name");
    }
    validate(*blk);
  }
}

void validate_units(const MachineSpec& spec) {
  // All disks of a machine, whatever device they are behind, have names of their own.
  std::set<std::string> names;
  std::set<std::string> devices;
  for (const DeviceSpec& device : spec.devices) {
    if (const auto* blk = std::get_if<BlkSpec>(&device)) names.insert(blk->name);
  }
  for (const DeviceSpec& device : spec.devices) {
    const auto* scsi = std::get_if<ScsiSpec>(&device);
    if (scsi == nullptr) continue;
    validate(*scsi);
    if (!devices.insert(scsi->name).second) {
      refuse("two devices named \"" + scsi->name + "\"", "give every device its own name");
    }
    for (const ScsiLunSpec& lun : scsi->luns) {
      if (!names.insert(lun.name).second) {
        refuse("the disk \"" + lun.name + "\" exists twice", "give every disk its own name");
      }
    }
  }
}

void validate_links(const MachineSpec& spec) {
  // Disks, network devices and vsocks are asked for by name, in fork() at least.
  std::set<std::string> names;
  for (const DeviceSpec& device : spec.devices) {
    if (const auto* blk = std::get_if<BlkSpec>(&device)) names.insert(blk->name);
  }
  for (const DeviceSpec& device : spec.devices) {
    const auto* net = std::get_if<NetSpec>(&device);
    if (net == nullptr) continue;
    if (net->name.empty()) refuse("a virtio-net without name", "name it: net0");
    if (!names.insert(net->name).second) {
      refuse("two devices named \"" + net->name + "\"", "give every device its own name");
    }
    validate(*net);
  }
  for (const DeviceSpec& device : spec.devices) {
    const auto* vsock = std::get_if<VsockSpec>(&device);
    if (vsock == nullptr) continue;
    if (vsock->name.empty() || vsock->name.find('#') != std::string::npos) {
      refuse("a virtio-vsock without name, or with a # in it", "name it: vsock0");
    }
    if (!names.insert(vsock->name).second) {
      refuse("two devices named \"" + vsock->name + "\"", "give every device its own name");
    }
    validate(*vsock);
  }
  for (const DeviceSpec& device : spec.devices) {
    const auto* balloon = std::get_if<BalloonSpec>(&device);
    if (balloon == nullptr) continue;
    validate(*balloon);
    if (!names.insert(balloon->name).second) {
      refuse("two devices named \"" + balloon->name + "\"", "give every device its own name");
    }
  }
}

void validate_shares(const MachineSpec& spec) {
  std::set<std::string> tags;
  for (const DeviceSpec& device : spec.devices) {
    const auto* share = std::get_if<P9Spec>(&device);
    if (share == nullptr) continue;
    validate(*share);
    if (!tags.insert(share->tag).second) {
      refuse("the tag \"" + share->tag + "\" exists twice", "give every virtio-9p its own tag");
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
  validate_disks(spec);
  validate_units(spec);
  validate_links(spec);
  validate_shares(spec);
}

}  // namespace kvitest
