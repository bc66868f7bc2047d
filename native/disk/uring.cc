#include "native/disk/uring.h"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>

#include "native/error.h"

namespace kvitest {
namespace {

long enter(int fd, unsigned submit, unsigned wait, unsigned flags) {
  return ::syscall(SYS_io_uring_enter, fd, submit, wait, flags, nullptr, 0);
}

unsigned load(unsigned* at, std::memory_order order) {
  return std::atomic_ref(*at).load(order);
}

template <typename T>
T* at(void* base, std::uint32_t offset) {
  return reinterpret_cast<T*>(static_cast<std::byte*>(base) + offset);
}

}  // namespace

Uring::Mapping::~Mapping() {
  if (at != nullptr) ::munmap(at, bytes);
}

Uring::~Uring() = default;

std::unique_ptr<Uring> Uring::make(unsigned entries, std::string& why) {
  io_uring_params params{};
  const long fd = ::syscall(SYS_io_uring_setup, entries, &params);
  if (fd < 0) {
    why = std::string("io_uring_setup: ") + std::strerror(errno);
    if (errno == EPERM) why += "; sysctl kernel.io_uring_disabled, or a seccomp filter";
    return nullptr;
  }
  std::unique_ptr<Uring> ring(new Uring);
  ring->fd_ = UniqueFd(static_cast<int>(fd));
  // Since 5.4 both rings are one mapping, since 5.5 no completion is lost.
  constexpr std::uint32_t kNeeded = IORING_FEAT_SINGLE_MMAP | IORING_FEAT_NODROP;
  if ((params.features & kNeeded) != kNeeded) {
    why = "io_uring: the kernel's is older than 5.5";
    return nullptr;
  }
  if (!ring->map(params)) {
    why = std::string("io_uring: mmap: ") + std::strerror(errno);
    return nullptr;
  }
  return ring;
}

bool Uring::map(const io_uring_params& params) {
  const auto map_one = [this](Mapping& mapping, std::size_t bytes, std::uint64_t offset) {
    void* at = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd_.get(),
                      static_cast<off_t>(offset));
    if (at == MAP_FAILED) return false;
    mapping.at = at;
    mapping.bytes = bytes;
    return true;
  };
  const std::size_t rings = std::max(params.sq_off.array + params.sq_entries * sizeof(unsigned),
                                     params.cq_off.cqes + params.cq_entries * sizeof(io_uring_cqe));
  if (!map_one(rings_, rings, IORING_OFF_SQ_RING) ||
      !map_one(entries_, params.sq_entries * sizeof(io_uring_sqe), IORING_OFF_SQES)) {
    return false;
  }
  sq_tail_ = at<unsigned>(rings_.at, params.sq_off.tail);
  sq_array_ = at<unsigned>(rings_.at, params.sq_off.array);
  sq_mask_ = *at<unsigned>(rings_.at, params.sq_off.ring_mask);
  cq_head_ = at<unsigned>(rings_.at, params.cq_off.head);
  cq_tail_ = at<unsigned>(rings_.at, params.cq_off.tail);
  cqes_ = at<io_uring_cqe>(rings_.at, params.cq_off.cqes);
  cq_mask_ = *at<unsigned>(rings_.at, params.cq_off.ring_mask);
  limit_ = params.sq_entries;
  return true;
}

io_uring_sqe* Uring::next(std::uint64_t tag) {
  if (under_way_ == limit_) return nullptr;
  const unsigned tail = *sq_tail_;
  const unsigned index = tail & sq_mask_;
  auto* entry = static_cast<io_uring_sqe*>(entries_.at) + index;
  *entry = {};
  entry->user_data = tag;
  sq_array_[index] = index;
  ++queued_;
  ++under_way_;
  return entry;
}

bool Uring::read(int fd, std::uint64_t offset, std::span<const iovec> out, std::uint64_t tag) {
  io_uring_sqe* entry = next(tag);
  if (entry == nullptr) return false;
  entry->fd = fd;
  entry->off = offset;
  if (out.size() == 1) {
    entry->opcode = IORING_OP_READ;
    entry->addr = reinterpret_cast<std::uint64_t>(out.front().iov_base);
    entry->len = static_cast<std::uint32_t>(out.front().iov_len);
  } else {
    entry->opcode = IORING_OP_READV;
    entry->addr = reinterpret_cast<std::uint64_t>(out.data());
    entry->len = static_cast<std::uint32_t>(out.size());
  }
  std::atomic_ref(*sq_tail_).store(*sq_tail_ + 1, std::memory_order_release);
  return true;
}

bool Uring::nothing(std::uint64_t tag) {
  io_uring_sqe* entry = next(tag);
  if (entry == nullptr) return false;
  entry->opcode = IORING_OP_NOP;
  std::atomic_ref(*sq_tail_).store(*sq_tail_ + 1, std::memory_order_release);
  return true;
}

bool Uring::submit() {
  while (queued_ != 0) {
    const long taken = enter(fd_.get(), queued_, 0, 0);
    if (taken < 0 && errno == EINTR) continue;
    if (taken < 0 && (errno == EAGAIN || errno == EBUSY)) return false;
    if (taken < 0) throw Error("io_uring_enter", errno, std::to_string(queued_) + " operations");
    queued_ -= static_cast<unsigned>(taken);
  }
  return true;
}

std::optional<Uring::Done> Uring::take() {
  const unsigned head = *cq_head_;
  if (head == load(cq_tail_, std::memory_order_acquire)) return std::nullopt;
  const io_uring_cqe& entry = cqes_[head & cq_mask_];
  const Done done{entry.user_data, entry.res};
  std::atomic_ref(*cq_head_).store(head + 1, std::memory_order_release);
  --under_way_;
  return done;
}

void Uring::wait() {
  while (load(cq_tail_, std::memory_order_acquire) == load(cq_head_, std::memory_order_acquire)) {
    if (enter(fd_.get(), 0, 1, IORING_ENTER_GETEVENTS) < 0 && errno != EINTR) {
      throw Error("io_uring_enter", errno, "waiting for an operation");
    }
  }
}

}  // namespace kvitest
