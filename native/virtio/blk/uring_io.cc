#include "native/virtio/blk/uring_io.h"

#include <pthread.h>

#include <climits>
#include <utility>

#include "native/counts.h"
#include "native/error.h"
#include "native/quiet_thread.h"

namespace kvitest {
namespace {

constexpr std::uint64_t kWake = ~std::uint64_t{0};  // the tag of what is no job

}  // namespace

UringIo::UringIo(std::string name, std::unique_ptr<Uring> ring, int file,
                 std::function<void(RequestQueues::Job&, std::uint32_t)> give_back)
    : name_(std::move(name)),
      ring_(std::move(ring)),
      file_(file),
      give_back_(std::move(give_back)),
      // One entry is for the end.
      operations_(kUringEntries - 1) {
  for (std::uint64_t tag = 0; tag < operations_.size(); ++tag) free_.push_back(tag);
}

UringIo::~UringIo() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
    ring_->nothing(kWake);
    while (!ring_->submit()) std::this_thread::yield();
  }
  changed_.notify_all();
  thread_.join();
  --live_threads;
}

bool UringIo::begin(RequestQueues::Job& job, const BlkContext& context) {
  DescriptorChain chain = job.chain;
  const auto transfer = transfer_of(chain, context);
  if (!transfer || transfer->to_disk || transfer->length == 0 ||
      transfer->length > kUringMaxBytes) {
    return false;
  }
  DescriptorChain answered = chain;
  std::vector<iovec> pieces;
  if (answered.lend_answer(transfer->length, pieces) != transfer->length) return false;
  if (pieces.size() > IOV_MAX) return false;

  const std::lock_guard lock(mutex_);
  if (free_.empty()) return false;
  const std::uint64_t tag = free_.back();
  // A vector that is moved keeps its place.
  if (!ring_->read(file_, transfer->offset, pieces, tag)) return false;
  free_.pop_back();
  ++under_way_;
  job.chain = std::move(chain);
  operations_[tag].emplace(
      Operation{std::move(job), std::move(answered), context.disk, *transfer, std::move(pieces)});
  return true;
}

void UringIo::submit() {
  while (true) {
    bool all = false;
    {
      const std::lock_guard lock(mutex_);
      all = ring_->submit();
    }
    collect();
    if (all) break;
    std::this_thread::yield();
  }
  const std::lock_guard lock(mutex_);
  if (under_way_ == 0) return;
  if (!thread_.joinable()) {
    thread_ = quiet_thread("disk " + name_, [this] { run(); });
    ++live_threads;
  }
  changed_.notify_one();
}

void UringIo::collect() {
  while (true) {
    std::optional<Operation> operation;
    std::int32_t result = 0;
    {
      const std::lock_guard lock(mutex_);
      const auto done = ring_->take();
      if (!done) return;
      if (done->tag == kWake) continue;
      operation = std::exchange(operations_[done->tag], std::nullopt);
      free_.push_back(done->tag);
      --under_way_;
      result = done->result;
    }
    finish(*operation, result);
  }
}

void UringIo::finish(Operation& operation, std::int32_t result) {
  RequestQueues::Job& job = operation.job;
  const Transfer& transfer = operation.transfer;
  bool ok = result >= 0 && static_cast<std::uint64_t>(result) == transfer.length;
  if (!ok) {
    // Cut short, or cancelled with the thread that asked (a vCPU that ended):
    // once more, by the disk, which says what is an error.
    try {
      operation.disk->read_pieces(transfer.offset, operation.pieces);
      ok = true;
    } catch (const Error&) {
      // The driver's IOERR.
    }
  }
  if (ok) job.chain = std::move(operation.answered);
  give_back_(job, answer(job.chain, ok));
}

void UringIo::run() {
  ::pthread_setname_np(::pthread_self(), ("kvitest-" + name_).substr(0, 13).append("/u").c_str());
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return under_way_ != 0 || ending_; });
    if (ending_) return;
    lock.unlock();
    ring_->wait();
    collect();
    lock.lock();
  }
}

}  // namespace kvitest
