// A disk that is a file of the host, and the opening of every kind.
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <mutex>
#include <shared_mutex>
#include <utility>
#include <vector>

#include "native/disk/disk.h"
#include "native/disk/range.h"
#include "native/error.h"

namespace kvitest {
namespace {

// A checkpoint copies the content: the machine goes on writing to the file.
constexpr std::uint64_t kMaxCopiedBytes = std::uint64_t{1} << 30;
constexpr std::size_t kZeroPiece = 64 * 1024;

// What is left to be moved of a list of pieces.
class Pieces {
 public:
  explicit Pieces(std::span<const iovec> pieces) : left_(pieces.begin(), pieces.end()) {
    for (const iovec& piece : pieces) bytes_ += piece.iov_len;
  }

  std::uint64_t bytes() const { return bytes_; }
  const iovec* data() const { return left_.data() + first_; }
  // As many as one system call takes.
  int count() const {
    return static_cast<int>(std::min<std::size_t>(left_.size() - first_, IOV_MAX));
  }

  // done <= bytes()
  void drop(std::size_t done) {
    bytes_ -= done;
    for (; done != 0; ++first_) {
      iovec& piece = left_[first_];
      const std::size_t part = std::min(done, piece.iov_len);
      piece = {static_cast<std::byte*>(piece.iov_base) + part, piece.iov_len - part};
      done -= part;
      if (piece.iov_len != 0) return;
    }
  }

 private:
  std::vector<iovec> left_;
  std::size_t first_ = 0;
  std::uint64_t bytes_ = 0;
};

class FileDisk : public Disk {
 public:
  explicit FileDisk(const std::string& path)
      : path_(path), fd_(open_locked(path, O_RDWR, LOCK_EX)), size_(file_size()) {
    check_disk_size("open disk " + path, size_);
  }

  std::uint64_t size() const override {
    const std::shared_lock lock(mutex_);
    return size_;
  }
  bool may_wait() const override { return true; }
  int file() const override { return fd_.get(); }

  void read(std::uint64_t offset, std::span<std::byte> out) override {
    const std::shared_lock lock(mutex_);
    check_range("read disk", offset, out.size(), size_);
    read_file(fd_.get(), offset, out, path_);
  }

  void write(std::uint64_t offset, std::span<const std::byte> in) override {
    const std::shared_lock lock(mutex_);
    check_range("write disk", offset, in.size(), size_);
    write_all(offset, in);
  }

  void read_pieces(std::uint64_t offset, std::span<const iovec> out) override {
    move_pieces("read disk", ::preadv, offset, out);
  }

  void write_pieces(std::uint64_t offset, std::span<const iovec> in) override {
    move_pieces("write disk", ::pwritev, offset, in);
  }

  void zero(std::uint64_t offset, std::uint64_t length, bool may_free) override {
    const std::shared_lock lock(mutex_);
    check_range("zero disk", offset, length, size_);
    if (length == 0) return;
    const int mode = may_free ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE;
    if (::fallocate(fd_.get(), mode | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
                    static_cast<off_t>(length)) == 0) {
      return;
    }
    if (errno != EOPNOTSUPP) throw Error("zero disk", errno, path_);
    const std::vector<std::byte> zeros(kZeroPiece);
    for (std::uint64_t done = 0; done < length;) {
      const auto piece = std::min<std::uint64_t>(length - done, zeros.size());
      write_all(offset + done, std::span(zeros).first(piece));
      done += piece;
    }
  }

  void flush() override {
    if (::fdatasync(fd_.get()) != 0) throw Error("flush disk", errno, path_);
  }

  void resize(std::uint64_t bytes) override {
    check_disk_size("resize disk", bytes);
    const std::unique_lock lock(mutex_);
    if (::ftruncate(fd_.get(), static_cast<off_t>(bytes)) != 0) {
      throw Error("resize disk", errno, path_);
    }
    size_ = bytes;
  }

  std::shared_ptr<const DiskImage> image() override {
    const std::shared_lock lock(mutex_);
    const auto image = std::make_shared<DiskImage>();
    image->size = size_;
    std::uint64_t copied = 0;
    for (std::uint64_t at = next_data(0); at < size_; at = next_data(at)) {
      const std::uint64_t number = at / kClusterSize;
      const std::uint64_t start = number * kClusterSize;
      const auto cluster = std::make_shared<Cluster>();
      const auto bytes = std::min(kClusterSize, size_ - start);
      read_file(fd_.get(), start, std::span(*cluster).first(bytes), path_);
      at = start + kClusterSize;
      if (std::ranges::all_of(*cluster, [](std::byte byte) { return byte == std::byte{0}; })) {
        continue;
      }
      copied += kClusterSize;
      if (copied > kMaxCopiedBytes) {
        throw Error("checkpoint", EFBIG,
                    path_ + ": a checkpoint would copy more than 1 GiB of this writable disk",
                    "use an overlay over the file instead");
      }
      image->clusters[number] = cluster;
    }
    return image;
  }

 private:
  std::uint64_t file_size() const {
    struct stat status {};
    if (::fstat(fd_.get(), &status) != 0) throw Error("fstat", errno, path_);
    return static_cast<std::uint64_t>(status.st_size);
  }

  // The first byte from `at` on that is not in a hole; the end when there is none.
  std::uint64_t next_data(std::uint64_t at) const {
    if (at >= size_) return size_;
    const off_t found = ::lseek(fd_.get(), static_cast<off_t>(at), SEEK_DATA);
    if (found >= 0) return static_cast<std::uint64_t>(found);
    if (errno == ENXIO) return size_;
    throw Error("seek disk", errno, path_);
  }

  // By preadv or pwritev. A fault of guest memory (EFAULT) is an error like any other.
  void move_pieces(const char* operation, decltype(&::preadv) call, std::uint64_t offset,
                   std::span<const iovec> list) {
    Pieces pieces(list);
    const std::shared_lock lock(mutex_);
    check_range(operation, offset, pieces.bytes(), size_);
    while (pieces.bytes() != 0) {
      const ssize_t done =
          call(fd_.get(), pieces.data(), pieces.count(), static_cast<off_t>(offset));
      if (done < 0 && errno == EINTR) continue;
      if (done < 0) throw Error(operation, errno, path_);
      if (done == 0) throw Error(operation, EIO, path_ + ": the file became shorter");
      pieces.drop(static_cast<std::size_t>(done));
      offset += static_cast<std::uint64_t>(done);
    }
  }

  void write_all(std::uint64_t offset, std::span<const std::byte> in) {
    while (!in.empty()) {
      const ssize_t done = ::pwrite(fd_.get(), in.data(), in.size(), static_cast<off_t>(offset));
      if (done < 0 && errno == EINTR) continue;
      if (done < 0) throw Error("write disk", errno, path_);
      in = in.subspan(static_cast<std::size_t>(done));
      offset += static_cast<std::uint64_t>(done);
    }
  }

  // Exclusive while the size changes.
  mutable std::shared_mutex mutex_;
  std::string path_;
  UniqueFd fd_;
  std::uint64_t size_;
};

std::shared_ptr<const DiskImage> image_of(const std::string& path) {
  const auto image = std::make_shared<DiskImage>();
  image->base = BaseFile::open(path);
  image->base_bytes = image->base->identity().size;
  // A file that ends within a sector is a disk with zeros behind it.
  image->size = (image->base_bytes + kSectorSize - 1) / kSectorSize * kSectorSize;
  check_disk_size("open disk " + path, image->size);
  return image;
}

}  // namespace

void Disk::read_pieces(std::uint64_t, std::span<const iovec>) {
  throw Error("read disk", ENOTSUP, "a disk without a file of its own");
}

void Disk::write_pieces(std::uint64_t, std::span<const iovec>) {
  throw Error("write disk", ENOTSUP, "a disk without a file of its own");
}

void check_disk_size(const std::string& operation, std::uint64_t bytes) {
  if (bytes != 0 && bytes <= kMaxDiskBytes && bytes % kSectorSize == 0) return;
  throw Error(operation, EINVAL, std::to_string(bytes) + " bytes",
              "a disk has 512 bytes to 4 TiB, a multiple of 512");
}

std::unique_ptr<Disk> open_disk(const Backing& backing, bool read_only) {
  if (const auto* memory = std::get_if<MemoryBacking>(&backing)) {
    check_disk_size("make disk", memory->bytes);
    const auto image = std::make_shared<DiskImage>();
    image->size = memory->bytes;
    return make_overlay(image);
  }
  if (const auto* overlay = std::get_if<OverlayBacking>(&backing)) {
    return make_overlay(image_of(overlay->path));
  }
  const std::string& path = std::get<FileBacking>(backing).path;
  // Of a disk that is not written to an overlay is the file itself.
  if (read_only) return make_overlay(image_of(path));
  return std::make_unique<FileDisk>(path);
}

}  // namespace kvitest
