#include "native/machine/fork_options.h"

#include <sys/random.h>

#include <cerrno>

#include "native/error.h"
#include "native/machine/checkpoint.h"

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

// The disk of that name; null when there is none.
BlkSpec* find_disk(MachineSpec& spec, const std::string& name) {
  for (DeviceSpec& device : spec.devices) {
    auto* blk = std::get_if<BlkSpec>(&device);
    if (blk != nullptr && blk->name == name) return blk;
  }
  return nullptr;
}

}  // namespace

MachineSpec fork_spec(const Checkpoint& checkpoint, const ForkOptions& options) {
  MachineSpec spec = checkpoint.machine.spec;
  if (options.name) spec.name = *options.name;
  for (const auto& [name, change] : options.devices) {
    BlkSpec* disk = find_disk(spec, name);
    if (disk == nullptr) {
      throw Error("fork", EINVAL, "the checkpoint has no device named " + name,
                  "name a disk of the machine it was taken from");
    }
    if (change.serial) disk->serial = *change.serial;
    validate(*disk);
  }
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
