// A disk that keeps what is written over an image that never changes.
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <mutex>
#include <shared_mutex>
#include <unordered_map>
#include <utility>

#include "native/disk/disk.h"
#include "native/disk/range.h"
#include "native/error.h"

namespace kvitest {
namespace {

class Overlay : public Disk {
 public:
  explicit Overlay(std::shared_ptr<const DiskImage> image)
      : below_(std::move(image)), size_(below_->size), below_bytes_(below_->size) {}

  std::uint64_t size() const override {
    const std::shared_lock lock(mutex_);
    return size_;
  }
  bool may_wait() const override { return below_->base != nullptr; }

  void read(std::uint64_t offset, std::span<std::byte> out) override {
    const std::shared_lock lock(mutex_);
    check_range("read disk", offset, out.size(), size_);
    std::size_t done = 0;
    // Bytes before `done` that come from below, not read yet: one read for neighbours.
    std::size_t owed = 0;
    const auto settle = [&] {
      read_below(offset + done - owed, out.subspan(done - owed, owed));
      owed = 0;
    };
    while (done < out.size()) {
      const std::uint64_t within = (offset + done) % kClusterSize;
      const auto length = std::min<std::size_t>(out.size() - done, kClusterSize - within);
      const auto found = written_.find((offset + done) / kClusterSize);
      if (found == written_.end()) {
        owed += length;
      } else {
        settle();
        copy_out(found->second.get(), within, out.subspan(done, length));
      }
      done += length;
    }
    settle();
  }

  void write(std::uint64_t offset, std::span<const std::byte> in) override {
    const std::unique_lock lock(mutex_);
    check_range("write disk", offset, in.size(), size_);
    for_each_piece(
        offset, in.size(),
        [&](std::uint64_t number, std::uint64_t within, std::uint64_t length, std::uint64_t done) {
          Cluster& cluster = writable(number, length == kClusterSize);
          std::memcpy(cluster.data() + within, in.data() + done, length);
        });
  }

  void zero(std::uint64_t offset, std::uint64_t length, bool) override {
    const std::unique_lock lock(mutex_);
    check_range("zero disk", offset, length, size_);
    zero_locked(offset, length);
  }

  void flush() override {}

  void resize(std::uint64_t bytes) override {
    check_disk_size("resize disk", bytes);
    const std::unique_lock lock(mutex_);
    if (bytes < size_) {
      std::erase_if(written_, [&](const auto& one) { return one.first * kClusterSize >= bytes; });
      below_bytes_ = std::min(below_bytes_, bytes);
      // What lies behind the end within the last cluster must not come back.
      const std::uint64_t tail = bytes % kClusterSize;
      const auto last = written_.find(bytes / kClusterSize);
      if (last != written_.end() && last->second) {
        std::ranges::fill(std::span(*last->second).subspan(tail), std::byte{0});
      }
    }
    size_ = bytes;
  }

  std::shared_ptr<const DiskImage> image() override {
    const std::unique_lock lock(mutex_);
    if (written_.empty() && size_ == below_->size && below_bytes_ == below_->size) return below_;
    const auto image = std::make_shared<DiskImage>();
    image->size = size_;
    image->base = below_->base;
    image->base_bytes = std::min(below_->base_bytes, below_bytes_);
    image->clusters = below_->clusters;
    if (below_bytes_ != below_->size) trim(*image);
    for (auto& [number, cluster] : written_) {
      if (cluster || !reads_zero_without(*image, number)) {
        image->clusters[number] = std::move(cluster);
      } else {
        image->clusters.erase(number);
      }
    }
    // From here on the image holds them, and a write copies.
    written_.clear();
    below_ = image;
    below_bytes_ = size_;
    return image;
  }

 private:
  static void for_each_piece(std::uint64_t offset, std::uint64_t length, const auto& action) {
    for (std::uint64_t done = 0; done < length;) {
      const std::uint64_t within = (offset + done) % kClusterSize;
      const std::uint64_t piece = std::min(length - done, kClusterSize - within);
      action((offset + done) / kClusterSize, within, piece, done);
      done += piece;
    }
  }

  static void copy_out(const Cluster* cluster, std::uint64_t within, std::span<std::byte> out) {
    if (cluster == nullptr) {
      std::ranges::fill(out, std::byte{0});
    } else {
      std::memcpy(out.data(), cluster->data() + within, out.size());
    }
  }

  static bool reads_zero_without(const DiskImage& image, std::uint64_t number) {
    return !image.base || number * kClusterSize >= image.base_bytes;
  }

  void read_below(std::uint64_t offset, std::span<std::byte> out) const {
    const std::uint64_t there = offset < below_bytes_ ? below_bytes_ - offset : 0;
    const auto bytes = std::min<std::uint64_t>(there, out.size());
    if (bytes != 0) below_->read(offset, out.first(bytes));
    std::ranges::fill(out.subspan(bytes), std::byte{0});
  }

  // The caller overwrites all of it, if `whole`.
  Cluster& writable(std::uint64_t number, bool whole) {
    const auto found = written_.find(number);
    if (found != written_.end() && found->second) return *found->second;
    auto cluster = std::make_shared<Cluster>();
    // make_shared zeroes it, which is what a cluster of zeros wants.
    if (!whole && found == written_.end()) read_below(number * kClusterSize, *cluster);
    return *(written_[number] = std::move(cluster));
  }

  void zero_locked(std::uint64_t offset, std::uint64_t length) {
    for_each_piece(
        offset, length,
        [&](std::uint64_t number, std::uint64_t within, std::uint64_t bytes, std::uint64_t) {
          // The last one may be cut short by the end of the disk.
          const bool whole =
              within == 0 && (bytes == kClusterSize || number * kClusterSize + bytes == size_);
          if (!whole) {
            std::memset(writable(number, false).data() + within, 0, bytes);
          } else if (reads_zero_without(*below_, number) && !below_->clusters.contains(number)) {
            written_.erase(number);
          } else {
            written_[number] = nullptr;
          }
        });
  }

  // Takes away what a shrink hid.
  void trim(DiskImage& image) const {
    const std::uint64_t first = below_bytes_ / kClusterSize;
    const std::uint64_t tail = below_bytes_ % kClusterSize;
    auto from = image.clusters.lower_bound(first);
    if (tail != 0 && from != image.clusters.end() && from->first == first) {
      if (from->second) {
        auto cut = std::make_shared<Cluster>(*from->second);
        std::ranges::fill(std::span(*cut).subspan(tail), std::byte{0});
        from->second = std::move(cut);
      }
      ++from;
    }
    image.clusters.erase(from, image.clusters.end());
  }

  // Readers side by side: one that waits for the file below keeps only writers waiting.
  mutable std::shared_mutex mutex_;
  std::shared_ptr<const DiskImage> below_;
  std::uint64_t size_;
  std::uint64_t below_bytes_;  // so many of the image count, zeros follow
  // By number; null: zeros.
  std::unordered_map<std::uint64_t, std::shared_ptr<Cluster>> written_;
};

}  // namespace

std::unique_ptr<Disk> make_overlay(std::shared_ptr<const DiskImage> image) {
  if (image->base) image->base->check_unchanged();
  return std::make_unique<Overlay>(std::move(image));
}

}  // namespace kvitest
