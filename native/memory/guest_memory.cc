#include "native/memory/guest_memory.h"

#include <linux/prctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <string>

#include "native/error.h"

namespace kvitest {
namespace {

constexpr std::uint64_t kHugePageSize = 2 << 20;
constexpr std::uint64_t kHugePagesFrom = 32 << 20;

std::string mebibytes(std::uint64_t bytes) {
  return std::to_string(bytes >> 20) + " MiB";
}

}  // namespace

GuestMemory::GuestMemory(std::uint64_t bytes) : size_(bytes) {
  if (bytes == 0 || bytes % kPageSize != 0) {
    throw Error("guest memory", EINVAL, std::to_string(bytes) + " bytes",
                "give a nonzero multiple of 4096");
  }
  // Anonymous and private, not a memfd: shared memory gets no transparent huge pages by default
  // (shmem_enabled is "never"), and a guest that boots on 4 KiB pages takes one nested page fault
  // for each.
  mapped_size_ = bytes + kHugePageSize;
  if (mapped_size_ < bytes) throw Error("mmap", ENOMEM, "guest RAM of " + mebibytes(bytes));
  mapping_ = ::mmap(nullptr, mapped_size_, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapping_ == MAP_FAILED) {
    throw Error("mmap", errno, "guest RAM of " + mebibytes(bytes), "give the guest less memory");
  }
  // KVM maps a huge page only where guest and host address agree in their low 21 bits.
  const auto address = reinterpret_cast<std::uintptr_t>(mapping_);
  const std::uintptr_t aligned = (address + kHugePageSize - 1) & ~(kHugePageSize - 1);
  void* host = reinterpret_cast<void*>(aligned);
  // Advice only, so failures do not matter: a core dump of the host process is about our code, not
  // about gigabytes of guest; a forked child has no business with guest RAM; a bare guest touches a
  // few pages and would only wait for 2 MiB to be cleared.
  ::madvise(host, bytes, MADV_DONTDUMP);
  ::madvise(host, bytes, MADV_DONTFORK);
  ::madvise(host, bytes, bytes >= kHugePagesFrom ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
  // For whoever reads /proc/PID/maps; kernels without CONFIG_ANON_VMA_NAME refuse.
  ::prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, host, bytes, "kvitest-ram");

  const std::uint64_t low = std::min<std::uint64_t>(bytes, kLowRamLimit);
  regions_.push_back({0, low, host});
  if (bytes > low) {
    regions_.push_back({kHighRamBase, bytes - low, static_cast<std::byte*>(host) + low});
  }
}

GuestMemory::~GuestMemory() {
  ::munmap(mapping_, mapped_size_);
}

std::uint64_t GuestMemory::size() const {
  return size_;
}

std::span<const RamRegion> GuestMemory::regions() const {
  return regions_;
}

void* GuestMemory::locate(Gpa gpa, std::uint64_t length, std::uint64_t alignment) const {
  if (gpa % alignment != 0) return nullptr;
  for (const RamRegion& region : regions_) {
    if (gpa < region.base) continue;
    const std::uint64_t offset = gpa - region.base;
    // Written so that nothing can wrap around: both comparisons are of differences.
    if (offset <= region.size && length <= region.size - offset) {
      return static_cast<std::byte*>(region.host) + offset;
    }
  }
  return nullptr;
}

bool GuestMemory::contains(Gpa gpa, std::uint64_t length) const {
  return locate(gpa, length, 1) != nullptr;
}

bool GuestMemory::read(Gpa gpa, std::span<std::byte> out) const {
  const void* from = locate(gpa, out.size(), 1);
  if (from == nullptr) return false;
  std::memcpy(out.data(), from, out.size());
  return true;
}

bool GuestMemory::write(Gpa gpa, std::span<const std::byte> in) {
  void* to = locate(gpa, in.size(), 1);
  if (to == nullptr) return false;
  std::memcpy(to, in.data(), in.size());
  return true;
}

bool GuestMemory::fill(Gpa gpa, std::byte value, std::uint64_t length) {
  void* to = locate(gpa, length, 1);
  if (to == nullptr) return false;
  std::memset(to, std::to_integer<int>(value), length);
  return true;
}

bool GuestMemory::read_from_fd(Gpa gpa, int fd, std::uint64_t offset, std::uint64_t length) {
  auto* to = static_cast<std::byte*>(locate(gpa, length, 1));
  if (to == nullptr) return false;
  std::uint64_t done = 0;
  while (done < length) {
    const ssize_t got = ::pread(fd, to + done, length - done, static_cast<off_t>(offset + done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw Error("pread", errno, "into guest RAM");
    if (got == 0) {
      throw Error("pread", 0,
                  "the file ends at byte " + std::to_string(offset + done) + ", " +
                      std::to_string(length - done) + " bytes early");
    }
    done += static_cast<std::uint64_t>(got);
  }
  return true;
}

}  // namespace kvitest
