// A saved running guest: what forks are made of.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "native/counts.h"
#include "native/disk/image.h"
#include "native/kvm/vcpu_state.h"
#include "native/kvm/vm_state.h"
#include "native/machine/spec.h"
#include "native/memory/memory_image.h"

namespace kvitest {

// What the machine itself remembers, beside its vCPUs, its VM and its devices.
struct MachineState {
  static constexpr StateTag kTag{"machine", 9};
  MachineSpec spec;
  std::vector<bool> halted;  // for each vCPU: it will never run again
  std::uint8_t panic_events = 0;
  // Bytes of the owner that no device has taken yet, by channel.
  std::map<std::string, std::vector<std::byte>> pending_writes;

  template <typename Archive>
  void fields(Archive& archive);  // defined and used in checkpoint.cc
};

// Never changed once it is shared, so any thread may use it.
struct Checkpoint {
  MachineState machine;
  std::vector<SavedVcpu> vcpus;
  SavedVm vm;
  std::vector<std::byte> devices;  // what Board::save() wrote
  std::shared_ptr<const MemoryImage> memory;
  DiskImages disks;
  const Counted counted{live_checkpoints};

  // Of the host's memory, for RAM and disks.
  std::uint64_t bytes_held() const;
  // Writes it to `path`, which is there whole or not at all. Throws Error.
  void save(const std::string& path) const;
  // Believes nothing of the file. Throws Error: EBADMSG for one that save() did not write or that
  // is cut, and what open(2) and memory_image.h give.
  static std::shared_ptr<const Checkpoint> load(const std::string& path);
};

}  // namespace kvitest
