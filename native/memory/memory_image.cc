#include "native/memory/memory_image.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <iterator>
#include <string>

#include "native/error.h"
#include "native/memory/guest_memory.h"

namespace kvitest {
namespace {

// Of neighbouring pages written with one call.
constexpr std::size_t kMostPagesAtOnce = 256;

void write_all(int fd, std::span<const std::byte> bytes, std::uint64_t offset) {
  while (!bytes.empty()) {
    // write(2) and not a mapping: a host without memory answers an errno here, and SIGBUS there.
    const ssize_t done = ::pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) {
      throw Error("pwrite", errno, "the memory image of a checkpoint",
                  "the host is out of memory: release checkpoints or give guests less");
    }
    bytes = bytes.subspan(static_cast<std::size_t>(done));
    offset += static_cast<std::uint64_t>(done);
  }
}

void read_all(int fd, std::span<std::byte> bytes, std::uint64_t offset) {
  while (!bytes.empty()) {
    const ssize_t done = ::pread(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) throw Error("pread", done < 0 ? errno : 0, "the memory image of a checkpoint");
    bytes = bytes.subspan(static_cast<std::size_t>(done));
    offset += static_cast<std::uint64_t>(done);
  }
}

// Each can cost a fork two of the 65530 mappings that a process may have.
constexpr std::size_t kMostEmptyRuns = 32;

std::vector<PageRun> longest_empty_runs(std::span<const std::uint32_t> pages, std::uint64_t bytes) {
  constexpr auto kBlock = static_cast<std::uint32_t>(kHugePageSize / kPageSize);
  std::vector<PageRun> runs;
  const auto add = [&runs](std::uint32_t behind, std::uint32_t next) {
    const std::uint32_t first = (behind + kBlock - 1) / kBlock * kBlock;
    const std::uint32_t end = next / kBlock * kBlock;
    if (first < end) runs.push_back({first, end});
  };
  std::uint32_t behind = 0;
  for (const std::uint32_t page : pages) {
    add(behind, page);
    behind = page + 1;
  }
  add(behind, static_cast<std::uint32_t>(bytes / kPageSize));
  std::ranges::sort(runs, std::greater(), [](const PageRun& run) { return run.end - run.first; });
  runs.resize(std::min(runs.size(), kMostEmptyRuns));
  return runs;
}

UniqueFd new_memfd(std::uint64_t bytes) {
  UniqueFd fd(::memfd_create("kvitest-ram", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd) {
    throw Error("memfd_create", errno, "the memory image of a checkpoint",
                errno == EMFILE ? "raise ulimit -n or release checkpoints" : "");
  }
  if (::ftruncate(fd.get(), static_cast<off_t>(bytes)) != 0) {
    throw Error("ftruncate", errno, "the memory image of a checkpoint");
  }
  return fd;
}

}  // namespace

bool is_zero_page(std::span<const std::byte> page) {
  return page[0] == std::byte{0} && std::memcmp(page.data(), page.data() + 1, page.size() - 1) == 0;
}

std::shared_ptr<const MemoryImage> MemoryImage::make(std::uint64_t bytes,
                                                     std::span<const std::uint32_t> pages,
                                                     const PageSource& source) {
  auto base = std::make_shared<Base>();
  base->fd = new_memfd(bytes);
  base->size = bytes;
  std::vector<std::byte> run(kMostPagesAtOnce * kPageSize);
  std::uint32_t run_start = 0;
  std::size_t run_pages = 0;
  const auto flush = [&] {
    write_all(base->fd.get(), std::span(run).first(run_pages * kPageSize), run_start * kPageSize);
    run_pages = 0;
  };
  for (const std::uint32_t page : pages) {
    if (run_pages == kMostPagesAtOnce || (run_pages != 0 && page != run_start + run_pages)) flush();
    if (run_pages == 0) run_start = page;
    const std::span<std::byte> slot = std::span(run).subspan(run_pages * kPageSize, kPageSize);
    source(page, slot);
    if (is_zero_page(slot)) continue;  // the next page then begins a run of its own
    base->pages.push_back(page);
    ++run_pages;
  }
  flush();
  // A fork that could write to it, by a mistake of ours, would change all the others.
  if (::fcntl(base->fd.get(), F_ADD_SEALS,
              F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    throw Error("F_ADD_SEALS", errno, "the memory image of a checkpoint");
  }
  return std::make_shared<const MemoryImage>(std::move(base), std::vector<std::uint32_t>(),
                                             std::vector<std::byte>());
}

std::shared_ptr<const MemoryImage> MemoryImage::make_delta(const MemoryImage& base,
                                                           std::span<const std::uint32_t> pages,
                                                           const PageSource& source) {
  std::vector<std::byte> delta(pages.size() * kPageSize);
  for (std::size_t i = 0; i < pages.size(); ++i) {
    source(pages[i], std::span(delta).subspan(i * kPageSize, kPageSize));
  }
  return std::make_shared<const MemoryImage>(base.base_, std::vector(pages.begin(), pages.end()),
                                             std::move(delta));
}

MemoryImage::MemoryImage(std::shared_ptr<const Base> base, std::vector<std::uint32_t> delta_pages,
                         std::vector<std::byte> delta)
    : base_(std::move(base)),
      delta_pages_(std::move(delta_pages)),
      delta_(std::move(delta)),
      empty_runs_(longest_empty_runs(pages(), base_->size)) {}

std::uint64_t MemoryImage::bytes_held() const {
  return (base_->pages.size() + delta_pages_.size()) * kPageSize;
}

std::span<const std::byte> MemoryImage::delta_page(std::size_t index) const {
  return std::span(delta_).subspan(index * kPageSize, kPageSize);
}

std::vector<std::uint32_t> MemoryImage::pages() const {
  std::vector<std::uint32_t> all;
  std::ranges::set_union(base_->pages, delta_pages_, std::back_inserter(all));
  return all;
}

void MemoryImage::read(std::uint32_t page, std::uint32_t count, std::span<std::byte> out) const {
  read_all(base_->fd.get(), out.first(count * kPageSize), page * kPageSize);
  auto at = std::ranges::lower_bound(delta_pages_, page);
  for (; at != delta_pages_.end() && *at - page < count; ++at) {
    const std::size_t index = static_cast<std::size_t>(at - delta_pages_.begin());
    std::ranges::copy(delta_page(index), out.begin() + (*at - page) * kPageSize);
  }
}

}  // namespace kvitest
