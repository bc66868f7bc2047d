// One request of a virtio-blk driver (virtio 1.3, 5.2.6).
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "native/disk/disk.h"
#include "native/virtio/queue.h"

namespace kvitest {

// Feature bits (5.2.3).
inline constexpr std::uint64_t kBlkSizeMax = std::uint64_t{1} << 1;
inline constexpr std::uint64_t kBlkSegMax = std::uint64_t{1} << 2;
inline constexpr std::uint64_t kBlkReadOnly = std::uint64_t{1} << 5;
inline constexpr std::uint64_t kBlkBlockSize = std::uint64_t{1} << 6;
inline constexpr std::uint64_t kBlkFlush = std::uint64_t{1} << 9;
inline constexpr std::uint64_t kBlkTopology = std::uint64_t{1} << 10;
inline constexpr std::uint64_t kBlkConfigWce = std::uint64_t{1} << 11;
inline constexpr std::uint64_t kBlkMultiqueue = std::uint64_t{1} << 12;
inline constexpr std::uint64_t kBlkDiscard = std::uint64_t{1} << 13;
inline constexpr std::uint64_t kBlkWriteZeroes = std::uint64_t{1} << 14;

// Limits of the configuration space; a request beyond them is answered with
// IOERR.
inline constexpr std::uint32_t kBlkMaxSegmentBytes = 1 << 20;
inline constexpr std::uint64_t kBlkMaxDataBytes = std::uint64_t{64} << 20;
// Of each range of DISCARD and WRITE_ZEROES: 16 MiB, and so many ranges a
// request.
inline constexpr std::uint32_t kBlkMaxRangeSectors = 32768;
inline constexpr std::uint32_t kBlkMaxRanges = 16;

struct BlkContext {
  Disk* disk = nullptr;
  std::uint64_t features = 0;  // negotiated
  bool read_only = false;
  bool write_through = false;  // a write is flushed before it is answered
  std::string_view serial;
};

// Sectors that a request moves, all of them on the disk.
struct Transfer {
  bool to_disk;
  std::uint64_t offset;  // bytes
  std::uint64_t length;
};
// Of a request at its start, which is then behind its header; none for one that
// moves no sectors, or that perform() must answer with an error: the chain may
// then have been read.
std::optional<Transfer> transfer_of(DescriptorChain& chain, const BlkContext& context);
// Writes the status of a request, when the data of its answer is written;
// returns the used length.
std::uint32_t answer(DescriptorChain& chain, bool ok);

// Does what the request asks and writes its status, the last byte of the
// driver's buffers; returns the used length. One without room for a status
// comes back with 0 and nothing done. Errors of the host are the driver's
// IOERR.
std::uint32_t perform(DescriptorChain& chain, const BlkContext& context);

}  // namespace kvitest
