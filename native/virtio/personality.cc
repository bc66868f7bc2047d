#include "native/virtio/personality.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <limits>
#include <optional>
#include <string_view>
#include <utility>

#include "native/error.h"
#include "native/virtio/queue.h"

namespace kvitest {
namespace {

constexpr std::string_view kUsedLength = "used-length-";

struct Oddity {
  std::string_view name;
  void (*take_on)(Personality& personality);
};
constexpr std::array<Oddity, 6> kOddities{{
    {"used-length-whole-chain", [](Personality& p) { p.used_length = UsedLength::kWholeChain; }},
    {"used-length-too-long", [](Personality& p) { p.used_length = UsedLength::kTooLong; }},
    {"used-length-zero", [](Personality& p) { p.used_length = UsedLength::kZero; }},
    {"queue-size-odd", [](Personality& p) { p.odd_queue_size = true; }},
    {"queue-size-fixed", [](Personality& p) { p.fixed_queue_size = true; }},
    {"pci-status-clears-capabilities", [](Personality& p) { p.status_clears_capabilities = true; }},
}};

std::uint32_t clamped(std::uint64_t length) {
  return static_cast<std::uint32_t>(
      std::min<std::uint64_t>(length, std::numeric_limits<std::uint32_t>::max()));
}

class OddQueue : public VirtQueue {
 public:
  OddQueue(std::unique_ptr<VirtQueue> queue, UsedLength used_length)
      : queue_(std::move(queue)), used_length_(used_length) {}

  std::uint16_t size() const override { return queue_->size(); }
  const QueueLayout& layout() const override { return queue_->layout(); }
  std::optional<DescriptorChain> pop() override { return queue_->pop(); }
  std::uint16_t available() override { return queue_->available(); }
  void push_used(std::span<const UsedBuffer> together) override {
    std::vector<UsedBuffer> odd(together.begin(), together.end());
    for (UsedBuffer& one : odd) one.length = length(one);
    queue_->push_used(odd);
  }
  bool needs_interrupt() override { return queue_->needs_interrupt(); }
  void request_notification() override { queue_->request_notification(); }
  QueueFault fault() const override { return queue_->fault(); }
  QueueState state() const override { return queue_->state(); }
  void move_to(const QueueState& state) override { queue_->move_to(state); }
  std::optional<DescriptorChain> retake(const ChainState& chain) override {
    return queue_->retake(chain);
  }

 private:
  std::uint32_t length(const UsedBuffer& used) const {
    switch (used_length_) {
      case UsedLength::kHonest:
        return used.length;
      case UsedLength::kWholeChain:
        return clamped(used.chain->request_bytes() + used.chain->answer_bytes());
      case UsedLength::kTooLong:
        return clamped(used.chain->answer_bytes() + 1);
      case UsedLength::kZero:
        return 0;
    }
    return used.length;
  }

  std::unique_ptr<VirtQueue> queue_;
  UsedLength used_length_;
};

}  // namespace

Personality personality_of(std::span<const std::string> names) {
  Personality personality;
  const auto is_length = [](const std::string& name) { return name.starts_with(kUsedLength); };
  if (std::ranges::count_if(names, is_length) > 1) {
    throw Error("machine spec", EINVAL, "a personality has two used lengths", "leave one out");
  }
  for (const std::string& name : names) {
    const auto found = std::ranges::find(kOddities, name, &Oddity::name);
    if (found == kOddities.end()) {
      std::string known = "there are:";
      for (const Oddity& one : kOddities) known += " " + std::string(one.name);
      throw Error("machine spec", EINVAL, "no oddity \"" + name + "\" of a personality", known);
    }
    found->take_on(personality);
  }
  return personality;
}

std::vector<std::uint16_t> odd_queue_sizes(std::vector<std::uint16_t> sizes,
                                           const Personality& personality) {
  if (!personality.odd_queue_size) return sizes;
  // 3 is the least that is no power of two.
  for (std::uint16_t& size : sizes) {
    size = static_cast<std::uint16_t>(std::max<int>(size, 4) - 1);
  }
  return sizes;
}

std::unique_ptr<VirtQueue> odd_queue(std::unique_ptr<VirtQueue> queue,
                                     const Personality& personality) {
  if (personality.used_length == UsedLength::kHonest) return queue;
  return std::make_unique<OddQueue>(std::move(queue), personality.used_length);
}

}  // namespace kvitest
