#include "native/virtio/blk/blk.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <optional>
#include <utility>

#include "native/error.h"
#include "native/little_endian.h"
#include "native/virtio/blk/request.h"
#include "native/virtio/blk/state.h"
#include "native/virtio/blk/workers.h"
#include "native/virtio/queue.h"

namespace kvitest {
namespace {

constexpr std::uint32_t kTypeBlock = 2;
constexpr std::size_t kMaxWorkers = 4;
// What a doorbell may do on its own vCPU thread: under emulation a thread's hand-off costs more
// than a small request, and a large one would keep the vCPU from its guest.
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
    // Known for certain from DRIVER_OK on; before it whoever is offered the feature may write.
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
      if (waits_) waiting_[queue] = true;
    }
    if (waits_) {
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
    waiting_.clear();
    interrupts_ = nullptr;
    state_.writeback = true;
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
      work = std::ranges::count(waiting_, true) != 0;
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
  struct Job {
    std::size_t queue;
    DescriptorChain chain;
    BlkContext context;
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
    queues_.assign(active.queues.begin(), active.queues.end());
    waiting_.assign(queues_.size(), false);
    interrupts_ = &active.interrupts;
  }

  void look_at_every_queue() {
    for (std::uint16_t queue = 0; queue < spec_.queues; ++queue) notify(queue);
  }

  // With the lock held: the next request of the queue.
  std::optional<Job> take(std::size_t queue) {
    if (paused_ || resetting_ || queue >= queues_.size() || queues_[queue] == nullptr) return {};
    std::optional<DescriptorChain> chain = queues_[queue]->pop();
    if (!chain) return {};
    ++busy_;
    return Job{queue,
               std::move(*chain),
               {disk_.get(), features_, spec_.read_only, !state_.writeback, spec_.serial}};
  }

  void perform_and_answer(Job& job) {
    const std::uint32_t length = perform(job.chain, job.context);
    const std::lock_guard lock(mutex_);
    // Whoever waits for it has to wait for the lock too.
    if (--busy_ == 0) idle_.notify_all();
    VirtQueue& queue = *queues_[job.queue];
    queue.push_used(job.chain, length);
    if (queue.needs_interrupt()) {
      interrupts_->queue_interrupt(static_cast<std::uint16_t>(job.queue));
    }
  }

  // One request of any queue; on the workers.
  bool work() {
    std::optional<Job> job;
    {
      const std::lock_guard lock(mutex_);
      if (paused_ || resetting_) return false;
      for (std::size_t i = 0; i < queues_.size() && !job; ++i) {
        const std::size_t queue = next_queue_++ % queues_.size();
        if (!waiting_[queue]) continue;
        job = take(queue);
        if (!job) waiting_[queue] = false;
      }
    }
    if (!job) return false;
    // Others may do the ones behind it meanwhile.
    if (job->chain.readable() + job->chain.writable() > kInlineBytes || waits_) workers_.wake();
    try {
      perform_and_answer(*job);
    } catch (...) {
      // An interrupt that cannot be raised ends the machine; the next doorbell's thread can say so.
      const std::lock_guard lock(mutex_);
      failure_ = std::current_exception();
    }
    return true;
  }

  void serve_inline(std::size_t queue) {
    std::uint64_t bytes = 0;
    for (std::size_t done = 0; done < kInlineRequests && bytes < kInlineBytes; ++done) {
      std::optional<Job> job;
      {
        const std::lock_guard lock(mutex_);
        job = take(queue);
        if (paused_ && queue < waiting_.size()) waiting_[queue] = true;
      }
      if (!job) return;
      bytes += job->chain.readable() + job->chain.writable();
      perform_and_answer(*job);
    }
    {
      const std::lock_guard lock(mutex_);
      if (queue >= waiting_.size()) return;
      waiting_[queue] = true;
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
  std::vector<VirtQueue*> queues_;
  std::vector<bool> waiting_;  // by queue: the workers look at it
  VirtioInterrupts* interrupts_ = nullptr;
  std::size_t next_queue_ = 0;
  std::size_t busy_ = 0;  // requests that were popped and not given back
  bool paused_ = false;
  bool resetting_ = false;
  std::exception_ptr failure_;  // of a worker

  Workers workers_;  // last: its threads use all of the above
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
