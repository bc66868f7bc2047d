// Checkpoint, fork and reset of a Machine. Everything here runs on the device loop.
#include <algorithm>
#include <cerrno>
#include <utility>

#include "native/error.h"
#include "native/machine/machine.h"

namespace kvitest {

class Machine::Settled {
 public:
  explicit Settled(Machine& machine) : machine_(machine) {
    // A vCPU may be waiting inside an OUT for the owner to take output, who may be waiting for us.
    machine_.events_.waive_credit(true);
    // All are asked first, so that they come out side by side.
    for (const auto& thread : machine_.threads_) thread->request_settle();
    for (const auto& thread : machine_.threads_) thread->wait_settled();
    machine_.events_.waive_credit(false);
    for (const auto& thread : machine_.threads_) halted_.push_back(thread->is_halted());
    halted_.resize(machine_.spec_.cpus);
    if (machine_.board_ != nullptr) machine_.board_->pause();
  }
  ~Settled() {
    // After a reset it is another board, which was never paused.
    if (machine_.board_ != nullptr) machine_.board_->unpause();
    for (std::size_t i = 0; i < machine_.threads_.size(); ++i) {
      machine_.threads_[i]->resume(halted_[i]);
    }
  }
  Settled(const Settled&) = delete;
  Settled& operator=(const Settled&) = delete;

  const std::vector<bool>& halted() const { return halted_; }
  // What holds from here on.
  void set_halted(const std::vector<bool>& halted) { halted_ = halted; }

 private:
  Machine& machine_;
  std::vector<bool> halted_;
};

void Machine::checkpoint(
    std::function<void(std::shared_ptr<const Checkpoint>, std::exception_ptr)> done) {
  if (saving_.exchange(true)) {
    done(nullptr, std::make_exception_ptr(Error(
                      "checkpoint", EBUSY,
                      "another checkpoint or reset of machine " + spec_.name + " is being made",
                      "await it first")));
    return;
  }
  loop_.post([this, done = std::move(done)] {
    std::shared_ptr<const Checkpoint> checkpoint;
    std::exception_ptr error = thrown_by([&] { checkpoint = take_checkpoint(); });
    saving_ = false;
    done(std::move(checkpoint), std::move(error));
  });
}

std::shared_ptr<const Checkpoint> Machine::take_checkpoint() {
  if (state_ == State::kEnded && last_ != nullptr) return last_;
  require_running("checkpoint");
  const Settled settled(*this);
  require_running("checkpoint");  // it may have ended on the way out of the guest
  auto checkpoint = save_all(settled.halted());
  events_.push(MarkEvent{false});
  return checkpoint;
}

std::shared_ptr<Checkpoint> Machine::save_all(const std::vector<bool>& halted) {
  auto checkpoint = std::make_shared<Checkpoint>();
  // Devices, then vCPUs, then the VM: a device's interrupt is part of the vCPU's state, and a
  // vCPU's of the interrupt controllers', as soon as it is raised.
  StateWriter devices;
  board_->save(devices);
  checkpoint->devices = devices.take();
  for (const auto& vcpu : vcpus_) checkpoint->vcpus.push_back(save_vcpu(*vcpu));
  checkpoint->vm = save_vm(*vm_, *vcpus_.front());
  checkpoint->machine.spec = spec_;
  checkpoint->machine.halted = halted;
  checkpoint->machine.pending_writes = writes_.pending();
  {
    const std::lock_guard lock(end_mutex_);
    checkpoint->machine.panic_events = panic_events_;
  }
  checkpoint->memory = memory_->image();
  checkpoint->disks = board_->disk_images();
  return checkpoint;
}

void Machine::keep_end(Done done) {
  loop_.post([this, done = std::move(done)] {
    answer(done, [this] {
      if (state_ == State::kEnded) require_running("keepEnd");
      keeps_end_ = true;
    });
  });
}

// The vCPUs' threads have been joined.
void Machine::save_end() {
  if (board_ == nullptr || vcpus_.empty()) return;
  board_->pause();
  try {
    last_ = save_all(std::vector<bool>(spec_.cpus, true));
  } catch (const std::exception& error) {
    const std::lock_guard lock(end_mutex_);
    end_.detail += std::string("; its memory could not be kept: ") + error.what();
  }
  board_->unpause();
}

void Machine::build_fork() {
  check_expected(spec_, fork_options_);
  counted_ = std::make_unique<Counted>(live_machines);
  system_ = std::make_unique<System>();
  memory_ = std::make_unique<GuestMemory>(origin_->memory);
  vm_ = std::make_unique<Vm>(*system_, *memory_, spec_.irqchip);
  // All vCPUs before the state of any: a LAPIC's state is entered into a table of them all.
  for (const SavedVcpu& saved : origin_->vcpus) {
    vcpus_.push_back(std::make_unique<Vcpu>(*vm_, static_cast<unsigned>(vcpus_.size())));
    shape_vcpu(*vcpus_.back(), saved);
  }
  restore(fork_options_);
}

void Machine::restore(const ForkOptions& options) {
  // Memory is there already: the MSRs of kvmclock make KVM write to it.
  const std::uint64_t distance = tsc_distance(*vcpus_.front(), origin_->vcpus.front());
  for (std::size_t i = 0; i < vcpus_.size(); ++i) {
    restore_vcpu(*vcpus_[i], origin_->vcpus[i], distance);
  }
  restore_vm(*vm_, *vcpus_.front(), origin_->vm);
  // A new board each time: nothing of what a device of the old guest knew can stay.
  board_ = std::make_unique<Board>(spec_, *memory_, *vm_, static_cast<BoardOwner&>(*this),
                                   &origin_->disks);
  StateReader devices(origin_->devices);
  board_->load(devices);
  devices.finish();
  board_->personalize(fork_options_.devices);
  halted_ = static_cast<unsigned>(std::ranges::count(origin_->machine.halted, true));
  {
    const std::lock_guard lock(end_mutex_);
    panic_events_ = origin_->machine.panic_events;
  }
  // Last: devices may now raise interrupts, and the interrupt controllers are there to take them.
  board_->resume(generation_id(options));
  for (const auto& [channel, bytes] : origin_->machine.pending_writes) {
    writes_.add(channel, bytes, [](const std::exception_ptr&) {});
  }
}

void Machine::reset(ForkOptions options, Done done) {
  if (saving_.exchange(true)) {
    done(std::make_exception_ptr(Error(
        "reset", EBUSY, "another checkpoint or reset of machine " + spec_.name + " is being made",
        "await it first")));
    return;
  }
  loop_.post([this, options = std::move(options), done = std::move(done)] {
    std::exception_ptr error = thrown_by([&] { take_back(options); });
    saving_ = false;
    done(std::move(error));
  });
}

void Machine::take_back(const ForkOptions& options) {
  require_running("reset");
  if (origin_ == nullptr) {
    throw Error("reset", EINVAL, "machine " + spec_.name + " was booted, not forked",
                "take a checkpoint, fork it and reset the fork");
  }
  check_expected(spec_, options);
  if (!options.devices.empty()) {
    throw Error("reset", EINVAL, "machine " + spec_.name + " keeps the devices it was forked with",
                "fork the checkpoint anew for others");
  }
  Settled settled(*this);
  require_running("reset");
  // What the guest wrote before is the owner's.
  drain_consoles();
  writes_.fail(Error("write", ECANCELED, "machine " + spec_.name + " was reset to its checkpoint"));
  events_.push(MarkEvent{true});
  try {
    board_.reset();
    memory_->restore();
    restore(options);
  } catch (const std::exception& error) {
    end("vmm-error", std::string("reset to the checkpoint failed: ") + error.what());
    // Half a machine: no vCPU may run in it until the end.
    settled.set_halted(std::vector<bool>(spec_.cpus, true));
    throw;
  }
  settled.set_halted(origin_->machine.halted);
}

}  // namespace kvitest
