// What holds the bytes of a guest's disk: memory, a file, or an overlay that keeps what was written
// over content that never changes.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <variant>

#include "native/disk/image.h"

namespace kvitest {

inline constexpr std::uint64_t kSectorSize = 512;
// Of any disk. What a disk in memory really takes is what was written to it.
inline constexpr std::uint64_t kMaxDiskBytes = std::uint64_t{1} << 42;

// Zeros, until something is written.
struct MemoryBacking {
  std::uint64_t bytes = 0;
};
// A file of the host that the guest writes to; nobody else may use it meanwhile.
enum class FileEngine : std::uint8_t { kAuto, kUring, kThreads };
struct FileBacking {
  std::string path;
  FileEngine engine = FileEngine::kAuto;  // kAuto: an io_uring where the kernel has one
};
// A file of the host that is never written to.
struct OverlayBacking {
  std::string path;
};
using Backing = std::variant<MemoryBacking, FileBacking, OverlayBacking>;

// Locks itself: any thread may call it at any time. Every call throws Error: EINVAL for a range
// that is not wholly inside, and what the host's file gives.
class Disk {
 public:
  virtual ~Disk() = default;
  // Bytes, a multiple of 512.
  virtual std::uint64_t size() const = 0;
  // read() and write() may wait for a device of the host.
  virtual bool may_wait() const = 0;
  // An open file to be read, whose bytes from 0 to size() are the disk's; -1 for another disk.
  virtual int file() const { return -1; }
  virtual void read(std::uint64_t offset, std::span<std::byte> out) = 0;
  virtual void write(std::uint64_t offset, std::span<const std::byte> in) = 0;
  // Of a disk with a file(): the host's kernel copies from and to the pieces, one behind the other,
  // which lie in guest memory. Of another disk they throw ENOTSUP.
  virtual void read_pieces(std::uint64_t offset, std::span<const iovec> out);
  virtual void write_pieces(std::uint64_t offset, std::span<const iovec> in);
  // The range reads as zeros from here on; may_free: the room it takes is given back where that is
  // possible.
  virtual void zero(std::uint64_t offset, std::uint64_t length, bool may_free) = 0;
  // What was written survives a crash of the host, as far as the backing can.
  virtual void flush() = 0;
  // New bytes are zeros, and so are bytes that went and came back. A multiple of 512.
  virtual void resize(std::uint64_t bytes) = 0;
  // Its content at this moment, never changed again. Nobody may write to it meanwhile.
  virtual std::shared_ptr<const DiskImage> image() = 0;
};

// read_only: a file is then never written to, nor locked against other readers. Throws Error.
std::unique_ptr<Disk> open_disk(const Backing& backing, bool read_only);
// A disk that begins as the image. Throws Error (ESTALE) when the file below it was changed.
std::unique_ptr<Disk> make_overlay(std::shared_ptr<const DiskImage> image);

// Of a disk that a person asks for; throws Error (EINVAL) naming what is wrong.
void check_disk_size(const std::string& operation, std::uint64_t bytes);

}  // namespace kvitest
