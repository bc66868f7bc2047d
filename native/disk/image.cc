#include "native/disk/image.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "native/disk/disk.h"
#include "native/error.h"

namespace kvitest {
namespace {

[[noreturn]] void refuse(const std::string& why) {
  throw Error("load checkpoint", EBADMSG, "its disk has " + why, "take the checkpoint again");
}

bool ascending_below(const std::vector<std::uint64_t>& numbers, std::uint64_t end) {
  return std::ranges::adjacent_find(numbers, std::ranges::greater_equal{}) == numbers.end() &&
         (numbers.empty() || numbers.back() < end);
}

}  // namespace

std::uint64_t DiskImage::bytes_held() const {
  std::uint64_t held = 0;
  for (const auto& [number, cluster] : clusters) held += cluster ? kClusterSize : 0;
  return held;
}

void DiskImage::read(std::uint64_t offset, std::span<std::byte> out) const {
  while (!out.empty()) {
    const std::uint64_t number = offset / kClusterSize;
    const std::uint64_t within = offset % kClusterSize;
    const auto found = clusters.lower_bound(number);
    const bool hit = found != clusters.end() && found->first == number;
    // Up to the end of this cluster, or to the next one that is not the file's.
    std::uint64_t end = kClusterSize - within;
    if (!hit) end = found == clusters.end() ? out.size() : found->first * kClusterSize - offset;
    const std::span<std::byte> piece = out.first(std::min<std::uint64_t>(end, out.size()));
    if (hit && found->second) {
      std::memcpy(piece.data(), found->second->data() + within, piece.size());
    } else {
      const std::uint64_t there = !hit && base && offset < base_bytes ? base_bytes - offset : 0;
      const auto from_file = std::min<std::uint64_t>(there, piece.size());
      if (from_file != 0) base->read(offset, piece.first(from_file));
      std::ranges::fill(piece.subspan(from_file), std::byte{0});
    }
    offset += piece.size();
    out = out.subspan(piece.size());
  }
}

DiskImageState describe(const DiskImage& image) {
  DiskImageState state{.size = image.size, .base = {}, .data = {}, .zeros = {}};
  if (image.base) {
    state.base = {image.base->path(), image.base->identity(), image.base_bytes};
  }
  for (const auto& [number, cluster] : image.clusters) {
    (cluster ? state.data : state.zeros).push_back(number);
  }
  return state;
}

std::shared_ptr<const DiskImage> make_image(const DiskImageState& state,
                                            const std::function<void(std::span<std::byte>)>& next) {
  if (state.size == 0 || state.size > kMaxDiskBytes || state.size % kSectorSize != 0) {
    refuse("a size of " + std::to_string(state.size) + " bytes");
  }
  const std::uint64_t count = (state.size + kClusterSize - 1) / kClusterSize;
  if (!ascending_below(state.data, count) || !ascending_below(state.zeros, count)) {
    refuse("clusters that are out of place");
  }
  const auto image = std::make_shared<DiskImage>();
  image->size = state.size;
  if (state.base) {
    if (state.base->bytes > state.size) refuse("a file below that is larger than its disk");
    image->base = BaseFile::open(state.base->path, state.base->identity);
    image->base_bytes = state.base->bytes;
  }
  for (const std::uint64_t number : state.zeros) image->clusters[number] = nullptr;
  for (const std::uint64_t number : state.data) {
    const auto cluster = std::make_shared<Cluster>();
    next(*cluster);
    if (!image->clusters.emplace(number, cluster).second) refuse("a cluster twice");
  }
  return image;
}

}  // namespace kvitest
