// The content of a disk at one moment, never changed again: what the disks of forks start from.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "native/disk/base_file.h"
#include "native/state/archive.h"

namespace kvitest {

inline constexpr std::uint64_t kClusterSize = 4096;
using Cluster = std::array<std::byte, kClusterSize>;

// Immutable once it is shared, so any thread may use it. Images of one disk's forks share clusters.
struct DiskImage {
  std::uint64_t size = 0;  // bytes
  // What lies below; null: zeros.
  std::shared_ptr<const BaseFile> base;
  std::uint64_t base_bytes = 0;  // so many of it count, zeros follow
  // Over it, by number; null: zeros.
  std::map<std::uint64_t, std::shared_ptr<const Cluster>> clusters;

  std::uint64_t bytes_held() const;
  // The range must be inside. Throws Error when the file below cannot be read.
  void read(std::uint64_t offset, std::span<std::byte> out) const;
};

// An image without the bytes of its clusters, as a checkpoint's file describes it.
struct DiskImageState {
  static constexpr StateTag kTag{"disk-image", 1};
  struct Base {
    std::string path;
    FileIdentity identity;
    std::uint64_t bytes = 0;
    template <typename Archive>
    void fields(Archive& archive) {
      archive(path, identity, bytes);
    }
  };
  std::uint64_t size = 0;
  std::optional<Base> base;
  std::vector<std::uint64_t> data;   // numbers of the clusters whose bytes follow, ascending
  std::vector<std::uint64_t> zeros;  // of those that are zeros
  template <typename Archive>
  void fields(Archive& archive) {
    archive(size, base, data, zeros);
  }
};

DiskImageState describe(const DiskImage& image);
// next: the bytes of the next cluster of `data`. Believes nothing: throws Error, EBADMSG, and what
// base_file.h gives for the file below.
std::shared_ptr<const DiskImage> make_image(const DiskImageState& state,
                                            const std::function<void(std::span<std::byte>)>& next);

// By the name of the disk.
using DiskImages = std::map<std::string, std::shared_ptr<const DiskImage>>;

}  // namespace kvitest
