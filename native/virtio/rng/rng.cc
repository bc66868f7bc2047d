#include "native/virtio/rng/rng.h"

#include <sys/random.h>

#include <algorithm>
#include <array>
#include <mutex>

#include "native/error.h"
#include "native/virtio/queue.h"

namespace kvitest {
namespace {

constexpr std::uint32_t kTypeEntropy = 4;
constexpr std::uint16_t kQueueSize = 64;
// A request may be answered in part (5.4.6.2); more would let a guest hold its vCPU thread here.
constexpr std::uint64_t kMaxRequestBytes = 64 * 1024;
// getrandom(2): up to 256 bytes are never cut short by a signal, and vCPU threads get signals.
constexpr std::size_t kGetrandomBytes = 256;

void fill_random(std::span<std::byte> out) {
  const ssize_t got = getrandom(out.data(), out.size(), 0);
  if (got != static_cast<ssize_t>(out.size())) {
    throw Error("getrandom", errno, std::to_string(out.size()) + " bytes for virtio-rng");
  }
}

// It remembers nothing: a request is answered before its doorbell returns. The section stands for
// the device in a checkpoint.
struct RngState {
  static constexpr StateTag kTag{"virtio-rng", 1};
  template <typename Archive>
  void fields(Archive&) {}
};

class Rng : public VirtioDevice {
 public:
  std::uint32_t type() const override { return kTypeEntropy; }
  std::uint64_t features() const override { return 0; }
  bool in_order() const override { return true; }
  bool resets_queues() const override { return true; }
  std::vector<std::uint16_t> queue_sizes() const override { return {kQueueSize}; }

  void read_config(std::uint64_t, std::span<std::byte> data) override {
    std::ranges::fill(data, std::byte{0});
  }

  void activate(std::uint64_t, std::span<VirtQueue* const> queues,
                VirtioInterrupts& interrupts) override {
    const std::lock_guard lock(mutex_);
    queue_ = queues[0];
    interrupts_ = &interrupts;
    serve();
  }

  void notify(std::uint16_t queue) override {
    const std::lock_guard lock(mutex_);
    if (queue == 0) serve();
  }

  void reset() override {
    const std::lock_guard lock(mutex_);
    queue_ = nullptr;
    interrupts_ = nullptr;
  }

  void reset_queue(std::uint16_t) override {
    const std::lock_guard lock(mutex_);
    queue_ = nullptr;
  }

  void enable_queue(std::uint16_t, VirtQueue& queue) override {
    const std::lock_guard lock(mutex_);
    queue_ = &queue;
    serve();
  }

  void save(StateWriter& writer) const override { writer.save(RngState{}); }

  void load(StateReader& reader, const VirtioActivation* active) override {
    reader.load<RngState>();
    if (active == nullptr) return;
    const std::lock_guard lock(mutex_);
    queue_ = active->queues[0];
    interrupts_ = &active->interrupts;
  }

  void resume() override {
    const std::lock_guard lock(mutex_);
    serve();
  }

 private:
  void serve() {
    if (queue_ == nullptr) return;
    std::size_t left = request_budget(*queue_);
    while (left != 0) {
      auto chain = queue_->pop();
      if (!chain) break;
      answer(*chain);
      queue_->push_used(*chain, chain->written());
      --left;
    }
    if (left == 0) queue_->request_notification();
    if (queue_->needs_interrupt()) interrupts_->queue_interrupt(0);
  }

  static void answer(DescriptorChain& chain) {
    std::uint64_t left = std::min(chain.writable(), kMaxRequestBytes);
    std::array<std::byte, kGetrandomBytes> bytes;
    while (left != 0) {
      const std::span<std::byte> piece =
          std::span(bytes).first(std::min<std::uint64_t>(left, bytes.size()));
      fill_random(piece);
      if (chain.write(piece) != piece.size()) return;
      left -= piece.size();
    }
  }

  std::mutex mutex_;
  VirtQueue* queue_ = nullptr;
  VirtioInterrupts* interrupts_ = nullptr;
};

}  // namespace

std::unique_ptr<VirtioDevice> make_rng(const RngSpec&) {
  return std::make_unique<Rng>();
}

}  // namespace kvitest
