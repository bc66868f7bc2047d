#include "native/kvm/raw/memory.h"

#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>

#include "native/error.h"

namespace kvitest::raw {
namespace {

constexpr std::uint64_t kPage = 4096;
constexpr std::uint64_t kHugePage = std::uint64_t{2} << 20;

std::uint64_t pages(std::uint64_t bytes) {
  return (bytes + kPage - 1) / kPage * kPage;
}

}  // namespace

Mapping::Mapping(int fd, std::uint64_t bytes, std::uint64_t offset, bool shared, bool huge)
    : size_(bytes) {
  const std::uint64_t alignment = huge ? kHugePage : kPage;
  reserved_size_ = pages(bytes) + 2 * alignment;
  reserved_ = ::mmap(nullptr, reserved_size_, PROT_NONE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (reserved_ == MAP_FAILED) throw Error("mmap", errno, std::to_string(bytes) + " bytes");
  const std::uint64_t first = reinterpret_cast<std::uint64_t>(reserved_) + kPage;
  const std::uint64_t aligned = (first + alignment - 1) / alignment * alignment;
  const int flags = MAP_FIXED | MAP_NORESERVE | (shared || fd >= 0 ? MAP_SHARED : MAP_PRIVATE) |
                    (fd >= 0 ? 0 : MAP_ANONYMOUS);
  void* data = ::mmap(reinterpret_cast<void*>(aligned), bytes, PROT_READ | PROT_WRITE, flags, fd,
                      static_cast<off_t>(offset));
  if (data == MAP_FAILED) {
    const int code = errno;
    ::munmap(reserved_, reserved_size_);
    throw Error("mmap", code, std::to_string(bytes) + " bytes");
  }
  data_ = static_cast<std::byte*>(data);
  // Only advice: a kernel without huge pages maps small ones.
  if (huge) ::madvise(data, bytes, MADV_HUGEPAGE);
}

Mapping::~Mapping() {
  ::munmap(reserved_, reserved_size_);
}

int Mapping::read(std::uint64_t offset, std::span<std::byte> into) const {
  const iovec local{into.data(), into.size()};
  const iovec remote{data_ + offset, into.size()};
  const ssize_t copied = ::process_vm_readv(::getpid(), &local, 1, &remote, 1, 0);
  if (copied < 0) return errno;
  return static_cast<std::size_t>(copied) == into.size() ? 0 : EFAULT;
}

int Mapping::write(std::uint64_t offset, std::span<const std::byte> from) {
  const iovec local{const_cast<std::byte*>(from.data()), from.size()};
  const iovec remote{data_ + offset, from.size()};
  const ssize_t copied = ::process_vm_writev(::getpid(), &local, 1, &remote, 1, 0);
  if (copied < 0) return errno;
  return static_cast<std::size_t>(copied) == from.size() ? 0 : EFAULT;
}

ArgumentBuffer::ArgumentBuffer(std::span<const std::byte> data)
    : mapping_(-1, std::max(pages(data.size()), kPage), 0, true, false), size_(data.size()) {
  data_ = reinterpret_cast<std::byte*>(mapping_.address()) + mapping_.size() - size_;
  std::ranges::copy(data, data_);
}

}  // namespace kvitest::raw
