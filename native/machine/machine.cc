#include "native/machine/machine.h"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <stdexcept>
#include <utility>

#include "native/error.h"
#include "native/machine/vcpu_setup.h"
#include "native/overloaded.h"
#include "native/platform/platform_map.h"

namespace kvitest {
namespace {

// Of the errors the owner's calls answer with.
constexpr const char* kEndedHint = "see the machine's end for why";

// How long single bytes of output may gather before the owner is woken.
constexpr std::chrono::milliseconds kOutputDelay{5};

std::string what(std::exception_ptr error) {
  try {
    std::rethrow_exception(std::move(error));
  } catch (const std::exception& e) {
    return e.what();
  } catch (...) {
    return "an exception of no known type";
  }
}

// Slots are numbered as Board attaches them.
std::vector<std::uint8_t> slots_of(const MachineSpec& spec, bool mmio) {
  std::vector<std::uint8_t> slots;
  for (std::size_t i = 0; i < spec.devices.size(); ++i) {
    if (spec.devices[i].transport.mmio == mmio) slots.push_back(static_cast<std::uint8_t>(i + 1));
  }
  return slots;
}

}  // namespace

Machine::Machine(MachineSpec spec, Owner owner)
    : spec_(std::move(spec)),
      events_(owner.events_ready,
              [this, ready = owner.events_ready] { loop_.post_later(kOutputDelay, ready); }),
      writes_([this](const std::string& channel, std::span<const std::byte> data) {
        return board_->host_write(channel, data);
      }),
      loop_(spec_.name, std::move(owner.released)) {}

Machine::Machine(std::shared_ptr<const Checkpoint> origin, ForkOptions options, Owner owner)
    : origin_(std::move(origin)),
      fork_options_(std::move(options)),
      spec_(fork_spec(*origin_, fork_options_)),
      events_(owner.events_ready,
              [this, ready = owner.events_ready] { loop_.post_later(kOutputDelay, ready); }),
      writes_([this](const std::string& channel, std::span<const std::byte> data) {
        return board_->host_write(channel, data);
      }),
      loop_(spec_.name, std::move(owner.released)) {}

Machine::~Machine() {
  stop([](const MachineEnd&) {});
  join();
}

void Machine::join() {
  loop_.join();
}

// ---- the owner's calls

void Machine::answer(const Done& done, const std::function<void()>& action) {
  done(thrown_by(action));
}

void Machine::create(Done done) {
  loop_.post([this, done = std::move(done)] {
    std::exception_ptr error = thrown_by([this] {
      origin_ == nullptr ? build() : build_fork();
      state_ = State::kCreated;
    });
    if (error) {
      ending_ = true;
      state_ = State::kEnded;
      end_.reason = "vmm-error";
      end_.detail = what(error);
      release();
      loop_.finish();
    }
    done(std::move(error));
  });
}

void Machine::start(Done done) {
  loop_.post([this, done = std::move(done)] {
    answer(done, [this] {
      if (state_ == State::kRunning) {
        throw Error("start", EALREADY, "machine " + spec_.name + " runs already");
      }
      if (state_ != State::kCreated || ending_) {
        throw Error("start", EPIPE, "machine " + spec_.name + " has ended", kEndedHint);
      }
      start_vcpus();
    });
  });
}

void Machine::stop(std::function<void(const MachineEnd&)> done) {
  loop_.post([this, done = std::move(done)] {
    if (state_ == State::kEnded) {
      done(end_);
      return;
    }
    stop_waiters_.push_back(done);
    end("stopped", state_ == State::kRunning ? "stopped" : "stopped before it was started");
  });
}

void Machine::write(std::string channel, std::vector<std::byte> data, Done done) {
  loop_.post([this, channel = std::move(channel), data = std::move(data),
              done = std::move(done)]() mutable {
    std::exception_ptr error = thrown_by([&] {
      require_running("write");
      if (channel != kDebugChannel && board_->has_channel(channel)) return;
      std::string known;
      for (const std::string& name : board_->channels()) known += " " + name;
      throw Error("write", channel == kDebugChannel ? EPERM : ENOENT,
                  "machine " + spec_.name + " takes no bytes on channel \"" + channel + "\"",
                  "its channels:" + known);
    });
    if (error) {
      done(std::move(error));
      return;
    }
    writes_.add(channel, std::move(data), std::move(done));
  });
}

void Machine::consumed(std::string channel, std::size_t bytes) {
  if (channel == kSerialChannel || channel == kDebugChannel) {
    events_.consumed(channel, bytes);
    return;
  }
  loop_.post([this, channel = std::move(channel), bytes] {
    if (state_ == State::kEnded || board_ == nullptr) return;
    if (Console* console = board_->console_of(channel)) {
      console->consumed(channel, bytes);
    } else if (const auto [vsock, connection] = board_->connection_of(channel); vsock != nullptr) {
      vsock->consumed(connection, bytes);
    }
  });
}

void Machine::set_port_open(std::string channel, bool open, Done done) {
  loop_.post([this, channel = std::move(channel), open, done = std::move(done)] {
    answer(done, [&] { console_port(channel, "setPortOpen").host_open(channel, open); });
  });
}

void Machine::resize(std::string channel, std::uint16_t columns, std::uint16_t rows, Done done) {
  loop_.post([this, channel = std::move(channel), columns, rows, done = std::move(done)] {
    answer(done, [&] { console_port(channel, "resize").resize(channel, columns, rows); });
  });
}

void Machine::inspect(std::function<void(std::vector<VcpuState>, std::exception_ptr)> done) {
  loop_.post([this, done = std::move(done)] {
    answer(done, [this] { return state_ == State::kEnded ? end_.vcpus : sample_vcpus(); });
  });
}

void Machine::private_memory(std::function<void(std::uint64_t, std::exception_ptr)> done) {
  loop_.post([this, done = std::move(done)] {
    answer(done, [this] {
      require_running("privateMemory");
      return memory_->private_pages() * kPageSize;
    });
  });
}

void Machine::nmi(NmiOptions options, Done done) {
  loop_.post([this, options, done = std::move(done)] {
    answer(done, [this, options] {
      require_running("nmi");
      if (!vm_->has_irqchip()) {
        throw Error("nmi", ENOTSUP, "machine " + spec_.name + " has no irqchip",
                    "set irqchip: true in its spec");
      }
      if (options.vcpu && *options.vcpu >= threads_.size()) {
        throw Error("nmi", EINVAL,
                    "machine " + spec_.name + " has no vCPU " + std::to_string(*options.vcpu));
      }
      board_->raise_io_check(!options.io_check ? 0 : options.vcpu ? 1 : spec_.cpus);
      for (std::size_t i = 0; i < threads_.size(); ++i) {
        if (options.vcpu && *options.vcpu != i) continue;
        // A vCPU ioctl waits for KVM_RUN to return.
        threads_[i]->while_paused([](Vcpu& vcpu) { vcpu.nmi(); });
      }
    });
  });
}

void Machine::fault(Fault fault, Done done) {
  loop_.post([this, fault, done = std::move(done)] {
    answer(done, [this, fault] {
      require_running("fault");
      fault_ = fault;
      // Out of the guest, however it waits there: that is the exit.
      threads_.front()->while_paused([](Vcpu&) {});
    });
  });
}

void Machine::send_break(Done done) {
  loop_.post([this, done = std::move(done)] {
    answer(done, [this] {
      require_running("sendBreak");
      board_->send_break();
    });
  });
}

void Machine::set_link(std::string device, bool up, Done done) {
  loop_.post([this, device = std::move(device), up, done = std::move(done)] {
    answer(done, [&] {
      require_running("setLink");
      Net* net = board_->net(device);
      if (net == nullptr) {
        throw Error("setLink", ENOENT,
                    "machine " + spec_.name + " has no network device \"" + device + "\"");
      }
      net->set_link(up);
    });
  });
}

Console& Machine::console_port(const std::string& channel, const char* operation) {
  require_running(operation);
  Console* console = board_->console_of(channel);
  if (console != nullptr) return *console;
  throw Error(operation, ENOENT,
              "machine " + spec_.name + " has no virtio-console port \"" + channel + "\"");
}

void Machine::require_running(const char* operation) const {
  if (state_ == State::kEnded || ending_) {
    throw Error(operation, EPIPE, "machine " + spec_.name + " has ended", kEndedHint);
  }
  if (state_ == State::kNew) {
    throw Error(operation, EINVAL, "machine " + spec_.name + " has not been created");
  }
}

// ---- life

void Machine::build() {
  validate(spec_);
  counted_ = std::make_unique<Counted>(live_machines);
  system_ = std::make_unique<System>();
  memory_ = std::make_unique<GuestMemory>(spec_.memory);
  vm_ = std::make_unique<Vm>(*system_, *memory_, spec_.irqchip);
  board_ = std::make_unique<Board>(spec_, *memory_, *vm_, static_cast<BoardOwner&>(*this));
  const BootState boot =
      load_payload(spec_, *memory_,
                   describe_platform(spec_.cpus, slots_of(spec_, true), slots_of(spec_, false)));
  const std::vector<CpuidEntry> supported_cpuid = system_->supported_cpuid();
  for (unsigned index = 0; index < spec_.cpus; ++index) {
    vcpus_.push_back(std::make_unique<Vcpu>(*vm_, index));
    set_up_vcpu(*vcpus_.back(), spec_, supported_cpuid, boot);
  }
}

void Machine::start_vcpus() {
  started_ = std::chrono::steady_clock::now();
  state_ = State::kRunning;
  const VcpuThread::Handler handler{
      [this](Vcpu& vcpu, const Exit& exit) { return handle_exit(vcpu, exit); },
      [this](Vcpu& vcpu, std::exception_ptr error) {
        end("vmm-error", "vCPU " + std::to_string(vcpu.index()) + ": " + what(std::move(error)));
      }};
  try {
    for (const auto& vcpu : vcpus_) {
      threads_.push_back(std::make_unique<VcpuThread>(*vcpu, spec_.name, handler));
      threads_.back()->start(origin_ != nullptr && origin_->machine.halted.at(vcpu->index()));
    }
  } catch (...) {
    end("vmm-error", what(std::current_exception()));
    throw;
  }
}

void Machine::end(std::string reason, std::string detail, std::optional<std::uint64_t> code) {
  if (ending_.exchange(true)) return;
  {
    const std::lock_guard lock(end_mutex_);
    end_.reason = std::move(reason);
    end_.detail = std::move(detail);
    end_.code = code;
    if (started_) {
      const std::chrono::duration<double, std::milli> elapsed =
          std::chrono::steady_clock::now() - *started_;
      end_.elapsed = elapsed.count();
    }
  }
  // A vCPU that waits for the owner to take output must come back to be joined.
  events_.cancel_waits();
  loop_.post([this] { finish(); });
}

void Machine::finish() {
  for (const auto& thread : threads_) thread->request_stop();
  for (const auto& thread : threads_) thread->join();
  threads_.clear();
  drain_consoles();
  {
    const std::lock_guard lock(end_mutex_);
    end_.panicked = (panic_events_ & 1) != 0;
    try {
      end_.vcpus = sample_vcpus();
    } catch (const Error& error) {
      end_.detail += std::string("; no vCPU state: ") + error.what();
    }
    end_.exits = count_exits();
  }
  if (keeps_end_) save_end();
  state_ = State::kEnded;
  writes_.fail(Error("write", EPIPE, "machine " + spec_.name + " ended: " + end_.detail));
  events_.push(EndEvent{end_});
  release();
  for (const auto& waiter : std::exchange(stop_waiters_, {})) waiter(end_);
  loop_.finish();
}

// Several channels may belong to one device.
void Machine::drain_consoles() {
  if (board_ == nullptr) return;
  std::set<Console*> consoles;
  for (const std::string& channel : board_->channels()) {
    if (Console* console = board_->console_of(channel)) consoles.insert(console);
  }
  for (Console* console : consoles) console->drain();
}

void Machine::release() {
  threads_.clear();
  vcpus_.clear();
  board_.reset();
  vm_.reset();
  memory_.reset();
  origin_.reset();
  system_.reset();
  counted_.reset();
}

std::vector<VcpuState> Machine::sample_vcpus() {
  std::vector<VcpuState> states;
  for (std::size_t i = 0; i < vcpus_.size(); ++i) {
    const auto sample = [&states](Vcpu& vcpu) { states.push_back(sample_vcpu(vcpu)); };
    if (i < threads_.size()) {
      threads_[i]->while_paused(sample);
    } else {
      sample(*vcpus_[i]);
    }
  }
  return states;
}

std::map<std::string, std::uint64_t> Machine::count_exits() const {
  std::map<std::string, std::uint64_t> counts;
  for (const auto& vcpu : vcpus_) {
    for (std::uint32_t reason = 0; reason < kExitReasons; ++reason) {
      if (vcpu->exit_counts()[reason] != 0)
        counts[exit_name(reason)] += vcpu->exit_counts()[reason];
    }
  }
  if (unhandled_io_ != 0) counts["io-unhandled"] = unhandled_io_;
  if (unhandled_mmio_ != 0) counts["mmio-unhandled"] = unhandled_mmio_;
  return counts;
}

// ---- on vCPU threads

VcpuThread::Next Machine::handle_exit(Vcpu& vcpu, const Exit& exit) {
  if (vcpu.index() == 0 && fault_ != Fault::kNone) {
    if (fault_ == Fault::kAbort) std::abort();
    throw std::runtime_error("a fault that was asked for");
  }
  const std::string on_vcpu = " on vCPU " + std::to_string(vcpu.index());
  std::visit(Overloaded{[](const Interrupted&) {}, [](const IgnoredExit&) {},
                        [this](const IoExit& io) {
                          if (!board_->handle(io)) ++unhandled_io_;
                        },
                        [this](const MmioExit& mmio) {
                          if (!board_->handle(mmio)) ++unhandled_mmio_;
                        },
                        [this](const HaltExit&) {
                          if (++halted_ == spec_.cpus) {
                            end("halt", spec_.cpus == 1
                                            ? "halted, with no interrupt controller to wake it"
                                            : "every vCPU halted, with no interrupt controller");
                          }
                        },
                        [&](const ShutdownExit&) { end("triple-fault", "triple fault" + on_vcpu); },
                        [&](const InternalErrorExit& e) {
                          end("internal-error", e.detail + on_vcpu, e.suberror);
                        },
                        [&](const FailEntryExit& e) {
                          end("fail-entry", "the hardware refused to enter the guest" + on_vcpu,
                              e.reason);
                        },
                        [&](const UnexpectedExit& e) {
                          end("vmm-error", "KVM exit " + exit_name(e.reason) + on_vcpu +
                                               ", which this machine cannot handle");
                        }},
             exit);
  // The guest must not run past what ended it.
  if (ending_) return VcpuThread::Next::kEnd;
  // Without interrupt controller nothing wakes it.
  return std::holds_alternative<HaltExit>(exit) ? VcpuThread::Next::kHalt : VcpuThread::Next::kRun;
}

void Machine::output(const char* channel, std::span<const std::byte> data) {
  events_.push_data_with_credit(channel, data);
}

void Machine::serial_writable() {
  loop_.post([this] {
    if (state_ != State::kEnded) writes_.pump(kSerialChannel);
  });
}

void Machine::port_data(const std::string& port, std::span<const std::byte> data) {
  events_.push_data(port, data);
}

void Machine::port_open(const std::string& port, bool open) {
  events_.push_port(port, open);
}

void Machine::port_writable(const std::string& port, std::size_t) {
  loop_.post([this, port] {
    if (state_ != State::kEnded) writes_.pump(port);
  });
}

void Machine::pvpanic(std::uint8_t event) {
  {
    const std::lock_guard lock(end_mutex_);
    // A guest may ring without end; the owner is told of each kind once.
    if ((event & ~panic_events_) == 0) return;
    panic_events_ |= event;
  }
  events_.push(PvpanicEvent{event});
}

void Machine::power_off() {
  end("poweroff", "the guest powered off (ACPI S5)");
}

void Machine::reset(const char* by) {
  end("reset", std::string("the guest reset the machine (") + by + ")");
}

void Machine::test_exit(std::uint32_t code) {
  end("test-exit", "the guest exited with code " + std::to_string(code), code);
}

void Machine::input_waiting(const std::string& device) {
  loop_.post([this, device] {
    if (state_ != State::kEnded && board_ != nullptr) board_->deliver(device);
  });
}

}  // namespace kvitest
