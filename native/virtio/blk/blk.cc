#include "native/virtio/blk/blk.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <mutex>
#include <utility>

#include "native/error.h"
#include "native/little_endian.h"
#include "native/virtio/blk/request.h"
#include "native/virtio/blk/state.h"
#include "native/virtio/blk/uring_io.h"
#include "native/virtio/config_image.h"

namespace kvitest {
namespace {

constexpr std::uint32_t kTypeBlock = 2;
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
        requests_(spec.name, [this](DescriptorChain& chain) { return perform(chain, context()); }),
        uring_(make_uring()) {
    requests_.set_waits(disk_->may_wait());
    if (uring_ == nullptr) return;
    requests_.use(
        {.begin = [this](RequestQueues::Job& job) { return uring_->begin(job, context()); },
         .submit = [this] { uring_->submit(); },
         .entries = kUringEntries});
  }

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
    read_image(config(), offset, data);
  }

  void write_config(std::uint64_t offset, std::span<const std::byte> data) override {
    if (offset != kWriteback || data.size() != 1) return;
    const std::lock_guard lock(mutex_);
    // Known for certain from DRIVER_OK on; before it whoever is offered the
    // feature may write.
    const std::uint64_t features =
        interrupts_ == nullptr ? this->features() & ~withheld() : features_;
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
    requests_.look_at_every_queue();
  }

  void notify(std::uint16_t queue) override { requests_.notify(queue); }

  void reset() override {
    requests_.reset();
    const std::lock_guard lock(mutex_);
    interrupts_ = nullptr;
    state_.writeback = true;
  }

  bool in_order() const override { return true; }
  bool resets_queues() const override { return true; }

  void reset_queue(std::uint16_t queue) override { requests_.reset_queue(queue); }
  void enable_queue(std::uint16_t queue, VirtQueue& ring) override {
    requests_.enable_queue(queue, ring);
  }

  void pause() override { requests_.pause(); }
  void unpause() override { requests_.unpause(); }

  void save(StateWriter& writer) const override {
    if (requests_.busy())
      throw Error("save virtio-blk", EBUSY, "a thread is still at work in the device");
    const std::lock_guard lock(mutex_);
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

  void resume() override { requests_.look_at_every_queue(); }

  Disk& disk() override { return *disk_; }
  const RequestQueues& requests() const override { return requests_; }

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

  // With the lock held.
  void attach(const VirtioActivation& active) {
    features_ = active.features;
    interrupts_ = &active.interrupts;
    requests_.attach(features_, active.queues, 0, active.interrupts);
  }

  BlkContext context() {
    const std::lock_guard lock(mutex_);
    return {disk_.get(), features_, spec_.read_only, !state_.writeback, spec_.serial};
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
                                     [this](RequestQueues::Job& job, std::uint32_t length) {
                                       requests_.give_back(job, length);
                                     });
  }

  const BlkSpec spec_;
  const std::unique_ptr<Disk> disk_;

  mutable std::mutex mutex_;
  BlkState state_;
  std::uint64_t features_ = 0;
  VirtioInterrupts* interrupts_ = nullptr;

  RequestQueues requests_;  // its threads use all of the above
  const std::unique_ptr<UringIo>
      uring_;  // of a file, when the kernel lets us; its thread requests_
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
