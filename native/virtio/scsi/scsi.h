// virtio-scsi, the SCSI host (virtio 1.3, 5.6), with a small target of its own over native/disk.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "native/disk/disk.h"
#include "native/memory/guest_memory.h"
#include "native/virtio/device.h"
#include "native/virtio/request_queues.h"

namespace kvitest {

inline constexpr std::uint64_t kScsiInOut = 1 << 0;  // not offered
inline constexpr std::uint64_t kScsiHotplug = 1 << 1;
inline constexpr std::uint64_t kScsiChange = 1 << 2;

inline constexpr std::uint16_t kScsiMaxTarget = 7;
inline constexpr std::uint32_t kScsiMaxLun = 255;
inline constexpr std::size_t kScsiSerialBytes = 36;
inline constexpr std::uint16_t kScsiMaxQueues = 8;
inline constexpr std::uint16_t kScsiMaxQueueSize = 1024;

// A logical unit: a disk.
struct ScsiLunSpec {
  std::string name;  // of the disk, for the host
  Backing backing;
  std::uint8_t target = 0;
  std::uint8_t lun = 0;
  bool read_only = false;
  std::string serial;              // at most 36 bytes of printable ASCII
  std::uint32_t block_size = 512;  // logical: 512, 1024, 2048 or 4096
};

struct ScsiSpec {
  std::string name;
  std::vector<ScsiLunSpec> luns;
  std::uint16_t queues = 1;        // of requests
  std::uint16_t queue_size = 128;  // a power of two
  std::string vhost{};             // a target of the host's kernel, by its WWPN; it has the units
  std::vector<std::string> without_features{};
};

// Both throw Error (EINVAL) naming the first thing that cannot be.
void validate(const ScsiSpec& spec);
void validate(const ScsiLunSpec& spec);

inline constexpr std::size_t kScsiWwpnBytes = 223;  // struct vhost_scsi_target

class Scsi : public VirtioDevice {
 public:
  // The host's way to the bytes of a logical unit, beside the guest's; null when there is none of
  // that name. Good until it is detached.
  virtual Disk* disk(const std::string& lun) = 0;
  virtual std::vector<std::string> disks() const = 0;
  // Of the disk, which the driver is told of. Throws Error: EINVAL for a size that is no multiple
  // of the block size, and what the disk's own resize gives.
  virtual void resize(const std::string& lun, std::uint64_t bytes) = 0;
  // A new logical unit, and one that goes; the driver is told by an event (HOTPLUG). Throw Error
  // (EEXIST, ENOENT, EINVAL).
  virtual void attach_lun(const ScsiLunSpec& lun, std::unique_ptr<Disk> disk) = 0;
  virtual void detach_lun(const std::string& lun) = 0;
  // Of all units.
  virtual const RequestQueues& requests() const = 0;
};

// Of the spec's target, by vhost-scsi. The memory must outlive it. Throws Error: ENOENT where the
// host has no vhost-scsi, ENODEV without such a target or while another guest has it.
// restored: it is a fork's, which is refused (ENOTSUP): what the target holds is in no checkpoint.
std::unique_ptr<VirtioDevice> make_vhost_scsi(const ScsiSpec& spec, const GuestMemory& memory,
                                              bool restored);

// The disk of a logical unit that the spec names, or that a checkpoint has.
using OpenLun = std::function<std::unique_ptr<Disk>(const ScsiLunSpec& lun)>;

// restored: load() comes, and says which logical units there are. Throws Error.
std::unique_ptr<Scsi> make_scsi(const ScsiSpec& spec, OpenLun open, bool restored);

}  // namespace kvitest
