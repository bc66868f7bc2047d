#include "native/memory/page_map.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string>

#include "native/error.h"
#include "native/memory/guest_memory.h"
#include "native/unique_fd.h"

namespace kvitest {
namespace {

// Documentation/admin-guide/mm/pagemap.rst. A process needs no privilege for these bits of its own
// pages.
constexpr std::uint64_t kPresentBit = 1ULL << 63;
constexpr std::uint64_t kSwappedBit = 1ULL << 62;
constexpr std::uint64_t kFileBit = 1ULL << 61;

constexpr std::size_t kEntriesAtOnce = 8192;

bool is_of_kind(std::uint64_t entry, PageKind kind) {
  if ((entry & (kPresentBit | kSwappedBit)) == 0) return false;
  return kind == PageKind::kPresent || (entry & kFileBit) == 0;
}

}  // namespace

std::vector<std::uint32_t> pages_of_kind(const void* mapping, std::uint64_t bytes, PageKind kind) {
  const UniqueFd fd(::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC));
  if (!fd) throw Error("open", errno, "/proc/self/pagemap", "mount /proc");
  const std::uint64_t pages = bytes / kPageSize;
  const std::uint64_t first = reinterpret_cast<std::uintptr_t>(mapping) / kPageSize;
  std::vector<std::uint32_t> found;
  std::vector<std::uint64_t> entries(std::min<std::uint64_t>(pages, kEntriesAtOnce));
  for (std::uint64_t page = 0; page < pages;) {
    const std::size_t wanted = std::min<std::uint64_t>(entries.size(), pages - page);
    const ssize_t got = ::pread(fd.get(), entries.data(), wanted * sizeof entries[0],
                                static_cast<off_t>((first + page) * sizeof entries[0]));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) throw Error("pread", got < 0 ? errno : 0, "/proc/self/pagemap");
    const std::size_t answered = static_cast<std::size_t>(got) / sizeof entries[0];
    for (std::size_t i = 0; i < answered; ++i) {
      if (is_of_kind(entries[i], kind)) found.push_back(static_cast<std::uint32_t>(page + i));
    }
    page += answered;
  }
  return found;
}

}  // namespace kvitest
