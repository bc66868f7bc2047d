// What virtio-scsi says of itself, whoever serves its requests: struct virtio_scsi_config
// (virtio 1.3, 5.6.4).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "native/little_endian.h"
#include "native/virtio/config_image.h"
#include "native/virtio/scsi/events.h"
#include "native/virtio/scsi/scsi.h"
#include "native/virtio/scsi/state.h"

namespace kvitest {

inline constexpr std::uint32_t kTypeScsi = 8;
inline constexpr std::uint16_t kScsiControlSize = 32;
inline constexpr std::uint16_t kScsiEventSize = 64;

inline constexpr std::size_t kScsiConfigBytes = 36;
inline constexpr std::size_t kConfigSenseSize = 20;
inline constexpr std::size_t kConfigCdbSize = 24;

struct ScsiConfig {
  std::uint32_t sense_size = kDefaultSenseSize;
  std::uint32_t cdb_size = kDefaultCdbSize;
  std::uint16_t max_target = kScsiMaxTarget;
  std::uint32_t max_lun = kScsiMaxLun;
};

inline void read_config(const ScsiSpec& spec, const ScsiConfig& config, std::uint64_t offset,
                        std::span<std::byte> data) {
  constexpr std::uint32_t kMaxSectors = 0xffff;
  constexpr std::uint32_t kCommandsPerLun = 128;
  std::array<std::byte, kScsiConfigBytes> image{};
  store_le<std::uint32_t>(image, 0, spec.queues);
  // Header and response take a descriptor each.
  store_le<std::uint32_t>(image, 4, spec.queue_size > 2 ? spec.queue_size - 2u : 1u);
  store_le<std::uint32_t>(image, 8, kMaxSectors);
  store_le<std::uint32_t>(image, 12, kCommandsPerLun);
  store_le<std::uint32_t>(image, 16, kScsiEventBytes);
  store_le<std::uint32_t>(image, kConfigSenseSize, config.sense_size);
  store_le<std::uint32_t>(image, kConfigCdbSize, config.cdb_size);
  store_le<std::uint16_t>(image, 30, config.max_target);
  store_le<std::uint32_t>(image, 32, config.max_lun);
  read_image(image, offset, data);
}

}  // namespace kvitest
