// Commands that move or clear blocks of the medium (SBC-3, 5).
#include <algorithm>
#include <array>
#include <exception>
#include <memory>
#include <utility>

#include "native/virtio/scsi/target.h"

namespace kvitest {
namespace {

enum Opcode : std::uint8_t {
  kRead6 = 0x08,
  kWrite6 = 0x0a,
  kRead10 = 0x28,
  kWrite10 = 0x2a,
  kSynchronizeCache10 = 0x35,
  kUnmap = 0x42,
  kRead16 = 0x88,
  kWrite16 = 0x8a,
  kSynchronizeCache16 = 0x91,
  kWriteSame16 = 0x93,
  kRead12 = 0xa8,
  kWrite12 = 0xaa,
};

// Between the disk and the guest: data is copied in pieces of this size.
constexpr std::size_t kPiece = 64 * 1024;
constexpr std::size_t kUnmapHeaderBytes = 8;
constexpr std::size_t kUnmapRangeBytes = 16;

struct Extent {
  std::uint64_t lba = 0;
  std::uint64_t blocks = 0;
};

std::uint8_t byte(const Cdb& cdb, std::size_t at) {
  return std::to_integer<std::uint8_t>(cdb[at]);
}

Extent extent6(const Cdb& cdb) {
  const std::uint64_t lba = (byte(cdb, 1) & 0x1fu) << 16 | load_be<std::uint16_t>(cdb, 2);
  return {lba, byte(cdb, 4) == 0 ? 256u : byte(cdb, 4)};
}
Extent extent10(const Cdb& cdb) {
  return {load_be<std::uint32_t>(cdb, 2), load_be<std::uint16_t>(cdb, 7)};
}
Extent extent12(const Cdb& cdb) {
  return {load_be<std::uint32_t>(cdb, 2), load_be<std::uint32_t>(cdb, 6)};
}
Extent extent16(const Cdb& cdb) {
  return {load_be<std::uint64_t>(cdb, 2), load_be<std::uint32_t>(cdb, 10)};
}

bool is_inside(const LogicalUnit& unit, const Extent& extent) {
  const std::uint64_t blocks = unit.blocks();
  return extent.lba <= blocks && extent.blocks <= blocks - extent.lba;
}

// Protection information is not for disks without it.
bool asks_for_protection(const Cdb& cdb) {
  return byte(cdb, 0) >= kRead10 && (byte(cdb, 1) & 0xe0) != 0;
}

// What stops a transfer of so many bytes before it begins.
std::optional<ScsiResult> refusal(const ScsiCommand& command, const Extent& extent,
                                  std::uint64_t room) {
  if (asks_for_protection(command.cdb)) return check_condition(kInvalidFieldInCdb);
  if (!is_inside(*command.unit, extent)) return check_condition(kLbaOutOfRange);
  const std::uint64_t bytes = extent.blocks * command.unit->spec.block_size;
  if (bytes > kScsiMaxDataBytes) return check_condition(kInvalidFieldInCdb);
  if (bytes > room) return ScsiResult{.response = ScsiResponse::kOverrun};
  return std::nullopt;
}

// An extent in pieces, until it is whole or the guest's buffers end. move: a piece to or from an
// offset of the disk; false when the guest's buffers end in it. moved: bytes, also when it throws.
template <typename Move>
void transfer(const LogicalUnit& unit, const Extent& extent, std::uint64_t& moved, Move move) {
  const std::uint64_t offset = extent.lba * unit.spec.block_size;
  const std::uint64_t length = extent.blocks * unit.spec.block_size;
  const auto most = static_cast<std::size_t>(std::min<std::uint64_t>(length, kPiece));
  const auto bytes = std::make_unique_for_overwrite<std::byte[]>(most);
  while (moved < length) {
    const std::span<std::byte> piece(bytes.get(), std::min<std::uint64_t>(length - moved, most));
    if (!move(offset + moved, piece)) return;
    moved += piece.size();
  }
}

ScsiResult read(ScsiCommand& command, const Extent& extent) {
  if (const auto refused = refusal(command, extent, command.data_in)) return *refused;
  Disk& disk = *command.unit->disk;
  ScsiResult result;
  try {
    transfer(*command.unit, extent, result.transferred,
             [&](std::uint64_t offset, std::span<std::byte> piece) {
               disk.read(offset, piece);
               return command.chain->write(piece) == piece.size();
             });
  } catch (const std::exception&) {
    return check_condition(kReadError, result.transferred);
  }
  return result;
}

ScsiResult write(ScsiCommand& command, const Extent& extent, bool forced) {
  if (command.unit->spec.read_only) return check_condition(kWriteProtected);
  if (const auto refused = refusal(command, extent, command.data_out)) return *refused;
  Disk& disk = *command.unit->disk;
  ScsiResult result;
  try {
    transfer(*command.unit, extent, result.transferred,
             [&](std::uint64_t offset, std::span<std::byte> piece) {
               if (command.chain->read(piece) != piece.size()) return false;
               disk.write(offset, piece);
               return true;
             });
    if (forced) disk.flush();
  } catch (const std::exception&) {
    return check_condition(kWriteError, result.transferred);
  }
  return result;
}

ScsiResult synchronize(const ScsiCommand& command, const Extent& extent) {
  if (!is_inside(*command.unit, extent)) return check_condition(kLbaOutOfRange);
  try {
    command.unit->disk->flush();
  } catch (const std::exception&) {
    return check_condition(kTargetFailure);
  }
  return {};
}

ScsiResult unmap(ScsiCommand& command) {
  const LogicalUnit& unit = *command.unit;
  if (unit.spec.read_only) return check_condition(kWriteProtected);
  if ((byte(command.cdb, 1) & 1) != 0) return check_condition(kInvalidFieldInCdb);  // ANCHOR
  const auto length = load_be<std::uint16_t>(command.cdb, 7);
  if (length == 0) return {};
  if (length < kUnmapHeaderBytes) return check_condition(kParameterListLength);
  if (length > command.data_out) return {.response = ScsiResponse::kOverrun};
  std::vector<std::byte> list(length);
  list.resize(command.chain->read(list));
  if (list.size() < kUnmapHeaderBytes) return {.response = ScsiResponse::kOverrun};
  const std::size_t described =
      std::min<std::size_t>(load_be<std::uint16_t>(list, 2), list.size() - kUnmapHeaderBytes);
  const std::size_t count = described / kUnmapRangeBytes;
  if (count > kScsiMaxUnmapRanges) return check_condition(kInvalidFieldInParameters, length);
  // All are checked before the first is done.
  std::vector<Extent> extents;
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t at = kUnmapHeaderBytes + i * kUnmapRangeBytes;
    const Extent one{load_be<std::uint64_t>(list, at), load_be<std::uint32_t>(list, at + 8)};
    if (!is_inside(unit, one)) return check_condition(kLbaOutOfRange, length);
    if (one.blocks * unit.spec.block_size > kScsiMaxZeroBytes) {
      return check_condition(kInvalidFieldInParameters, length);
    }
    extents.push_back(one);
  }
  try {
    for (const Extent& one : extents) {
      unit.disk->zero(one.lba * unit.spec.block_size, one.blocks * unit.spec.block_size, true);
    }
  } catch (const std::exception&) {
    return check_condition(kWriteError, length);
  }
  return {.transferred = length};
}

ScsiResult write_same(ScsiCommand& command) {
  const LogicalUnit& unit = *command.unit;
  const std::uint8_t flags = byte(command.cdb, 1);
  const bool may_free = (flags & 0x08) != 0;
  const bool no_data = (flags & 0x01) != 0;  // NDOB: as if it were a block of zeros
  const Extent extent = extent16(command.cdb);
  const std::uint64_t length = extent.blocks * unit.spec.block_size;
  if (unit.spec.read_only) return check_condition(kWriteProtected);
  // ANCHOR, protection; WSNZ: no blocks mean none, not all.
  if ((flags & 0xf0) != 0 || extent.blocks == 0) return check_condition(kInvalidFieldInCdb);
  if (!is_inside(unit, extent)) return check_condition(kLbaOutOfRange);
  if (length > kScsiMaxZeroBytes) return check_condition(kInvalidFieldInCdb);
  std::vector<std::byte> block(unit.spec.block_size);
  if (!no_data) {
    if (command.data_out < block.size()) return {.response = ScsiResponse::kOverrun};
    if (command.chain->read(block) != block.size()) return {.response = ScsiResponse::kOverrun};
  }
  const std::uint64_t transferred = no_data ? 0 : block.size();
  const std::uint64_t offset = extent.lba * unit.spec.block_size;
  try {
    if (std::ranges::all_of(block, [](std::byte one) { return one == std::byte{0}; })) {
      unit.disk->zero(offset, length, may_free);
    } else {
      for (std::uint64_t done = 0; done < length; done += block.size()) {
        unit.disk->write(offset + done, block);
      }
    }
  } catch (const std::exception&) {
    return check_condition(kWriteError, transferred);
  }
  return {.transferred = transferred};
}

}  // namespace

std::optional<ScsiResult> execute_on_blocks(ScsiCommand& command) {
  const Cdb& cdb = command.cdb;
  const bool forced = (byte(cdb, 1) & 0x08) != 0;  // FUA
  switch (byte(cdb, 0)) {
    case kRead6:
      return read(command, extent6(cdb));
    case kRead10:
      return read(command, extent10(cdb));
    case kRead12:
      return read(command, extent12(cdb));
    case kRead16:
      return read(command, extent16(cdb));
    case kWrite6:
      return write(command, extent6(cdb), false);
    case kWrite10:
      return write(command, extent10(cdb), forced);
    case kWrite12:
      return write(command, extent12(cdb), forced);
    case kWrite16:
      return write(command, extent16(cdb), forced);
    case kSynchronizeCache10:
      return synchronize(command, extent10(cdb));
    case kSynchronizeCache16:
      return synchronize(command, extent16(cdb));
    case kUnmap:
      return unmap(command);
    case kWriteSame16:
      return write_same(command);
    default:
      return std::nullopt;
  }
}

}  // namespace kvitest
