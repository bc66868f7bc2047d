#include "native/memory/guest_memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>

#include "native/error.h"
#include "native/unique_fd.h"

namespace kvitest {
namespace {

std::string mebibytes(std::uint64_t bytes) {
  return std::to_string(bytes >> 20) + " MiB";
}

}  // namespace

GuestMemory::GuestMemory(std::uint64_t bytes) : size_(bytes) {
  if (bytes == 0 || bytes % kPageSize != 0) {
    throw Error("guest memory", EINVAL, std::to_string(bytes) + " bytes",
                "give a nonzero multiple of 4096");
  }
  // A memfd shows by its name in /proc/PID/maps, and a sealed one can back checkpoints.
  UniqueFd fd(::memfd_create("kvitest-ram", MFD_CLOEXEC));
  if (!fd) throw Error("memfd_create", errno, "guest RAM of " + mebibytes(bytes));
  if (::ftruncate(fd.get(), static_cast<off_t>(bytes)) != 0) {
    throw Error("ftruncate", errno, "guest RAM of " + mebibytes(bytes));
  }
  void* host =
      ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd.get(), 0);
  if (host == MAP_FAILED) {
    throw Error("mmap", errno, "guest RAM of " + mebibytes(bytes), "give the guest less memory");
  }
  // Advice only, so failures do not matter: a core dump of the host process is about our code, not
  // about gigabytes of guest; a forked child has no business with guest RAM.
  ::madvise(host, bytes, MADV_DONTDUMP);
  ::madvise(host, bytes, MADV_DONTFORK);

  const std::uint64_t low = std::min<std::uint64_t>(bytes, kLowRamLimit);
  regions_.push_back({0, low, host});
  if (bytes > low) {
    regions_.push_back({kHighRamBase, bytes - low, static_cast<std::byte*>(host) + low});
  }
}

GuestMemory::~GuestMemory() {
  // The regions are one mapping.
  ::munmap(regions_.front().host, size_);
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
