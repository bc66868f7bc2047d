#include "native/virtio/blk/blk.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <optional>
#include <utility>

#include "native/error.h"
#include "native/little_endian.h"
#include "native/virtio/blk/request.h"
#include "native/virtio/blk/state.h"
#include "native/virtio/blk/uring_io.h"
#include "native/virtio/negotiation.h"
#include "native/virtio/queue.h"
#include "native/virtio/workers.h"

namespace kvitest {
namespace {

constexpr std::uint32_t kTypeBlock = 2;
constexpr std::size_t kMaxWorkers = 4;
// What a doorbell may do on its own vCPU thread: under emulation a thread's
// hand-off costs more than a small request, and a large one would keep the vCPU
// from its guest.
constexpr std::uint64_t kInlineBytes = 256 * 1024;
constexpr std::size_t kInlineRequests = 32;
constexpr std::uint32_t kPhysicalBlock = kClusterSize;
constexpr std::uint32_t kOptimalBytes = 64 * 1024;

// Offsets of struct virtio_blk_config (5.2.4).
constexpr std::size_t kConfigBytes = 60;
constexpr std::size_t kCapacity = 0;
constexpr std::size_t kSizeMax = 8;
constexpr std::size_t kSegMax = 12;
constexpr std::size_t kBlockSize = 20;
constexpr std::size_t kPhysicalBlockExp = 24;
constexpr std::size_t kMinIoSize = 26;
constexpr std::size_t kOptIoSize = 28;
constexpr std::size_t kWriteback = 32;
constexpr std::size_t kNumQueues = 34;
constexpr std::size_t kMaxDiscardSectors = 36;
constexpr std::size_t kMaxDiscardSeg = 40;
constexpr std::size_t kDiscardAlignment = 44;
constexpr std::size_t kMaxWriteZeroesSectors = 48;
constexpr std::size_t kMaxWriteZeroesSeg = 52;
constexpr std::size_t kWriteZeroesMayUnmap = 56;

constexpr std::array<FeatureName, 9> kFeatureNames{{{"size_max", kBlkSizeMax},
                                                    {"seg_max", kBlkSegMax},
                                                    {"blk_size", kBlkBlockSize},
                                                    {"flush", kBlkFlush},
                                                    {"topology", kBlkTopology},
                                                    {"config_wce", kBlkConfigWce},
                                                    {"mq", kBlkMultiqueue},
                                                    {"discard", kBlkDiscard},
                                                    {"write_zeroes", kBlkWriteZeroes}}};

class BlkDevice : public Blk {
 public:
  BlkDevice(const BlkSpec& spec, std::unique_ptr<Disk> disk)
      : spec_(spec),
        disk_(std::move(disk)),
        waits_(disk_->may_wait()),
        uring_(make_uring()),
        workers_(spec.name, kMaxWorkers, [this] { return work(); }) {}

  std::uint32_t type() const override { return kTypeBlock; }
  std::span<const FeatureName> feature_names() const override { return kFeatureNames; }
  std::vector<std::uint16_t> queue_sizes() const override {
    return std::vector<std::uint16_t>(spec_.queues, spec_.queue_size);
  }

  std::uint64_t features() const override {
    std::uint64_t bits = kBlkSizeMax | kBlkSegMax | kBlkBlockSize | kBlkFlush | kBlkTopology;
    if (spec_.queues > 1) bits |= kBlkMultiqueue;
    // 5.2.5.2: a disk that is not written to needs none of these.
    if (spec_.read_only) return bits | kBlkReadOnly;
    return bits | kBlkConfigWce | kBlkDiscard | kBlkWriteZeroes;
  }

  void read_config(std::uint64_t offset, std::span<std::byte> data) override {
    std::array<std::byte, kConfigBytes> image = config();
    std::ranges::fill(data, std::byte{0});
    if (offset >= image.size()) return;
    const auto there = std::min<std::uint64_t>(data.size(), image.size() - offset);
    std::ranges::copy(std::span(image).subspan(offset, there), data.begin());
  }

  void write_config(std::uint64_t offset, std::span<const std::byte> data) override {
    if (offset != kWriteback || data.size() != 1) return;
    const std::lock_guard lock(mutex_);
    // Known for certain from DRIVER_OK on; before it whoever is offered the
    // feature may write.
    const std::uint64_t features = queues_.empty() ? this->features() & ~withheld() : features_;
    if ((features & kBlkConfigWce) != 0)
      state_.writeback = (data[0] & std::byte{1}) != std::byte{0};
  }

  std::uint8_t config_generation() override {
    const std::lock_guard lock(mutex_);
    return state_.config_generation;
  }

  void activate(std::uint64_t features, std::span<VirtQueue* const> queues,
                VirtioInterrupts& interrupts) override {
    {
      const std::lock_guard lock(mutex_);
      // 5.2.5.2: without FLUSH a driver cannot ask for what a cache holds back.
      if ((features & kBlkFlush) == 0) state_.writeback = false;
      attach({features, queues, interrupts});
    }
    look_at_every_queue();
  }

  void notify(std::uint16_t queue) override {
    {
      const std::lock_guard lock(mutex_);
      if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
      if (queue >= queues_.size() || queues_[queue] == nullptr) return;
      if (waits_ && uring_ == nullptr) work_of_[queue].waiting = true;
    }
    if (uring_ != nullptr) {
      serve_by_uring(queue);
    } else if (waits_) {
      call_workers();
    } else {
      serve_inline(queue);
    }
  }

  void reset() override {
    std::unique_lock lock(mutex_);
    resetting_ = true;
    idle_.wait(lock, [this] { return busy_ == 0; });
    resetting_ = false;
    queues_.clear();
    work_of_.clear();
    interrupts_ = nullptr;
    state_.writeback = true;
  }

  bool in_order() const override { return true; }
  bool resets_queues() const override { return true; }

  void reset_queue(std::uint16_t index) override {
    std::unique_lock lock(mutex_);
    work_of_[index].taken_back = true;
    idle_.wait(lock, [this, index] { return work_of_[index].busy == 0; });
    queues_[index] = nullptr;
    work_of_[index] = {};
  }

  void enable_queue(std::uint16_t index, VirtQueue& queue) override {
    {
      const std::lock_guard lock(mutex_);
      queues_[index] = &queue;
    }
    notify(index);
  }

  void pause() override {
    std::unique_lock lock(mutex_);
    paused_ = true;
    idle_.wait(lock, [this] { return busy_ == 0; });
  }

  void unpause() override {
    bool work = false;
    {
      const std::lock_guard lock(mutex_);
      paused_ = false;
      work = std::ranges::count(work_of_, true, &QueueWork::waiting) != 0;
    }
    if (work) call_workers();
  }

  void save(StateWriter& writer) const override {
    const std::lock_guard lock(mutex_);
    if (busy_ != 0)
      throw Error("save virtio-blk", EBUSY, "a thread is still at work in the device");
    BlkState state = state_;
    state.size = disk_->size();
    writer.save(state);
  }

  void load(StateReader& reader, const VirtioActivation* active) override {
    const auto state = reader.load<BlkState>();
    if (state.size != disk_->size()) {
      reader.fail("a disk of " + std::to_string(state.size) + " bytes, this one has " +
                  std::to_string(disk_->size()));
    }
    const std::lock_guard lock(mutex_);
    state_ = state;
    if (active != nullptr) attach(*active);
  }

  void resume() override { look_at_every_queue(); }

  Disk& disk() override { return *disk_; }

  void resize(std::uint64_t bytes) override {
    if (bytes % spec_.block_size != 0) {
      throw Error("resize disk", EINVAL,
                  std::to_string(bytes) + " bytes in blocks of " + std::to_string(spec_.block_size),
                  "give a multiple of the block size");
    }
    if (spec_.read_only && std::holds_alternative<FileBacking>(spec_.backing)) {
      throw Error("resize disk", EROFS, "disk " + spec_.name + " is a file that is only read");
    }
    const std::lock_guard lock(mutex_);
    disk_->resize(bytes);
    ++state_.config_generation;
    if (interrupts_ != nullptr) interrupts_->config_interrupt();
  }

 private:
  struct Finished {
    std::optional<DescriptorChain> chain;  // none while it is under way
    std::uint32_t length = 0;
  };
  struct QueueWork {
    bool waiting = false;     // the workers look at it
    bool taken_back = false;  // by the driver: what is under way is the last
    std::size_t busy = 0;     // of its requests, as busy_
    // With IN_ORDER: those taken and not given back, the oldest first.
    std::deque<Finished> order;
    std::uint64_t first = 0;  // the number of order's first
  };

  std::array<std::byte, kConfigBytes> config() {
    const std::lock_guard lock(mutex_);
    std::array<std::byte, kConfigBytes> image{};
    const std::uint32_t blocks = kPhysicalBlock / spec_.block_size;
    store_le<std::uint64_t>(image, kCapacity, disk_->size() / kSectorSize);
    store_le<std::uint32_t>(image, kSizeMax, kBlkMaxSegmentBytes);
    // Header and status take a descriptor each.
    store_le<std::uint32_t>(image, kSegMax, spec_.queue_size > 2 ? spec_.queue_size - 2u : 1u);
    store_le<std::uint32_t>(image, kBlockSize, spec_.block_size);
    store_le<std::uint8_t>(image, kPhysicalBlockExp,
                           static_cast<std::uint8_t>(std::countr_zero(blocks)));
    store_le<std::uint16_t>(image, kMinIoSize, static_cast<std::uint16_t>(blocks));
    store_le<std::uint32_t>(image, kOptIoSize, kOptimalBytes / spec_.block_size);
    store_le<std::uint8_t>(image, kWriteback, state_.writeback ? 1 : 0);
    store_le<std::uint16_t>(image, kNumQueues, spec_.queues);
    if (spec_.read_only) return image;
    store_le<std::uint32_t>(image, kMaxDiscardSectors, kBlkMaxRangeSectors);
    store_le<std::uint32_t>(image, kMaxDiscardSeg, kBlkMaxRanges);
    store_le<std::uint32_t>(image, kDiscardAlignment, kClusterSize / kSectorSize);
    store_le<std::uint32_t>(image, kMaxWriteZeroesSectors, kBlkMaxRangeSectors);
    store_le<std::uint32_t>(image, kMaxWriteZeroesSeg, kBlkMaxRanges);
    store_le<std::uint8_t>(image, kWriteZeroesMayUnmap, 1);
    return image;
  }

  void attach(const VirtioActivation& active) {
    features_ = active.features;
    in_order_ = (features_ & kFeatureInOrder) != 0;
    queues_.assign(active.queues.begin(), active.queues.end());
    work_of_.assign(queues_.size(), {});
    interrupts_ = &active.interrupts;
  }

  void look_at_every_queue() {
    for (std::uint16_t queue = 0; queue < spec_.queues; ++queue) notify(queue);
  }

  // With the lock held: the next request of the queue.
  std::optional<BlkJob> take(std::size_t queue) {
    if (paused_ || resetting_ || queue >= queues_.size() || queues_[queue] == nullptr) return {};
    if (work_of_[queue].taken_back) return {};
    std::optional<DescriptorChain> chain = queues_[queue]->pop();
    if (!chain) return {};
    QueueWork& work = work_of_[queue];
    ++busy_;
    ++work.busy;
    const std::uint64_t number = work.first + work.order.size();
    if (in_order_) work.order.emplace_back();
    return BlkJob{queue,
                  number,
                  std::move(*chain),
                  {disk_.get(), features_, spec_.read_only, !state_.writeback, spec_.serial}};
  }

  void perform_and_answer(BlkJob& job) { give_back(job, perform(job.chain, job.context)); }

  void give_back(BlkJob& job, std::uint32_t length) {
    const std::lock_guard lock(mutex_);
    // Whoever waits for it has to wait for the lock too.
    --busy_;
    if (--work_of_[job.queue].busy == 0) idle_.notify_all();
    VirtQueue& queue = *queues_[job.queue];
    if (in_order_) {
      give_back_in_order(job, length);
    } else {
      queue.push_used(job.chain, length);
    }
    if (queue.needs_interrupt()) {
      interrupts_->queue_interrupt(static_cast<std::uint16_t>(job.queue));
    }
  }

  // With the lock held: the request, and those behind it that had to wait for
  // it.
  void give_back_in_order(BlkJob& job, std::uint32_t length) {
    QueueWork& work = work_of_[job.queue];
    work.order[job.number - work.first] = {std::move(job.chain), length};
    for (; !work.order.empty() && work.order.front().chain; ++work.first) {
      queues_[job.queue]->push_used(*work.order.front().chain, work.order.front().length);
      work.order.pop_front();
    }
  }

  // One request of any queue; on the workers.
  bool work() {
    std::optional<BlkJob> job;
    {
      const std::lock_guard lock(mutex_);
      if (!for_threads_.empty()) {
        job = std::move(for_threads_.front());
        for_threads_.pop_front();
      } else if (paused_ || resetting_) {
        return false;
      }
      for (std::size_t i = 0; i < queues_.size() && !job; ++i) {
        const std::size_t queue = next_queue_++ % queues_.size();
        if (!work_of_[queue].waiting) continue;
        job = take(queue);
        if (!job) work_of_[queue].waiting = false;
      }
    }
    if (!job) return false;
    // Others may do the ones behind it meanwhile.
    if (job->chain.readable() + job->chain.writable() > kInlineBytes || waits_) workers_.wake();
    try {
      perform_and_answer(*job);
    } catch (...) {
      // An interrupt that cannot be raised ends the machine; the next
      // doorbell's thread can say so.
      const std::lock_guard lock(mutex_);
      failure_ = std::current_exception();
    }
    return true;
  }

  void serve_inline(std::size_t queue) {
    std::uint64_t bytes = 0;
    for (std::size_t done = 0; done < kInlineRequests && bytes < kInlineBytes; ++done) {
      std::optional<BlkJob> job;
      {
        const std::lock_guard lock(mutex_);
        job = take(queue);
        if (paused_ && queue < work_of_.size()) work_of_[queue].waiting = true;
      }
      if (!job) return;
      bytes += job->chain.readable() + job->chain.writable();
      perform_and_answer(*job);
    }
    {
      const std::lock_guard lock(mutex_);
      if (queue >= work_of_.size()) return;
      work_of_[queue].waiting = true;
    }
    call_workers();
  }

  std::unique_ptr<UringIo> make_uring() {
    const auto* file = std::get_if<FileBacking>(&spec_.backing);
    if (file == nullptr || file->engine == FileEngine::kThreads || disk_->file() < 0) return {};
    std::string why;
    auto ring = Uring::make(kUringEntries, why);
    if (ring == nullptr && file->engine == FileEngine::kUring) {
      throw Error("machine spec", ENOSYS, "disk " + spec_.name + ": " + why,
                  "leave its engine out: threads do as well");
    }
    if (ring == nullptr) return {};
    return std::make_unique<UringIo>(spec_.name, std::move(ring), disk_->file(),
                                     [this](BlkJob& job, std::uint32_t length) {
                                       try {
                                         give_back(job, length);
                                       } catch (...) {
                                         // As for a worker.
                                         const std::lock_guard lock(mutex_);
                                         failure_ = std::current_exception();
                                       }
                                     });
  }

  // All that is there, at once; what reads no sectors, and what finds no room,
  // is for threads.
  void serve_by_uring(std::size_t queue) {
    std::size_t left = kUringEntries;
    for (; left != 0; --left) {
      std::optional<BlkJob> job;
      {
        const std::lock_guard lock(mutex_);
        job = take(queue);
        if (paused_ && queue < work_of_.size()) work_of_[queue].waiting = true;
      }
      if (!job) break;
      if (uring_->begin(*job)) continue;
      {
        const std::lock_guard lock(mutex_);
        for_threads_.push_back(std::move(*job));
      }
      call_workers();
    }
    uring_->submit();
    if (left != 0) return;
    {
      const std::lock_guard lock(mutex_);
      if (queue >= work_of_.size()) return;
      work_of_[queue].waiting = true;
    }
    call_workers();
  }

  void call_workers() {
    if (workers_.wake()) return;
    // No thread to be had: the caller does it.
    while (work()) {
    }
  }

  const BlkSpec spec_;
  const std::unique_ptr<Disk> disk_;
  const bool waits_;

  mutable std::mutex mutex_;
  std::condition_variable idle_;
  BlkState state_;
  std::uint64_t features_ = 0;
  bool in_order_ = false;  // was negotiated
  std::vector<VirtQueue*> queues_;
  std::vector<QueueWork> work_of_;  // by queue
  VirtioInterrupts* interrupts_ = nullptr;
  std::size_t next_queue_ = 0;
  std::size_t busy_ = 0;  // requests that were popped and not given back
  bool paused_ = false;
  bool resetting_ = false;
  std::exception_ptr failure_;  // of a worker
  std::deque<BlkJob> for_threads_;

  const std::unique_ptr<UringIo> uring_;  // of a file, when the kernel lets us
  Workers workers_;                       // last: its threads use all of the above
};

}  // namespace

void validate(const BlkSpec& spec) {
  const auto refuse = [&](const std::string& detail, const std::string& hint) {
    throw Error("machine spec", EINVAL, "disk " + spec.name + ": " + detail, hint);
  };
  if (spec.serial.size() > kBlkSerialBytes) {
    refuse("a serial of " + std::to_string(spec.serial.size()) + " bytes", "it has room for 20");
  }
  if (spec.queues < 1 || spec.queues > kBlkMaxQueues) {
    refuse(std::to_string(spec.queues) + " queues", "ask for 1 to 8");
  }
  if (!std::has_single_bit(spec.queue_size) || spec.queue_size > kBlkMaxQueueSize) {
    refuse("queues of " + std::to_string(spec.queue_size), "ask for a power of two up to 1024");
  }
  if (!std::has_single_bit(spec.block_size) || spec.block_size < kSectorSize ||
      spec.block_size > kPhysicalBlock) {
    refuse("blocks of " + std::to_string(spec.block_size), "ask for 512, 1024, 2048 or 4096");
  }
  const auto* memory = std::get_if<MemoryBacking>(&spec.backing);
  if (memory != nullptr) check_disk_size("machine spec: disk " + spec.name, memory->bytes);
}

std::unique_ptr<Blk> make_blk(const BlkSpec& spec, std::unique_ptr<Disk> disk) {
  validate(spec);
  if (disk->size() % spec.block_size != 0) {
    throw Error("machine spec", EINVAL,
                "disk " + spec.name + ": " + std::to_string(disk->size()) +
                    " bytes are no whole number of blocks of " + std::to_string(spec.block_size),
                "use smaller blocks");
  }
  return std::make_unique<BlkDevice>(spec, std::move(disk));
}

}  // namespace kvitest
