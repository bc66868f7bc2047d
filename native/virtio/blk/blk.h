// virtio-blk (virtio 1.3, 5.2).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "native/disk/disk.h"
#include "native/virtio/device.h"
#include "native/virtio/request_queues.h"

namespace kvitest {

inline constexpr std::size_t kBlkSerialBytes = 20;
inline constexpr std::uint16_t kBlkMaxQueues = 8;
inline constexpr std::uint16_t kBlkMaxQueueSize = 1024;

struct BlkSpec {
  std::string name;
  Backing backing;
  bool read_only = false;
  std::string serial;  // at most 20 bytes
  std::uint16_t queues = 1;
  std::uint16_t queue_size = 256;  // a power of two
  std::uint32_t block_size = 512;  // logical: 512, 1024, 2048 or 4096
  std::vector<std::string> without_features;
};

// Throws Error (EINVAL) naming the first thing that no disk can be.
void validate(const BlkSpec& spec);

class Blk : public VirtioDevice {
 public:
  // The host's way to the bytes, beside the guest's.
  virtual Disk& disk() = 0;
  // Of the disk, which the driver is told of. Throws Error: EINVAL for a size that is no multiple
  // of the block size, and what the disk's own resize gives.
  virtual void resize(std::uint64_t bytes) = 0;
  virtual const RequestQueues& requests() const = 0;
};

std::unique_ptr<Blk> make_blk(const BlkSpec& spec, std::unique_ptr<Disk> disk);

}  // namespace kvitest
