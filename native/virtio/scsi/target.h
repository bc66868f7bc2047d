// The SCSI target of virtio-scsi: what a command to a logical unit does (SAM-5, SPC-4, SBC-3).
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "native/disk/disk.h"
#include "native/virtio/queue.h"
#include "native/virtio/scsi/scsi.h"
#include "native/virtio/scsi/sense.h"

namespace kvitest {

// Limits that VPD page B0 tells; a command beyond them is refused.
inline constexpr std::uint64_t kScsiMaxDataBytes = std::uint64_t{64} << 20;
inline constexpr std::uint64_t kScsiMaxZeroBytes = std::uint64_t{16} << 20;
inline constexpr std::uint32_t kScsiMaxUnmapRanges = 16;

// Locks itself. Commands hold it, so that one under way ends after it was detached.
class LogicalUnit {
 public:
  LogicalUnit(ScsiLunSpec spec, std::unique_ptr<Disk> disk)
      : spec(std::move(spec)), disk(std::move(disk)) {}

  std::uint64_t blocks() const { return disk->size() / spec.block_size; }
  // The unit attention that was first established, which is then no more (SAM-5, 5.14).
  std::optional<Sense> take_attention();
  // Once only; a reset clears those before it.
  void establish(const Sense& attention);
  void clear(const Sense& attention);
  std::vector<Sense> attentions() const;

  const ScsiLunSpec spec;
  const std::unique_ptr<Disk> disk;

 private:
  mutable std::mutex mutex_;
  std::vector<Sense> attentions_;
};

using LogicalUnits = std::vector<std::shared_ptr<LogicalUnit>>;

// The bytes of a command that are not there are 0.
inline constexpr std::size_t kMaxCdbBytes = 32;
using Cdb = std::array<std::byte, kMaxCdbBytes>;

// VIRTIO_SCSI_S_* (5.6.6.1).
enum class ScsiResponse : std::uint8_t {
  kOk = 0,
  kOverrun = 1,
  kAborted = 2,
  kBadTarget = 3,
  kReset = 4,
  kBusy = 5,
  kTargetFailure = 7,
  kFailure = 9,
};

struct ScsiCommand {
  Cdb cdb{};
  // Of the driver's buffers, behind their headers.
  std::uint64_t data_out = 0;
  std::uint64_t data_in = 0;
  DescriptorChain* chain = nullptr;
  // Of the target, all of them; and the one addressed, null when it has none of that number.
  const LogicalUnits* units = nullptr;
  LogicalUnit* unit = nullptr;
};

struct ScsiResult {
  ScsiResponse response = ScsiResponse::kOk;
  std::uint8_t status = kStatusGood;
  Sense sense{};
  std::uint64_t transferred = 0;  // bytes of data, either way
};

inline ScsiResult check_condition(const Sense& sense, std::uint64_t transferred = 0) {
  return {ScsiResponse::kOk, kStatusCheckCondition, sense, transferred};
}

// Does it all: data goes through the chain, whose next bytes are the data's. Errors of the host
// become sense data.
ScsiResult execute(ScsiCommand& command);
// Of those, the commands that move or clear blocks of the medium (blocks.cc); none for others.
std::optional<ScsiResult> execute_on_blocks(ScsiCommand& command);
// To the REPORT LUNS well-known logical unit (SPC-4, 8.2).
ScsiResult execute_well_known(ScsiCommand& command);

// Big-endian fields of CDBs and parameter lists.
template <typename T>
T load_be(std::span<const std::byte> bytes, std::size_t offset) {
  T value = 0;
  for (std::size_t i = 0; i < sizeof(T); ++i) {
    value = static_cast<T>(value << 8 | std::to_integer<T>(bytes[offset + i]));
  }
  return value;
}
template <typename T>
void store_be(std::span<std::byte> bytes, std::size_t offset, std::type_identity_t<T> value) {
  for (std::size_t i = 0; i < sizeof(T); ++i) {
    bytes[offset + i] = static_cast<std::byte>(value >> (8 * (sizeof(T) - 1 - i)));
  }
}

}  // namespace kvitest
