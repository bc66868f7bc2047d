// The RAM of a guest at one moment, never changed again: what forks start from.
//
// A sealed memfd that any number of forks map privately, and for an image taken from a fork, the
// pages in which it differs from the image it was forked from. The memfd is then shared by both, so
// that a fork of a fork of a fork is one level deep like any other.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "native/unique_fd.h"

namespace kvitest {

// Reads page `page` (numbered over all RAM) into 4096 bytes.
using PageSource = std::function<void(std::uint32_t page, std::span<std::byte> out)>;

// Pages from `first` up to, not including, `end`.
struct PageRun {
  std::uint32_t first;
  std::uint32_t end;
};

bool is_zero_page(std::span<const std::byte> page);

// Immutable once made, so any thread may use it.
class MemoryImage {
 public:
  // `bytes` of RAM that are all zero but `pages`, ascending, whose content `source` gives; pages of
  // zeros are left out. Throws Error: ENFILE, EMFILE (no fd left), ENOSPC or ENOMEM (no memory).
  static std::shared_ptr<const MemoryImage> make(std::uint64_t bytes,
                                                 std::span<const std::uint32_t> pages,
                                                 const PageSource& source);
  // `base` but for `pages`, ascending.
  static std::shared_ptr<const MemoryImage> make_delta(const MemoryImage& base,
                                                       std::span<const std::uint32_t> pages,
                                                       const PageSource& source);

  // Of RAM.
  std::uint64_t size() const { return base_->size; }
  // That it holds, in the memfd and beside it.
  std::uint64_t bytes_held() const;

  // The memfd to map.
  int fd() const { return base_->fd.get(); }
  // Pages that are not as in the memfd, ascending.
  std::span<const std::uint32_t> delta_pages() const { return delta_pages_; }
  // Of delta_pages()[index].
  std::span<const std::byte> delta_page(std::size_t index) const;
  // The memfd's pages that are not zero, ascending.
  std::span<const std::uint32_t> base_pages() const { return base_->pages; }
  // All pages that may be other than zero, ascending.
  std::vector<std::uint32_t> pages() const;
  // Runs of whole huge pages that it has nothing in, the longest first, and no more of them than a
  // fork can afford mappings for.
  std::span<const PageRun> empty_runs() const { return empty_runs_; }
  // Copies `count` pages from `page` on.
  void read(std::uint32_t page, std::uint32_t count, std::span<std::byte> out) const;

  // Only for make() and make_delta().
  struct Base {
    UniqueFd fd;
    std::uint64_t size = 0;
    std::vector<std::uint32_t> pages;
  };
  MemoryImage(std::shared_ptr<const Base> base, std::vector<std::uint32_t> delta_pages,
              std::vector<std::byte> delta);

 private:
  std::shared_ptr<const Base> base_;
  std::vector<std::uint32_t> delta_pages_;
  std::vector<std::byte> delta_;
  std::vector<PageRun> empty_runs_;
};

}  // namespace kvitest
