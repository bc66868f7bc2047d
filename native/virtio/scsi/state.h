// What a virtio-scsi device remembers. The bytes of the disks are images of their own.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "native/state/archive.h"
#include "native/virtio/scsi/sense.h"

namespace kvitest {

inline constexpr std::uint32_t kDefaultSenseSize = 96;
inline constexpr std::uint32_t kDefaultCdbSize = 32;

struct ScsiUnitState {
  std::string name, serial;
  std::uint8_t target = 0, lun = 0;
  bool read_only = false;
  std::uint32_t block_size = 0;
  std::uint64_t size = 0;  // bytes, as load() must find the disk
  std::vector<Sense> attentions;
  template <typename Archive>
  void fields(Archive& archive) {
    archive(name, serial, target, lun, read_only, block_size, size, attentions);
  }
};

struct ScsiState {
  static constexpr StateTag kTag{"virtio-scsi", 1};
  std::uint32_t sense_size = kDefaultSenseSize;
  std::uint32_t cdb_size = kDefaultCdbSize;
  bool events_missed = false;
  // Those of the spec and those that came since.
  std::vector<ScsiUnitState> units;
  template <typename Archive>
  void fields(Archive& archive) {
    archive(sense_size, cdb_size, events_missed, units);
  }
};

}  // namespace kvitest
