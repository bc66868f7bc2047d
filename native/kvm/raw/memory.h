// Memory that the kernel is given addresses of: each mapping stands between two pages that nobody
// may touch, so that a kernel that writes more than it should gets EFAULT and not our heap.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace kvitest::raw {

class Mapping {
 public:
  // `fd` -1: anonymous. Throws Error with the errno of mmap(2).
  Mapping(int fd, std::uint64_t bytes, std::uint64_t offset, bool shared, bool huge);
  ~Mapping();
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  std::uint64_t size() const { return size_; }
  std::uint64_t address() const { return reinterpret_cast<std::uint64_t>(data_); }

  // Copies by way of the kernel: 0, or the errno. A page that has no memory behind it (beyond the
  // end of its file, refused by its fd) is EFAULT here and would be a deadly signal otherwise. The
  // range must be inside.
  int read(std::uint64_t offset, std::span<std::byte> into) const;
  int write(std::uint64_t offset, std::span<const std::byte> from);

 private:
  void* reserved_ = nullptr;
  std::size_t reserved_size_ = 0;
  std::byte* data_ = nullptr;
  std::uint64_t size_ = 0;
};

// The bytes of one ioctl: they end where the page that nobody may touch begins. Shared with
// children.
class ArgumentBuffer {
 public:
  explicit ArgumentBuffer(std::span<const std::byte> data);

  std::span<std::byte> bytes() { return {data_, size_}; }

 private:
  Mapping mapping_;
  std::byte* data_;
  std::size_t size_;
};

}  // namespace kvitest::raw
