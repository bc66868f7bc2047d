// One io_uring (io_uring(7)), by its system calls: reads of files that the
// kernel does at once when it can, without a thread of ours.
#pragma once

#include <linux/io_uring.h>
#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "native/unique_fd.h"

namespace kvitest {

// Not locked: its user locks all but wait().
class Uring {
 public:
  struct Done {
    std::uint64_t tag;
    std::int32_t result;  // bytes, or an errno negated
  };

  // Room for `entries` operations under way, a power of two. Null where the
  // kernel has none (ENOSYS), forbids it (kernel.io_uring_disabled, a seccomp
  // filter: EPERM) or lacks memory; why: one line about that.
  static std::unique_ptr<Uring> make(unsigned entries, std::string& why);
  ~Uring();
  Uring(const Uring&) = delete;
  Uring& operator=(const Uring&) = delete;

  // Queues an operation for the next submit(); false when there is no room. The
  // pieces, at least one and at most IOV_MAX, and their list stay in place until
  // it is done.
  bool read(int fd, std::uint64_t offset, std::span<const iovec> out, std::uint64_t tag);
  bool nothing(std::uint64_t tag);  // done at once, to end somebody's wait()
  // Gives the kernel what is queued; what is in the page cache is usually done
  // when it returns. False when it has no memory for all of it now: the rest
  // stays queued. Throws Error.
  bool submit();
  // The next operation that is done.
  std::optional<Done> take();
  // Waits until one is done that nobody has taken. Any thread, without the
  // user's lock. Throws Error.
  void wait();

 private:
  struct Mapping {
    void* at = nullptr;
    std::size_t bytes = 0;
    ~Mapping();
  };
  Uring() = default;
  bool map(const io_uring_params& params);
  io_uring_sqe* next(std::uint64_t tag);

  UniqueFd fd_;
  Mapping rings_;
  Mapping entries_;
  unsigned* sq_tail_ = nullptr;
  unsigned* sq_array_ = nullptr;
  unsigned sq_mask_ = 0;
  unsigned* cq_head_ = nullptr;
  unsigned* cq_tail_ = nullptr;
  io_uring_cqe* cqes_ = nullptr;
  unsigned cq_mask_ = 0;
  unsigned queued_ = 0;
  unsigned under_way_ = 0;  // queued ones too, never more than the completion ring has room for
  unsigned limit_ = 0;
};

}  // namespace kvitest
