#include "native/virtio/balloon/balloon.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <mutex>
#include <optional>
#include <utility>

#include "native/error.h"
#include "native/little_endian.h"
#include "native/virtio/balloon/state.h"
#include "native/virtio/config_image.h"
#include "native/virtio/queue.h"

namespace kvitest {
namespace {

constexpr std::uint32_t kTypeBalloon = 5;
constexpr std::uint16_t kQueueSize = 128;
// Of the array in one request (Linux sends 256): what is behind them stays as it is.
constexpr std::size_t kMaxPageNumbers = 16384;
// Of statistics in one buffer; Linux 6.12 has 16.
constexpr std::size_t kMaxStatistics = 64;
constexpr std::size_t kStatisticBytes = 10;

// Offsets of struct virtio_balloon_config (5.5.4).
constexpr std::size_t kConfigBytes = 16;
constexpr std::size_t kNumPages = 0;
constexpr std::size_t kActual = 4;
constexpr std::size_t kHintCommand = 8;
constexpr std::size_t kPoison = 12;

constexpr std::array<FeatureName, 5> kFeatureNames{{{"stats_vq", kBalloonStats},
                                                    {"deflate_on_oom", kBalloonDeflateOnOom},
                                                    {"free_page_hint", kBalloonFreePageHint},
                                                    {"page_poison", kBalloonPagePoison},
                                                    {"page_reporting", kBalloonReporting}}};
constexpr std::array<FeatureName, 1> kOptionalNames{{{"must_tell_host", kBalloonMustTellHost}}};

enum class Role { kInflate, kDeflate, kStatistics, kHints, kReporting };

class BalloonDevice : public Balloon {
 public:
  explicit BalloonDevice(const BalloonSpec& spec) : spec_(spec) {}

  std::uint32_t type() const override { return kTypeBalloon; }
  std::uint64_t features() const override {
    std::uint64_t bits = 0;
    for (const FeatureName& one : kFeatureNames) bits |= one.bit;
    return bits;
  }
  std::span<const FeatureName> feature_names() const override { return kFeatureNames; }
  std::span<const FeatureName> optional_feature_names() const override { return kOptionalNames; }
  // The statistics queue's buffer is held, but only ever one.
  bool in_order() const override { return true; }
  std::vector<std::uint16_t> queue_sizes() const override {
    return std::vector<std::uint16_t>(roles().size(), kQueueSize);
  }

  void read_config(std::uint64_t offset, std::span<std::byte> data) override {
    std::array<std::byte, kConfigBytes> image{};
    {
      const std::lock_guard lock(mutex_);
      store_le<std::uint32_t>(image, kNumPages, state_.num_pages);
      store_le<std::uint32_t>(image, kActual, state_.actual);
      store_le<std::uint32_t>(image, kHintCommand, state_.hint_command);
      store_le<std::uint32_t>(image, kPoison, state_.poison);
    }
    read_image(image, offset, data);
  }

  void write_config(std::uint64_t offset, std::span<const std::byte> data) override {
    if (data.size() != sizeof(std::uint32_t)) return;
    const std::lock_guard lock(mutex_);
    const auto value = load_le<std::uint32_t>(data, 0);
    if (offset == kActual) state_.actual = value;
    // 5.5.6.6.1: it is there before DRIVER_OK and stays.
    if (offset == kPoison && queues_.empty()) state_.poison = value;
  }

  std::uint8_t config_generation() override {
    const std::lock_guard lock(mutex_);
    return state_.config_generation;
  }

  void activate(std::uint64_t features, std::span<VirtQueue* const> queues,
                VirtioInterrupts& interrupts) override {
    const std::lock_guard lock(mutex_);
    attach({features, queues, interrupts});
    look_at_every_queue();
  }

  void notify(std::uint16_t queue) override {
    const std::lock_guard lock(mutex_);
    serve(queue);
  }

  void reset() override {
    const std::lock_guard lock(mutex_);
    queues_.clear();
    interrupts_ = nullptr;
    held_.reset();
    // The driver begins with an empty balloon; what the host wants of it stays.
    state_.actual = 0;
    state_.poison = 0;
    state_.hint_command = kHintDone;
    state_.driver_hint_command = kHintStop;
  }

  void save(StateWriter& writer) const override {
    const std::lock_guard lock(mutex_);
    BalloonState state = state_;
    if (held_) state.statistics = held_->state();
    writer.save(state);
  }

  void load(StateReader& reader, const VirtioActivation* active) override {
    auto state = reader.load<BalloonState>();
    if (state.statistics && active == nullptr) reader.fail("a buffer without a driver");
    const std::lock_guard lock(mutex_);
    state_ = std::move(state);
    if (active != nullptr) attach(*active);
  }

  void resume() override {
    const std::lock_guard lock(mutex_);
    if (const auto saved = std::exchange(state_.statistics, std::nullopt)) {
      VirtQueue* const queue = queue_of(Role::kStatistics);
      if (queue != nullptr) held_ = queue->retake(*saved);
    }
    look_at_every_queue();
  }

  void set_target(std::uint64_t bytes) override {
    const std::uint64_t pages = bytes / kPageSize;
    if (bytes % kPageSize != 0 || pages > UINT32_MAX) {
      throw Error("balloon", EINVAL, std::to_string(bytes) + " bytes for " + spec_.name,
                  "ask for whole pages of 4096 bytes");
    }
    const std::lock_guard lock(mutex_);
    state_.num_pages = static_cast<std::uint32_t>(pages);
    change_config();
  }

  void ask_statistics() override {
    const std::lock_guard lock(mutex_);
    VirtQueue* const queue = queue_of(Role::kStatistics);
    if (queue == nullptr || !held_) return;
    give_statistics_back(*queue);
  }

  void ask_hints() override {
    const std::lock_guard lock(mutex_);
    if (queue_of(Role::kHints) == nullptr) {
      throw Error("balloon", ENOTSUP, "the driver of " + spec_.name + " gives no hints",
                  "it must negotiate FREE_PAGE_HINT");
    }
    // Ids of rounds go around above the two with a meaning.
    state_.last_hint_command = std::max(state_.last_hint_command + 1, kHintDone + 1);
    state_.hint_command = state_.last_hint_command;
    report_.hinted = 0;
    change_config();
  }

  BalloonReport report() const override {
    const std::lock_guard lock(mutex_);
    BalloonReport report = report_;
    report.target = state_.num_pages * kPageSize;
    report.actual = state_.actual * kPageSize;
    return report;
  }

 private:
  // The queues in their order. The specification numbers them from 0 to 4, whichever exist (5.5.2);
  // Linux and QEMU number those that exist. Both agree while all are offered, as they are but when
  // some are withheld: then as Linux does.
  std::vector<Role> roles() const {
    std::vector<Role> roles{Role::kInflate, Role::kDeflate};
    const std::uint64_t offered = features() & ~withheld();
    if ((offered & kBalloonStats) != 0) roles.push_back(Role::kStatistics);
    if ((offered & kBalloonFreePageHint) != 0) roles.push_back(Role::kHints);
    if ((offered & kBalloonReporting) != 0) roles.push_back(Role::kReporting);
    return roles;
  }

  VirtQueue* queue_of(Role role) const {
    const std::vector<Role> all = roles();
    const auto at = static_cast<std::size_t>(std::ranges::find(all, role) - all.begin());
    return at < queues_.size() && negotiated(role) ? queues_[at] : nullptr;
  }

  bool negotiated(Role role) const {
    switch (role) {
      case Role::kStatistics:
        return (features_ & kBalloonStats) != 0;
      case Role::kHints:
        return (features_ & kBalloonFreePageHint) != 0;
      case Role::kReporting:
        return (features_ & kBalloonReporting) != 0;
      default:
        return true;
    }
  }

  void attach(const VirtioActivation& active) {
    features_ = active.features;
    queues_.assign(active.queues.begin(), active.queues.end());
    interrupts_ = &active.interrupts;
  }

  void change_config() {
    ++state_.config_generation;
    if (interrupts_ != nullptr) interrupts_->config_interrupt();
  }

  void look_at_every_queue() {
    for (std::uint16_t queue = 0; queue < queues_.size(); ++queue) serve(queue);
  }

  void serve(std::uint16_t number) {
    if (number >= queues_.size()) return;
    const Role role = roles()[number];
    VirtQueue* const queue = queue_of(role);
    if (queue == nullptr) return;
    std::size_t left = request_budget(*queue);
    for (; left != 0; --left) {
      auto chain = queue->pop();
      if (!chain) break;
      if (role == Role::kStatistics) {
        // 5.5.6.3.1: there is one at most. Of a driver that offers more, the last.
        if (held_) give_statistics_back(*queue);
        take_statistics(*chain);
        held_ = std::move(chain);
        continue;
      }
      perform(role, *chain);
      queue->push_used(*chain, chain->written());
    }
    if (left == 0) queue->request_notification();
    if (queue->needs_interrupt()) interrupts_->queue_interrupt(number);
  }

  void perform(Role role, DescriptorChain& chain) {
    switch (role) {
      case Role::kInflate:
        return inflate(chain);
      case Role::kDeflate:
        // Nothing is to be done: a page comes back when the guest touches it.
        report_.deflated += page_numbers(chain).size() * kPageSize;
        return;
      case Role::kHints:
        return take_hints(chain);
      case Role::kReporting:
        report_.reported += chain.writable();
        // 5.5.6.7.2: it must read as poison_val afterwards, and what is given back reads as zeros.
        if ((features_ & kBalloonPagePoison) != 0 && state_.poison != 0) return;
        report_.given_back += chain.discard_answer();
        return;
      default:
        return;
    }
  }

  static std::vector<std::uint32_t> page_numbers(DescriptorChain& chain) {
    std::vector<std::byte> bytes(
        std::min<std::uint64_t>(chain.readable(), kMaxPageNumbers * sizeof(std::uint32_t)));
    bytes.resize(chain.read(bytes));
    std::vector<std::uint32_t> numbers(bytes.size() / sizeof(std::uint32_t));
    for (std::size_t i = 0; i < numbers.size(); ++i) {
      numbers[i] = load_le<std::uint32_t>(bytes, i * sizeof(std::uint32_t));
    }
    return numbers;
  }

  void inflate(DescriptorChain& chain) {
    std::vector<std::uint32_t> numbers = page_numbers(chain);
    report_.inflated += numbers.size() * kPageSize;
    // Neighbours together, in whatever order the driver found them. Not ranges::unique(), which the
    // fuzzer's clang 14 cannot compile.
    std::ranges::sort(numbers);
    numbers.erase(std::unique(numbers.begin(), numbers.end()), numbers.end());
    for (std::size_t i = 0; i < numbers.size();) {
      std::size_t run = 1;
      while (i + run < numbers.size() && numbers[i + run] == numbers[i] + run) ++run;
      give_back(chain, numbers[i], run);
      i += run;
    }
  }

  void give_back(DescriptorChain& chain, std::uint64_t first, std::size_t pages) {
    if (chain.discard(first * kPageSize, pages * kPageSize)) {
      report_.given_back += pages * kPageSize;
      return;
    }
    // Part of it may be RAM.
    for (std::uint64_t page = first; page < first + pages; ++page) {
      const bool done = chain.discard(page * kPageSize, kPageSize);
      done ? report_.given_back += kPageSize : ++report_.ignored;
    }
  }

  // A page in a hint may be lost as long as the guest has not written to it since the round began
  // (5.5.6.5.2), and nobody here knows that: hints are only counted.
  void take_hints(DescriptorChain& chain) {
    std::array<std::byte, sizeof(std::uint32_t)> command{};
    if (chain.read(command) == command.size()) {
      state_.driver_hint_command = load_le<std::uint32_t>(command, 0);
      if (state_.driver_hint_command == kHintStop && state_.hint_command > kHintDone) {
        ++report_.rounds;
        state_.hint_command = kHintDone;
        change_config();
      }
      return;
    }
    if (state_.hint_command > kHintDone && state_.driver_hint_command == state_.hint_command) {
      report_.hinted += chain.writable();
    }
  }

  void take_statistics(DescriptorChain& chain) {
    std::vector<std::byte> bytes(
        std::min<std::uint64_t>(chain.readable(), kMaxStatistics * kStatisticBytes));
    bytes.resize(chain.read(bytes));
    report_.statistics.clear();
    for (std::size_t at = 0; at + kStatisticBytes <= bytes.size(); at += kStatisticBytes) {
      const auto tag = load_le<std::uint16_t>(bytes, at);
      report_.statistics[tag] = load_le<std::uint64_t>(bytes, at + sizeof tag);
    }
    ++report_.updates;
  }

  void give_statistics_back(VirtQueue& queue) {
    queue.push_used(*held_, 0);
    held_.reset();
    if (!queue.needs_interrupt()) return;
    const std::vector<Role> all = roles();
    const auto at = std::ranges::find(all, Role::kStatistics) - all.begin();
    interrupts_->queue_interrupt(static_cast<std::uint16_t>(at));
  }

  const BalloonSpec spec_;
  mutable std::mutex mutex_;
  BalloonState state_;
  BalloonReport report_;
  std::uint64_t features_ = 0;
  std::vector<VirtQueue*> queues_;
  VirtioInterrupts* interrupts_ = nullptr;
  std::optional<DescriptorChain> held_;  // the buffer of the statistics queue
};

}  // namespace

void validate(const BalloonSpec& spec) {
  if (spec.name.empty()) {
    throw Error("machine spec", EINVAL, "a virtio-balloon without name", "name it: balloon0");
  }
}

std::unique_ptr<Balloon> make_balloon(const BalloonSpec& spec) {
  validate(spec);
  return std::make_unique<BalloonDevice>(spec);
}

}  // namespace kvitest
