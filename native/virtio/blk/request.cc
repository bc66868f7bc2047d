#include "native/virtio/blk/request.h"

#include <algorithm>
#include <array>
#include <exception>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "native/little_endian.h"
#include "native/virtio/blk/blk.h"

namespace kvitest {
namespace {

enum class Type : std::uint32_t {
  kIn = 0,
  kOut = 1,
  kFlush = 4,
  kGetId = 8,
  kDiscard = 11,
  kWriteZeroes = 13,
};

enum class Status : std::uint8_t { kOk = 0, kIoError = 1, kUnsupported = 2 };

constexpr std::size_t kHeaderBytes = 16;
constexpr std::size_t kRangeBytes = 16;
constexpr std::uint32_t kFlagUnmap = 1;
// Between the disk and the guest: a request is copied in pieces of this size.
constexpr std::size_t kPiece = 64 * 1024;

struct Piece {
  std::unique_ptr<std::byte[]> bytes;
  std::size_t size;
  explicit Piece(std::uint64_t length)
      : size(static_cast<std::size_t>(std::min<std::uint64_t>(length, kPiece))) {
    bytes = std::make_unique_for_overwrite<std::byte[]>(size);
  }
  std::span<std::byte> first(std::uint64_t length) {
    return {bytes.get(), static_cast<std::size_t>(std::min<std::uint64_t>(length, size))};
  }
};

// Where the sectors lie, when they are inside the disk.
std::optional<std::uint64_t> place(const Disk& disk, std::uint64_t sector, std::uint64_t length) {
  const std::uint64_t sectors = disk.size() / kSectorSize;
  if (sector > sectors || length / kSectorSize > sectors - sector) return std::nullopt;
  return sector * kSectorSize;
}

// Of an IN or OUT behind its header.
std::optional<Transfer> checked_transfer(const DescriptorChain& chain, const BlkContext& context,
                                         bool to_disk, std::uint64_t sector) {
  const std::uint64_t length = to_disk ? chain.readable() : chain.writable() - 1;
  if (to_disk && context.read_only) return std::nullopt;
  if (length % kSectorSize != 0 || length > kBlkMaxDataBytes) return std::nullopt;
  const auto offset = place(*context.disk, sector, length);
  if (!offset) return std::nullopt;
  return Transfer{to_disk, *offset, length};
}

Status read_sectors(DescriptorChain& chain, const BlkContext& context, std::uint64_t sector) {
  const auto transfer = checked_transfer(chain, context, false, sector);
  if (!transfer) return Status::kIoError;
  if (context.disk->file() >= 0) {
    DescriptorChain answered = chain;
    std::vector<iovec> pieces;
    if (answered.lend_answer(transfer->length, pieces) != transfer->length) return Status::kIoError;
    context.disk->read_pieces(transfer->offset, pieces);
    chain = std::move(answered);
    return Status::kOk;
  }
  Piece buffer(transfer->length);
  for (std::uint64_t done = 0; done < transfer->length;) {
    const std::span<std::byte> piece = buffer.first(transfer->length - done);
    context.disk->read(transfer->offset + done, piece);
    if (chain.write(piece) != piece.size()) return Status::kIoError;
    done += piece.size();
  }
  return Status::kOk;
}

Status write_sectors(DescriptorChain& chain, const BlkContext& context, std::uint64_t sector) {
  const auto transfer = checked_transfer(chain, context, true, sector);
  if (!transfer) return Status::kIoError;
  if (context.disk->file() >= 0) {
    std::vector<iovec> pieces;
    if (chain.lend_request(transfer->length, pieces) != transfer->length) return Status::kIoError;
    context.disk->write_pieces(transfer->offset, pieces);
  } else {
    Piece buffer(transfer->length);
    for (std::uint64_t done = 0; done < transfer->length;) {
      const std::span<std::byte> piece = buffer.first(transfer->length - done);
      if (chain.read(piece) != piece.size()) return Status::kIoError;
      context.disk->write(transfer->offset + done, piece);
      done += piece.size();
    }
  }
  if (context.write_through) context.disk->flush();
  return Status::kOk;
}

struct Range {
  std::uint64_t offset;
  std::uint64_t length;
  bool may_free;
};

// DISCARD and WRITE_ZEROES. Every range is checked before the first is done.
Status zero_ranges(DescriptorChain& chain, const BlkContext& context, Type type) {
  const std::uint64_t bytes = chain.readable();
  if (context.read_only || bytes == 0 || bytes % kRangeBytes != 0 ||
      bytes > kBlkMaxRanges * kRangeBytes) {
    return Status::kIoError;
  }
  std::vector<Range> ranges;
  while (chain.readable() != 0) {
    std::array<std::byte, kRangeBytes> raw;
    if (chain.read(raw) != raw.size()) return Status::kIoError;
    const auto sector = load_le<std::uint64_t>(raw, 0);
    const auto sectors = load_le<std::uint32_t>(raw, 8);
    const auto flags = load_le<std::uint32_t>(raw, 12);
    // 5.2.6.2: unknown flags, and unmap for a discard, are not supported.
    const std::uint32_t known = type == Type::kWriteZeroes ? kFlagUnmap : 0;
    if ((flags & ~known) != 0) return Status::kUnsupported;
    if (sectors > kBlkMaxRangeSectors) return Status::kIoError;
    const std::uint64_t length = sectors * kSectorSize;
    const auto offset = place(*context.disk, sector, length);
    if (!offset) return Status::kIoError;
    ranges.push_back({*offset, length, type == Type::kDiscard || (flags & kFlagUnmap) != 0});
  }
  for (const Range& range : ranges) context.disk->zero(range.offset, range.length, range.may_free);
  if (context.write_through) context.disk->flush();
  return Status::kOk;
}

// 20 bytes, filled up with zeros; a driver with less room gets the first ones.
Status get_id(DescriptorChain& chain, const BlkContext& context) {
  std::array<std::byte, kBlkSerialBytes> id{};
  std::ranges::copy(
      std::as_bytes(std::span(context.serial)).first(std::min(context.serial.size(), id.size())),
      id.begin());
  const auto length =
      static_cast<std::size_t>(std::min<std::uint64_t>(chain.writable() - 1, id.size()));
  return chain.write(std::span(id).first(length)) == length ? Status::kOk : Status::kIoError;
}

struct Header {
  Type type;
  std::uint64_t sector;
};

std::optional<Header> read_header(DescriptorChain& chain) {
  std::array<std::byte, kHeaderBytes> raw;
  if (chain.read(raw) != raw.size()) return std::nullopt;
  return Header{static_cast<Type>(load_le<std::uint32_t>(raw, 0)), load_le<std::uint64_t>(raw, 8)};
}

Status serve(DescriptorChain& chain, const BlkContext& context) {
  const auto header = read_header(chain);
  if (!header) return Status::kIoError;
  const auto [type, sector] = *header;
  const auto negotiated = [&](std::uint64_t feature) { return (context.features & feature) != 0; };
  switch (type) {
    case Type::kIn:
      return read_sectors(chain, context, sector);
    case Type::kOut:
      return write_sectors(chain, context, sector);
    case Type::kFlush:
      if (!negotiated(kBlkFlush)) return Status::kUnsupported;
      context.disk->flush();
      return Status::kOk;
    case Type::kGetId:
      return get_id(chain, context);
    case Type::kDiscard:
      return negotiated(kBlkDiscard) ? zero_ranges(chain, context, type) : Status::kUnsupported;
    case Type::kWriteZeroes:
      return negotiated(kBlkWriteZeroes) ? zero_ranges(chain, context, type) : Status::kUnsupported;
  }
  return Status::kUnsupported;
}

std::uint32_t put_status(DescriptorChain& chain, Status status) {
  // The status is the last byte, wherever the answer stopped. What lies between
  // is zeros, so that the used length may cover the status; more than any
  // answer has is left as it is.
  const std::uint64_t between = chain.writable() - 1;
  if (between <= kBlkMaxDataBytes) {
    chain.write_zeros(between);
  } else {
    chain.skip_answer(between);
  }
  const std::byte last{static_cast<std::uint8_t>(status)};
  chain.write(std::span(&last, 1));
  return chain.written();
}

}  // namespace

std::optional<Transfer> transfer_of(DescriptorChain& chain, const BlkContext& context) {
  if (chain.writable() == 0) return std::nullopt;
  const auto header = read_header(chain);
  if (!header || (header->type != Type::kIn && header->type != Type::kOut)) return std::nullopt;
  return checked_transfer(chain, context, header->type == Type::kOut, header->sector);
}

std::uint32_t answer(DescriptorChain& chain, bool ok) {
  return put_status(chain, ok ? Status::kOk : Status::kIoError);
}

std::uint32_t perform(DescriptorChain& chain, const BlkContext& context) {
  if (chain.writable() == 0) return 0;
  Status status = Status::kIoError;
  try {
    status = serve(chain, context);
  } catch (const std::exception&) {
    // What the host could not do; the driver is told no more than a bad sector
    // would tell it.
  }
  return put_status(chain, status);
}

}  // namespace kvitest
