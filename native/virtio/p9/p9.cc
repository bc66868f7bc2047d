#include "native/virtio/p9/p9.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <optional>
#include <utility>

#include "native/error.h"
#include "native/little_endian.h"
#include "native/thrown.h"
#include "native/virtio/config_image.h"
#include "native/virtio/p9/server.h"
#include "native/virtio/queue.h"
#include "native/virtio/workers.h"

namespace kvitest {
namespace {

constexpr std::uint32_t kType9p = 9;
constexpr std::uint16_t kQueueSize = 128;
constexpr std::uint64_t kMountTag = 1;  // VIRTIO_9P_MOUNT_TAG
constexpr std::size_t kMaxTag = 31;     // what Linux takes as a mount's source
constexpr std::array<FeatureName, 1> kFeatureNames{{{"mount_tag", kMountTag}}};

// One thread answers, one request after the other: a guest's requests for one directory rarely
// gain from more, and what is flushed has been answered.
class P9Device : public VirtioDevice {
 public:
  explicit P9Device(const P9Spec& spec)
      : spec_(spec),
        server_(spec.path, spec.read_only),
        workers_(spec.tag, 1, [this] { return work(); }) {}

  std::uint32_t type() const override { return kType9p; }
  std::uint64_t features() const override { return kMountTag; }
  std::span<const FeatureName> feature_names() const override { return kFeatureNames; }
  bool in_order() const override { return true; }
  std::vector<std::uint16_t> queue_sizes() const override { return {kQueueSize}; }

  // struct virtio_9p_config: the length of the tag, two bytes, and the tag.
  void read_config(std::uint64_t offset, std::span<std::byte> data) override {
    std::vector<std::byte> image(2 + spec_.tag.size());
    store_le<std::uint16_t>(image, 0, static_cast<std::uint16_t>(spec_.tag.size()));
    std::ranges::copy(std::as_bytes(std::span(spec_.tag)), image.begin() + 2);
    read_image(image, offset, data);
  }

  void activate(std::uint64_t, std::span<VirtQueue* const> queues,
                VirtioInterrupts& interrupts) override {
    {
      const std::lock_guard lock(mutex_);
      queue_ = queues[0];
      interrupts_ = &interrupts;
    }
    notify(0);
  }

  void notify(std::uint16_t queue) override {
    {
      const std::lock_guard lock(mutex_);
      if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
      if (queue != 0 || queue_ == nullptr) return;
    }
    call_worker();
  }

  void reset() override {
    std::unique_lock lock(mutex_);
    queue_ = nullptr;
    idle_.wait(lock, [this] { return !busy_; });
    interrupts_ = nullptr;
    server_.reset();
  }

  void pause() override {
    std::unique_lock lock(mutex_);
    paused_ = true;
    idle_.wait(lock, [this] { return !busy_; });
  }

  void unpause() override {
    {
      const std::lock_guard lock(mutex_);
      paused_ = false;
      if (queue_ == nullptr) return;
    }
    call_worker();
  }

  void save(StateWriter& writer) const override {
    const std::lock_guard lock(mutex_);
    if (busy_) throw Error("save virtio-9p", EBUSY, "a thread is still at work in the device");
    writer.save(server_.state());
  }

  void load(StateReader& reader, const VirtioActivation* active) override {
    const auto state = reader.load<P9State>();
    const std::lock_guard lock(mutex_);
    if (!server_.load(state)) reader.fail("fids that no guest can have");
    if (active == nullptr) return;
    queue_ = active->queues[0];
    interrupts_ = &active->interrupts;
  }

  void resume() override { notify(0); }

 private:
  void call_worker() {
    if (workers_.wake()) return;
    // No thread to be had: the caller does it.
    while (work()) {
    }
  }

  // One request. Two never run at once: a reset or a pause waits for the one.
  bool work() {
    std::optional<DescriptorChain> chain;
    {
      const std::lock_guard lock(mutex_);
      if (paused_ || busy_ || queue_ == nullptr) return false;
      chain = queue_->pop();
      if (!chain) return false;
      busy_ = true;
    }
    std::exception_ptr failure = thrown_by([&] { answer(*chain); });
    const std::lock_guard lock(mutex_);
    if (failure) failure_ = std::move(failure);
    busy_ = false;
    idle_.notify_all();
    // A reset meanwhile took the queue away: the driver does not wait for this one.
    if (queue_ == nullptr) return false;
    queue_->push_used(*chain, chain->written());
    if (!queue_->needs_interrupt()) return true;
    // It ends the machine; the next doorbell's thread can say so.
    failure = thrown_by([this] { interrupts_->queue_interrupt(0); });
    if (failure) failure_ = std::move(failure);
    return true;
  }

  void answer(DescriptorChain& chain) {
    // What a message has beyond the largest one cannot be a message.
    std::vector<std::byte> request(std::min<std::uint64_t>(chain.readable(), kP9MaxMessage));
    request.resize(chain.read(request));
    const auto room = std::min<std::uint64_t>(chain.writable(), kP9MaxMessage);
    chain.write(server_.answer(request, room));
  }

  const P9Spec spec_;
  // Used by who is busy_, and by nobody else meanwhile.
  P9Server server_;

  mutable std::mutex mutex_;
  std::condition_variable idle_;
  VirtQueue* queue_ = nullptr;
  VirtioInterrupts* interrupts_ = nullptr;
  bool busy_ = false;
  bool paused_ = false;
  std::exception_ptr failure_;  // of the worker

  Workers workers_;  // last: its thread uses all of the above
};

}  // namespace

void validate(const P9Spec& spec) {
  const auto refuse = [&](const std::string& detail, const std::string& hint) {
    throw Error("machine spec", EINVAL, "virtio-9p " + spec.tag + ": " + detail, hint);
  };
  if (spec.tag.empty() || spec.tag.size() > kMaxTag || spec.tag.find('\0') != std::string::npos) {
    refuse("a tag of " + std::to_string(spec.tag.size()) + " bytes", "give 1 to 31, and no NUL");
  }
  if (spec.path.empty()) refuse("no path", "give a directory");
}

std::unique_ptr<VirtioDevice> make_p9(const P9Spec& spec) {
  validate(spec);
  return std::make_unique<P9Device>(spec);
}

}  // namespace kvitest
