#include "native/virtio/scsi/scsi.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <mutex>
#include <optional>
#include <set>
#include <utility>

#include "native/error.h"
#include "native/little_endian.h"
#include "native/virtio/scsi/address.h"
#include "native/virtio/scsi/config.h"
#include "native/virtio/scsi/events.h"
#include "native/virtio/scsi/request.h"
#include "native/virtio/scsi/state.h"
#include "native/virtio/scsi/target.h"
#include "native/virtio/scsi/unit_list.h"

namespace kvitest {
namespace {

constexpr std::uint16_t kControlQueue = 0;
constexpr std::uint16_t kFirstRequestQueue = 2;
// Of the sizes that a driver may set.
constexpr std::uint32_t kMaxSenseSize = 252;
constexpr std::uint32_t kMaxCdbSize = 260;

constexpr std::array<FeatureName, 2> kFeatureNames{
    {{"hotplug", kScsiHotplug}, {"change", kScsiChange}}};

class ScsiDevice : public Scsi {
 public:
  ScsiDevice(const ScsiSpec& spec, OpenLun open, bool restored)
      : spec_(spec),
        open_(std::move(open)),
        requests_(spec.name, [this](DescriptorChain& chain) { return request(chain); }) {
    if (restored) return;
    for (const ScsiLunSpec& lun : spec.luns) add(make_unit(lun, open_(lun)));
  }

  std::uint32_t type() const override { return kTypeScsi; }
  std::uint64_t features() const override { return kScsiHotplug | kScsiChange; }
  std::span<const FeatureName> feature_names() const override { return kFeatureNames; }
  std::vector<std::uint16_t> queue_sizes() const override {
    std::vector<std::uint16_t> sizes{kScsiControlSize, kScsiEventSize};
    sizes.insert(sizes.end(), spec_.queues, spec_.queue_size);
    return sizes;
  }

  void read_config(std::uint64_t offset, std::span<std::byte> data) override {
    const std::lock_guard lock(mutex_);
    kvitest::read_config(spec_, config_, offset, data);
  }

  void write_config(std::uint64_t offset, std::span<const std::byte> data) override {
    if (data.size() != sizeof(std::uint32_t)) return;
    const auto value = load_le<std::uint32_t>(data, 0);
    const std::lock_guard lock(mutex_);
    if (offset == kConfigSenseSize && value <= kMaxSenseSize) config_.sense_size = value;
    if (offset == kConfigCdbSize && value <= kMaxCdbSize) config_.cdb_size = value;
  }

  void activate(std::uint64_t features, std::span<VirtQueue* const> queues,
                VirtioInterrupts& interrupts) override {
    attach({features, queues, interrupts});
    look_at_every_queue();
  }

  void notify(std::uint16_t queue) override {
    if (queue == kControlQueue) return serve_control();
    if (queue == kScsiEventQueue) return tell_missed_events();
    requests_.notify(queue);
  }

  void reset() override {
    const std::lock_guard serving(control_mutex_);
    requests_.reset();
    const std::lock_guard lock(mutex_);
    control_ = nullptr;
    interrupts_ = nullptr;
    events_.reset();
    config_ = {};
  }

  bool in_order() const override { return true; }
  bool resets_queues() const override { return true; }

  void reset_queue(std::uint16_t queue) override {
    if (queue >= kFirstRequestQueue) return requests_.reset_queue(queue);
    const std::lock_guard serving(control_mutex_);
    const std::lock_guard lock(mutex_);
    give(queue, nullptr);
  }
  void enable_queue(std::uint16_t queue, VirtQueue& ring) override {
    if (queue >= kFirstRequestQueue) return requests_.enable_queue(queue, ring);
    {
      const std::lock_guard lock(mutex_);
      give(queue, &ring);
    }
    notify(queue);
  }

  void pause() override { requests_.pause(); }
  void unpause() override { requests_.unpause(); }

  void save(StateWriter& writer) const override {
    const std::lock_guard lock(mutex_);
    ScsiState state{.sense_size = config_.sense_size,
                    .cdb_size = config_.cdb_size,
                    .events_missed = events_.missed(),
                    .units = {}};
    for (const auto& unit : units_) {
      const ScsiLunSpec& spec = unit->spec;
      state.units.push_back({spec.name, spec.serial, spec.target, spec.lun, spec.read_only,
                             spec.block_size, unit->disk->size(), unit->attentions()});
    }
    writer.save(state);
  }

  void load(StateReader& reader, const VirtioActivation* active) override {
    const auto state = reader.load<ScsiState>();
    if (state.sense_size > kMaxSenseSize || state.cdb_size > kMaxCdbSize) {
      reader.fail("sizes that no driver can set");
    }
    for (const ScsiUnitState& one : state.units) restore(reader, one);
    if (active != nullptr) attach(*active);
    const std::lock_guard lock(mutex_);
    config_.sense_size = state.sense_size;
    config_.cdb_size = state.cdb_size;
    events_.set_missed(state.events_missed);
  }

  void resume() override { look_at_every_queue(); }

  Disk* disk(const std::string& lun) override {
    const std::lock_guard lock(mutex_);
    const auto unit = units_.named(lun);
    return unit == nullptr ? nullptr : unit->disk.get();
  }

  std::vector<std::string> disks() const override {
    const std::lock_guard lock(mutex_);
    std::vector<std::string> names;
    for (const auto& unit : units_) names.push_back(unit->spec.name);
    return names;
  }

  void resize(const std::string& lun, std::uint64_t bytes) override {
    const std::lock_guard lock(mutex_);
    const auto unit = units_.named(lun);
    if (unit == nullptr) throw Error("resize disk", ENOENT, "no logical unit " + lun);
    if (bytes == 0 || bytes % unit->spec.block_size != 0) {
      throw Error(
          "resize disk", EINVAL,
          std::to_string(bytes) + " bytes in blocks of " + std::to_string(unit->spec.block_size),
          "give a multiple of the block size");
    }
    if (unit->spec.read_only && std::holds_alternative<FileBacking>(unit->spec.backing)) {
      throw Error("resize disk", EROFS, "disk " + lun + " is a file that is only read");
    }
    unit->disk->resize(bytes);
    unit->establish(kCapacityChanged);
    events_.unit_changed(unit->spec, kCapacityChanged);
  }

  void attach_lun(const ScsiLunSpec& lun, std::unique_ptr<Disk> disk) override {
    validate(lun);
    const auto unit = make_unit(lun, std::move(disk));
    const std::lock_guard lock(mutex_);
    if (units_.named(lun.name) != nullptr) {
      throw Error("attach", EEXIST, "logical unit " + lun.name + " is there already");
    }
    if (units_.at(lun.target, lun.lun) != nullptr) {
      throw Error(
          "attach", EEXIST,
          "target " + std::to_string(lun.target) + " has a logical unit " + std::to_string(lun.lun),
          "give it another number");
    }
    for (const auto& other : units_.on_target(lun.target)) other->establish(kReportedLunsChanged);
    add(unit);
    events_.unit_came(unit->spec);
  }

  const RequestQueues& requests() const override { return requests_; }

  void detach_lun(const std::string& lun) override {
    std::shared_ptr<LogicalUnit> unit;
    {
      const std::lock_guard lock(mutex_);
      unit = units_.named(lun);
      if (unit == nullptr) throw Error("detach", ENOENT, "no logical unit " + lun);
      units_.remove(unit);
      set_waits();
      for (const auto& other : units_.on_target(unit->spec.target)) {
        other->establish(kReportedLunsChanged);
      }
      events_.unit_went(unit->spec);
    }
  }

 private:
  // ---- logical units; with the lock held

  static std::shared_ptr<LogicalUnit> make_unit(const ScsiLunSpec& lun,
                                                std::unique_ptr<Disk> disk) {
    if (disk->size() == 0 || disk->size() % lun.block_size != 0) {
      throw Error("machine spec", EINVAL,
                  "disk " + lun.name + ": " + std::to_string(disk->size()) +
                      " bytes are no whole number of blocks of " + std::to_string(lun.block_size),
                  "use smaller blocks");
    }
    auto unit = std::make_shared<LogicalUnit>(lun, std::move(disk));
    unit->establish(kPowerOn);
    return unit;
  }

  void add(std::shared_ptr<LogicalUnit> unit) {
    units_.add(std::move(unit));
    set_waits();
  }

  void set_waits() {
    requests_.set_waits(
        std::ranges::any_of(units_, [](const auto& unit) { return unit->disk->may_wait(); }));
  }

  void restore(StateReader& reader, const ScsiUnitState& saved) {
    ScsiLunSpec lun{.name = saved.name,
                    .backing = MemoryBacking{saved.size},
                    .target = saved.target,
                    .lun = saved.lun,
                    .read_only = saved.read_only,
                    .serial = saved.serial,
                    .block_size = saved.block_size};
    try {
      validate(lun);
    } catch (const Error& error) {
      reader.fail(error.detail());
    }
    const std::lock_guard lock(mutex_);
    if (units_.named(lun.name) != nullptr || units_.at(lun.target, lun.lun) != nullptr) {
      reader.fail("two logical units of one name or number");
    }
    auto disk = open_(lun);
    if (disk->size() != saved.size) {
      reader.fail("a disk of " + std::to_string(saved.size) + " bytes, this one has " +
                  std::to_string(disk->size()));
    }
    auto unit = make_unit(lun, std::move(disk));
    unit->clear(kPowerOn);
    for (const Sense& one : saved.attentions) unit->establish(one);
    add(std::move(unit));
  }

  void attach(const VirtioActivation& active) {
    {
      const std::lock_guard lock(mutex_);
      control_ = active.queues[kControlQueue];
      interrupts_ = &active.interrupts;
      events_.attach(active.features, active.queues[kScsiEventQueue], active.interrupts);
    }
    requests_.attach(active.features, active.queues.subspan(kFirstRequestQueue), kFirstRequestQueue,
                     active.interrupts);
  }

  void look_at_every_queue() {
    serve_control();
    tell_missed_events();
    requests_.look_at_every_queue();
  }

  // ---- requests; on vCPU threads and workers

  std::uint32_t request(DescriptorChain& chain) {
    std::uint32_t sense_size = 0;
    std::uint32_t cdb_size = 0;
    {
      const std::lock_guard lock(mutex_);
      sense_size = config_.sense_size;
      cdb_size = config_.cdb_size;
    }
    if (chain.writable() < kResponseBytes) return 0;
    // The response is ahead of the data, and known behind it.
    DescriptorChain response = chain;
    std::vector<std::byte> header(kRequestBytes + cdb_size);
    const bool is_whole =
        chain.writable() >= kResponseBytes + sense_size && chain.read(header) == header.size();
    if (!is_whole) return respond(response, {.response = ScsiResponse::kFailure}, 0, 0);
    chain.skip_answer(kResponseBytes + sense_size);
    ScsiCommand command;
    std::copy_n(header.begin() + kRequestBytes, std::min<std::size_t>(cdb_size, kMaxCdbBytes),
                command.cdb.begin());
    command.data_out = chain.readable();
    command.data_in = chain.writable();
    command.chain = &chain;
    LunField field;
    std::copy_n(header.begin(), field.size(), field.begin());
    const ScsiResult result =
        perform(command, address_of(field), load_le<std::uint64_t>(header, field.size()));
    const std::uint64_t length = command.data_out + command.data_in;
    const std::uint64_t residual = length - std::min(length, result.transferred);
    const std::uint32_t used = respond(response, result, sense_size, residual);
    // What came before the data is written; data that came in is behind it.
    const bool came_in = command.data_in != 0;
    return used + (came_in ? static_cast<std::uint32_t>(result.transferred) : 0);
  }

  ScsiResult perform(ScsiCommand& command, const std::optional<ScsiAddress>& address,
                     std::uint64_t id) {
    // 5.6.6.1.1: both ways at once takes INOUT.
    if (command.data_out != 0 && command.data_in != 0) return {.response = ScsiResponse::kFailure};
    if (!address) return {.response = ScsiResponse::kBadTarget};
    LogicalUnits units;
    std::shared_ptr<LogicalUnit> unit;
    const std::pair task(*address, id);
    {
      const std::lock_guard lock(mutex_);
      units = units_.on_target(address->target);
      unit = address->well_known ? nullptr : units_.at(address->target, address->lun);
      if (units.empty()) return {.response = ScsiResponse::kBadTarget};
      tasks_.insert(task);
    }
    command.units = &units;
    command.unit = unit.get();
    const ScsiResult result = address->well_known ? execute_well_known(command) : execute(command);
    const std::lock_guard lock(mutex_);
    tasks_.erase(tasks_.find(task));
    return result;
  }

  // ---- the control queue

  void serve_control() {
    // A reset waits for what is under way here.
    const std::lock_guard serving(control_mutex_);
    std::size_t left = 0;
    for (bool first = true;; first = false) {
      std::optional<DescriptorChain> chain;
      {
        const std::lock_guard lock(mutex_);
        if (control_ == nullptr) return;
        if (first) left = request_budget(*control_);
        if (left-- == 0) return control_->request_notification();
        chain = control_->pop();
      }
      if (!chain) return;
      control(*chain);
      const std::lock_guard lock(mutex_);
      control_->push_used(*chain, chain->written());
      if (control_->needs_interrupt()) interrupts_->queue_interrupt(kControlQueue);
    }
  }

  void control(DescriptorChain& chain) {
    std::array<std::byte, 24> bytes{};
    const std::size_t length = chain.read(bytes);
    const auto answer = [&](std::uint8_t response) {
      const std::byte one{response};
      chain.write(std::span(&one, 1));
    };
    const auto type = load_le<std::uint32_t>(bytes, 0);
    LunField field;
    if (type == kTaskManagement && length == bytes.size()) {
      std::copy_n(bytes.begin() + 8, field.size(), field.begin());
      return answer(manage(static_cast<ScsiTask>(load_le<std::uint32_t>(bytes, 4)),
                           address_of(field), load_le<std::uint64_t>(bytes, 16)));
    }
    const bool is_notification = type == kNotificationQuery || type == kNotificationSubscribe;
    if (is_notification && length >= 16) {
      // Disks have none of these events.
      std::copy_n(bytes.begin() + 4, field.size(), field.begin());
      const std::array<std::byte, 4> none{};
      chain.write(none);
      const auto address = address_of(field);
      const std::lock_guard lock(mutex_);
      const bool is_there = address && units_.at(address->target, address->lun) != nullptr;
      return answer(is_there ? 0 : kBadTarget);
    }
    answer(kFailure);
  }

  std::uint8_t manage(ScsiTask task, const std::optional<ScsiAddress>& address, std::uint64_t id) {
    LogicalUnits units;
    std::shared_ptr<LogicalUnit> unit;
    {
      const std::lock_guard lock(mutex_);
      if (address && !address->well_known) {
        units = units_.on_target(address->target);
        unit = units_.at(address->target, address->lun);
      }
    }
    if (units.empty()) return kBadTarget;
    if (unit == nullptr && task != ScsiTask::kNexusReset) return kIncorrectLun;
    switch (task) {
      case ScsiTask::kAbortTask:
      case ScsiTask::kAbortTaskSet:
      case ScsiTask::kClearTaskSet:
        // They complete as they are, before this does.
        requests_.drain();
        return kFunctionComplete;
      case ScsiTask::kNexusReset:
        requests_.drain();
        for (const auto& one : units) one->establish(kPowerOn);
        return kFunctionComplete;
      case ScsiTask::kUnitReset:
        requests_.drain();
        unit->establish(kPowerOn);
        return kFunctionComplete;
      case ScsiTask::kQueryTask: {
        const std::lock_guard lock(mutex_);
        return tasks_.contains(std::pair(*address, id)) ? kFunctionSucceeded : kFunctionComplete;
      }
      case ScsiTask::kQueryTaskSet: {
        const std::lock_guard lock(mutex_);
        const bool any =
            std::ranges::any_of(tasks_, [&](const auto& one) { return one.first == *address; });
        return any ? kFunctionSucceeded : kFunctionComplete;
      }
      case ScsiTask::kClearAca:
        break;
    }
    return kFunctionRejected;
  }

  void tell_missed_events() {
    const std::lock_guard lock(mutex_);
    events_.tell_missed();
  }

  // With the lock held: one of the first two queues, or null while it is reset.
  void give(std::uint16_t queue, VirtQueue* ring) {
    if (queue == kControlQueue) {
      control_ = ring;
    } else {
      events_.use(ring);
    }
  }

  const ScsiSpec spec_;
  const OpenLun open_;
  std::mutex control_mutex_;  // outside mutex_
  mutable std::mutex mutex_;
  UnitList units_;
  VirtQueue* control_ = nullptr;
  ScsiEvents events_;
  VirtioInterrupts* interrupts_ = nullptr;
  ScsiConfig config_;
  std::multiset<std::pair<ScsiAddress, std::uint64_t>> tasks_;  // that are being done
  RequestQueues requests_;  // last: its threads use all of the above
};

}  // namespace

std::unique_ptr<Scsi> make_scsi(const ScsiSpec& spec, OpenLun open, bool restored) {
  validate(spec);
  return std::make_unique<ScsiDevice>(spec, std::move(open), restored);
}

}  // namespace kvitest
