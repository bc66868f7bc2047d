#include "native/memory/guest_memory.h"

#include <linux/prctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <string>
#include <utility>

#include "native/error.h"
#include "native/memory/page_map.h"

namespace kvitest {
namespace {

constexpr std::uint64_t kHugePagesFrom = 32 << 20;

std::string mebibytes(std::uint64_t bytes) {
  return std::to_string(bytes >> 20) + " MiB";
}

// KVM maps a huge page only where guest and host address agree in their low 21 bits.
std::byte* align_to_huge_page(void* mapping) {
  const auto address = reinterpret_cast<std::uintptr_t>(mapping);
  return reinterpret_cast<std::byte*>((address + kHugePageSize - 1) & ~(kHugePageSize - 1));
}

Error map_error(std::uint64_t bytes) {
  return Error("mmap", errno, "guest RAM of " + mebibytes(bytes) + " for a fork",
               "have fewer guests at once, or raise vm.max_map_count");
}

// A fork whose delta holds more than this part of its image gets an image of its own: each fork of
// it copies the delta.
constexpr std::size_t kDeltaPart = 4;

// Copying a page back costs about as much as the fault that brings it anew; many of them are given
// back to the host instead.
constexpr std::size_t kMostPagesCopiedBack = 4096;

// Runs of pages that one fork may take out of its mapping: each can cost two of the 65530 mappings
// that a process may have.
constexpr std::size_t kMostRunsTakenOut = 1024;

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
  host_ = align_to_huge_page(mapping_);
  set_regions();
  // A bare guest touches a few pages and would only wait for 2 MiB to be cleared.
  ::madvise(host_, bytes, bytes >= kHugePagesFrom ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
  // For whoever reads /proc/PID/maps; kernels without CONFIG_ANON_VMA_NAME refuse. A memfd has its
  // name.
  ::prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, host_, bytes, "kvitest-ram");
}

GuestMemory::GuestMemory(std::shared_ptr<const MemoryImage> image)
    : size_(image->size()), image_(std::move(image)) {
  const std::uint64_t reserved = size_ + kHugePageSize;
  void* const space =
      ::mmap(nullptr, reserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (space == MAP_FAILED) throw map_error(size_);
  host_ = align_to_huge_page(space);
  // The ends are given back: of the 65530 mappings a process may have, a fork costs one, and two
  // for each of its empty runs.
  const auto before = static_cast<std::size_t>(host_ - static_cast<std::byte*>(space));
  if (before != 0) ::munmap(space, before);
  if (before != kHugePageSize) ::munmap(host_ + size_, kHugePageSize - before);
  mapping_ = host_;
  mapped_size_ = size_;
  if (::mmap(host_, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE | MAP_FIXED,
             image_->fd(), 0) == MAP_FAILED) {
    const Error error = map_error(size_);
    ::munmap(mapping_, mapped_size_);
    throw error;
  }
  set_regions();
  try {
    map_empty_runs();
  } catch (const Error&) {
    ::munmap(mapping_, mapped_size_);
    throw;
  }
  copy_delta();
}

// Advice only, so failures do not matter: a core dump of the host process is about our code, not
// about gigabytes of guest; a forked child has no business with guest RAM.
void GuestMemory::advise(std::byte* from, std::uint64_t bytes) {
  ::madvise(from, bytes, MADV_DONTDUMP);
  ::madvise(from, bytes, MADV_DONTFORK);
}

void GuestMemory::set_regions() {
  advise(host_, size_);
  const std::uint64_t low = std::min<std::uint64_t>(size_, kLowRamLimit);
  regions_.push_back({0, low, host_});
  if (size_ > low) regions_.push_back({kHighRamBase, size_ - low, host_ + low});
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

std::span<std::byte> GuestMemory::page(std::uint32_t number) const {
  return {host_ + number * kPageSize, kPageSize};
}

// Where the image has nothing, a guest on 4 KiB pages of the memfd would pay a nested page fault
// and a copy of zeros for each page that it begins to use: ten times the price of its share of a
// huge page. Linux begins with such memory whenever it needs more than it had.
void GuestMemory::map_empty_runs() {
  if (size_ < kHugePagesFrom) return;
  empty_runs_ = image_->empty_runs();
  for (const PageRun& run : empty_runs_) {
    map_nothing(run);
    ::madvise(page(run.first).data(), (run.end - run.first) * kPageSize, MADV_HUGEPAGE);
  }
}

bool GuestMemory::is_in_empty_run(std::uint32_t number) const {
  return std::ranges::any_of(empty_runs_, [number](const PageRun& run) {
    return run.first <= number && number < run.end;
  });
}

void GuestMemory::copy_delta() {
  const std::span<const std::uint32_t> pages = image_->delta_pages();
  for (std::size_t i = 0; i < pages.size(); ++i) {
    std::ranges::copy(image_->delta_page(i), page(pages[i]).begin());
  }
}

std::shared_ptr<const MemoryImage> GuestMemory::image() const {
  const PageSource source = [this](std::uint32_t number, std::span<std::byte> out) {
    std::ranges::copy(page(number), out.begin());
  };
  if (image_ == nullptr) {
    return MemoryImage::make(size_, pages_of_kind(host_, size_, PageKind::kPresent), source);
  }
  std::vector<std::uint32_t> changed = pages_of_kind(host_, size_, PageKind::kPrivate);
  // Taken out and not touched since: zeros, whatever the image has there.
  std::vector<std::uint32_t> emptied;
  for (const auto& [first, end] : taken_out_) {
    auto at = std::ranges::lower_bound(image_->base_pages(), first);
    for (; at != image_->base_pages().end() && *at < end; ++at) emptied.push_back(*at);
  }
  if (!emptied.empty()) {
    const std::vector<std::uint32_t> touched = std::move(changed);
    changed.clear();
    std::ranges::set_union(touched, emptied, std::back_inserter(changed));
  }
  // Of a huge page a guest may have used but a few.
  std::erase_if(changed, [this](std::uint32_t number) {
    return is_in_empty_run(number) && is_zero_page(page(number));
  });
  if (changed.size() <= image_->base_pages().size() / kDeltaPart) {
    return MemoryImage::make_delta(*image_, changed, source);
  }
  std::vector<std::uint32_t> all;
  std::ranges::set_union(image_->base_pages(), changed, std::back_inserter(all));
  return MemoryImage::make(size_, all, source);
}

std::size_t GuestMemory::private_pages() const {
  return pages_of_kind(host_, size_, image_ == nullptr ? PageKind::kPresent : PageKind::kPrivate)
      .size();
}

// Which pages to take back: the kernel's own record of copy-on-write. KVM's dirty log and dirty
// ring would cost a write-protection fault for each page, know nothing of what our devices write,
// and need a slot flag that makes KVM map 4 KiB pages; the record is there in any case, is exact,
// and counts every writer.
std::size_t GuestMemory::restore() {
  if (image_ == nullptr) {
    throw Error("restore guest memory", EINVAL, "the machine was booted, it has no image");
  }
  for (const auto& [first, end] : taken_out_) map_image(first, end);
  taken_out_.clear();
  const std::vector<std::uint32_t> own = pages_of_kind(host_, size_, PageKind::kPrivate);
  // A page of the delta that was discarded is the memfd's now.
  std::vector<std::uint32_t> changed;
  std::ranges::set_union(own, image_->delta_pages(), std::back_inserter(changed));
  const std::size_t taken_back = changed.size();
  for (const PageRun& run : empty_runs_) drop(run.first, run.end);
  std::erase_if(changed, [this](std::uint32_t number) { return is_in_empty_run(number); });
  if (changed.size() > kMostPagesCopiedBack) {
    if (::madvise(host_, size_, MADV_DONTNEED) != 0) throw Error("MADV_DONTNEED", errno, "a fork");
    copy_delta();
    return taken_back;
  }
  for (std::size_t i = 0; i < changed.size();) {
    std::size_t run = 1;
    while (i + run < changed.size() && changed[i + run] == changed[i] + run) ++run;
    image_->read(changed[i], static_cast<std::uint32_t>(run),
                 {page(changed[i]).data(), run * kPageSize});
    i += run;
  }
  return taken_back;
}

bool GuestMemory::discard(Gpa gpa, std::uint64_t length) {
  const auto* at = static_cast<std::byte*>(locate(gpa, length, kPageSize));
  if (at == nullptr || length % kPageSize != 0) return false;
  const auto first = static_cast<std::uint32_t>((at - host_) / kPageSize);
  const auto end = static_cast<std::uint32_t>(first + length / kPageSize);
  if (first == end) return true;
  if (image_ == nullptr) {
    drop(first, end);
    return true;
  }
  const std::lock_guard lock(discards_);
  discard_of_fork(first, end);
  return true;
}

void GuestMemory::drop(std::uint32_t first, std::uint32_t end) {
  if (::madvise(page(first).data(), (end - first) * kPageSize, MADV_DONTNEED) == 0) return;
  throw Error("MADV_DONTNEED", errno, "guest RAM that a balloon gives back",
              errno == EINVAL ? "do not lock the memory of this process" : "");
}

// What is under a fork's own copy of the page: the memfd's page, or nothing where it was taken out.
bool GuestMemory::is_zero_below(std::uint32_t number) const {
  const auto behind = taken_out_.upper_bound(number);
  if (behind != taken_out_.begin() && number < std::prev(behind)->second) return true;
  return !std::ranges::binary_search(image_->base_pages(), number);
}

// To drop a fork's copy of a page would bring the image's content back: what the guest had there at
// the checkpoint, which no specification lets a device show it again. So such a run leaves the
// image's mapping for an empty one of its own.
void GuestMemory::discard_of_fork(std::uint32_t first, std::uint32_t end) {
  std::uint32_t zeros = first;
  while (zeros != end && is_zero_below(zeros)) ++zeros;
  if (zeros == end) return drop(first, end);
  if (taken_out_.size() >= kMostRunsTakenOut) {
    for (std::uint32_t at = first; at != end; ++at) {
      if (is_zero_below(at)) drop(at, at + 1);
    }
    return;
  }
  map_nothing({first, end});
  // With the runs that it touches it is one.
  auto at = taken_out_.upper_bound(first);
  if (at != taken_out_.begin() && std::prev(at)->second >= first) --at;
  while (at != taken_out_.end() && at->first <= end) {
    first = std::min(first, at->first);
    end = std::max(end, at->second);
    at = taken_out_.erase(at);
  }
  taken_out_[first] = end;
}

void GuestMemory::map_nothing(const PageRun& run) {
  std::byte* const from = page(run.first).data();
  const std::uint64_t bytes = (run.end - run.first) * kPageSize;
  if (::mmap(from, bytes, PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED) {
    throw map_error(bytes);
  }
  advise(from, bytes);
}

void GuestMemory::map_image(std::uint32_t first, std::uint32_t end) {
  std::byte* const from = page(first).data();
  const std::uint64_t bytes = (end - first) * kPageSize;
  if (::mmap(from, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE | MAP_FIXED,
             image_->fd(), static_cast<off_t>(first * kPageSize)) == MAP_FAILED) {
    throw map_error(bytes);
  }
  advise(from, bytes);
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
  // memcpy() wants a pointer even for no bytes, and an empty span may have none.
  if (!out.empty()) std::memcpy(out.data(), from, out.size());
  return true;
}

bool GuestMemory::write(Gpa gpa, std::span<const std::byte> in) {
  void* to = locate(gpa, in.size(), 1);
  if (to == nullptr) return false;
  if (!in.empty()) std::memcpy(to, in.data(), in.size());
  return true;
}

bool GuestMemory::fill(Gpa gpa, std::byte value, std::uint64_t length) {
  void* to = locate(gpa, length, 1);
  if (to == nullptr) return false;
  std::memset(to, std::to_integer<int>(value), length);
  return true;
}

std::optional<iovec> GuestMemory::lend(Gpa gpa, std::uint64_t length) const {
  void* const at = locate(gpa, length, 1);
  if (at == nullptr) return std::nullopt;
  return iovec{at, length};
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
