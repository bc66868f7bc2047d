// Guest RAM. This is the only way to touch guest bytes: every access copies, every access is
// checked, and no pointer into guest memory leaves this folder except to the kernel: whole regions
// to KVM, buffers to a system call that copies them.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <type_traits>
#include <vector>

#include "native/memory/memory_image.h"

namespace kvitest {

using Gpa = std::uint64_t;  // guest physical address

inline constexpr std::uint64_t kPageSize = 4096;
inline constexpr std::uint64_t kHugePageSize = 2 << 20;
// RAM below 4 GiB ends here at the latest; the rest goes above 4 GiB (LAPIC, IOAPIC, PCI windows
// live in the hole).
inline constexpr Gpa kLowRamLimit = 0xC000'0000;
inline constexpr Gpa kHighRamBase = 0x1'0000'0000;

// One contiguous piece of RAM, as KVM_SET_USER_MEMORY_REGION wants it.
struct RamRegion {
  Gpa base;
  std::uint64_t size;
  void* host;  // only for KVM memslots and memory images
};

class GuestMemory {
 public:
  // bytes: a nonzero multiple of 4096. Throws Error (ENOMEM, EINVAL).
  explicit GuestMemory(std::uint64_t bytes);
  // A copy-on-write copy of the image: costs a mapping, not memory. Throws Error (ENOMEM: also when
  // the process has no mapping left).
  explicit GuestMemory(std::shared_ptr<const MemoryImage> image);
  ~GuestMemory();
  GuestMemory(const GuestMemory&) = delete;
  GuestMemory& operator=(const GuestMemory&) = delete;

  std::uint64_t size() const;
  std::span<const RamRegion> regions() const;

  // True when [gpa, gpa + length) is RAM; a range may span two adjacent regions never, one always.
  bool contains(Gpa gpa, std::uint64_t length) const;

  // RAM as it is now. Nobody may write to it meanwhile. Throws Error.
  std::shared_ptr<const MemoryImage> image() const;
  // Pages of a copy that are no longer shared with its image, by whoever's write; of RAM without an
  // image, pages that exist. Throws Error.
  std::size_t private_pages() const;
  // Makes a copy equal to its image again; returns how many pages were taken back. Nobody may touch
  // it meanwhile. Throws Error.
  std::size_t restore();

  // Gives whole pages back to the host, while the guest runs: each reads as zeros from here on, or
  // as before where a fork could only have zeros at the price of memory. False, and nothing done,
  // unless the range is RAM and made of whole pages. Throws Error. Any thread; not for memory that
  // the kernel has pinned (registered buffers, VFIO): the guest would then see other pages.
  [[nodiscard]] bool discard(Gpa gpa, std::uint64_t length);

  // Copy out of, into RAM. False, and nothing copied, unless the whole range is RAM.
  [[nodiscard]] bool read(Gpa gpa, std::span<std::byte> out) const;
  [[nodiscard]] bool write(Gpa gpa, std::span<const std::byte> in);
  [[nodiscard]] bool fill(Gpa gpa, std::byte value, std::uint64_t length);
  // pread(2) of a whole file range straight into RAM. False when out of RAM; throws Error on I/O.
  [[nodiscard]] bool read_from_fd(Gpa gpa, int fd, std::uint64_t offset, std::uint64_t length);

  // Where a range of RAM lies in this process, for a system call that copies to or from it itself
  // (preadv, pwritev, io_uring): we look at none of its bytes, which the guest changes meanwhile.
  // None unless all of it is RAM. Stays mapped for as long as this object; of a page that is
  // discarded meanwhile the call finds, or leaves, zeros.
  [[nodiscard]] std::optional<iovec> lend(Gpa gpa, std::uint64_t length) const;

  // One naturally aligned value, read or written once (no tearing, no double fetch).
  template <typename T>
  [[nodiscard]] std::optional<T> load(Gpa gpa) const {
    static_assert(std::is_unsigned_v<T>);
    T* p = static_cast<T*>(locate(gpa, sizeof(T), alignof(T)));
    if (p == nullptr) return std::nullopt;
    return __atomic_load_n(p, __ATOMIC_ACQUIRE);
  }
  template <typename T>
  [[nodiscard]] bool store(Gpa gpa, T value) {
    static_assert(std::is_unsigned_v<T>);
    T* p = static_cast<T*>(locate(gpa, sizeof(T), alignof(T)));
    if (p == nullptr) return false;
    __atomic_store_n(p, value, __ATOMIC_RELEASE);
    return true;
  }

 private:
  void set_regions();
  std::span<std::byte> page(std::uint32_t number) const;
  void copy_delta();
  void map_empty_runs();
  bool is_in_empty_run(std::uint32_t number) const;
  void map_nothing(const PageRun& run);
  void discard_of_fork(std::uint32_t first, std::uint32_t end);
  void drop(std::uint32_t first, std::uint32_t end);
  bool is_zero_below(std::uint32_t number) const;
  void map_image(std::uint32_t first, std::uint32_t end);
  void advise(std::byte* from, std::uint64_t bytes);
  void* locate(Gpa gpa, std::uint64_t length, std::uint64_t alignment) const;
  std::vector<RamRegion> regions_;
  std::uint64_t size_ = 0;
  std::byte* host_ = nullptr;  // all regions lie behind one another from here
  void* mapping_ = nullptr;
  std::uint64_t mapped_size_ = 0;
  std::shared_ptr<const MemoryImage> image_;  // null for a machine that was booted

  // The image's, none of which a fork maps of it.
  std::span<const PageRun> empty_runs_;

  std::mutex discards_;
  // Runs of pages that a discard took out of the image's mapping, first page to end; they lie
  // neither over nor behind one another.
  std::map<std::uint32_t, std::uint32_t> taken_out_;
};

}  // namespace kvitest
