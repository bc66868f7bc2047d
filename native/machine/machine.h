// A running machine: memory, vCPUs and devices behind asynchronous calls.
//
// Threads: one for each vCPU, from start() to the end; and the device loop, from construction until
// everything is released. The owner's calls run as tasks on the device loop, one after the other,
// and answer there.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "native/boot/load.h"
#include "native/counts.h"
#include "native/kvm/system.h"
#include "native/kvm/vcpu.h"
#include "native/kvm/vm.h"
#include "native/machine/board.h"
#include "native/machine/checkpoint.h"
#include "native/machine/end.h"
#include "native/machine/event_queue.h"
#include "native/machine/fork_options.h"
#include "native/machine/host_writes.h"
#include "native/machine/spec.h"
#include "native/machine/task_loop.h"
#include "native/machine/vcpu_thread.h"
#include "native/memory/guest_memory.h"
#include "native/thrown.h"

namespace kvitest {

// Throws Error (EINVAL) naming the first thing that cannot be built.
void validate(const MachineSpec& spec);

// Bytes of a disk that one call reads or writes.
inline constexpr std::uint64_t kMaxDiskAccess = std::uint64_t{16} << 20;

class Machine : private BoardOwner {
 public:
  // Both are called on native threads, with no lock held, and must not block.
  struct Owner {
    std::function<void()> events_ready;  // take_events() has something
    std::function<void()> released;      // everything is released; join() returns at once
  };
  using Done = std::function<void(std::exception_ptr)>;

  Machine(MachineSpec spec, Owner owner);
  // A fork: goes on where the checkpoint was.
  Machine(std::shared_ptr<const Checkpoint> origin, ForkOptions options, Owner owner);
  // As stop(), and waits for it.
  ~Machine() override;

  // Creates the VM and loads the payload, or restores the checkpoint; after an error the machine is
  // released and no EndEvent comes.
  void create(Done done);
  void start(Done done);
  // Ends the machine if it has not ended, answers when everything is released.
  void stop(std::function<void(const MachineEnd&)> done);
  void write(std::string channel, std::vector<std::byte> data, Done done);
  void consumed(std::string channel, std::size_t bytes);
  void set_port_open(std::string channel, bool open, Done done);
  void resize(std::string channel, std::uint16_t columns, std::uint16_t rows, Done done);
  void inspect(std::function<void(std::vector<VcpuState>, std::exception_ptr)> done);
  // To one vCPU or to all. io_check: with an I/O channel check as its cause, at which Linux shows
  // its registers (and panics under kernel.panic_on_io_nmi).
  struct NmiOptions {
    std::optional<unsigned> vcpu;
    bool io_check = false;
  };
  void nmi(NmiOptions options, Done done);
  // A break on the serial line.
  void send_break(Done done);
  // A fault of this VMM, for tests of what becomes of its user: the thread of the first vCPU
  // throws, or aborts the process.
  enum class Fault { kNone, kThrow, kAbort };
  void fault(Fault fault, Done done);
  // Connections of a vsock, each a channel: VsockEvents tell what the guest does.
  void vsock_listen(std::string device, std::uint32_t host_port, bool on, Done done);
  void vsock_connect(std::string device, std::uint32_t guest_port,
                     std::function<void(std::string channel, std::exception_ptr)> done);
  void vsock_shut(std::string channel, bool whole, Done done);
  // Carrier of a network device.
  void set_link(std::string device, bool up, Done done);
  // Takes a PCI device away, by its name (device_name()): asks the guest to let go of it, or, as a
  // surprise, at once. The UnpluggedEvent says when it is gone. What a disk holds can still be
  // read. Answers Error ENOENT for no such device, EINVAL for one of virtio-mmio, ENODEV for one
  // that is gone already.
  void unplug(std::string device, bool surprise, Done done);
  // What the owner may ask of a balloon; all of it, then the report is the answer.
  struct BalloonRequest {
    std::optional<std::uint64_t> target;  // bytes
    bool statistics = false;              // anew
    bool hints = false;                   // a round of them
    // To ask for statistics by itself from now on; 0: no more. Stays over a reset, not in a fork.
    std::optional<std::chrono::milliseconds> interval;
  };
  void balloon(std::string device, BalloonRequest request,
               std::function<void(BalloonReport, std::exception_ptr)> done);
  // Disks, by name; beside the guest's own requests, whose bytes it may see half written. Answer
  // Error ENOENT for no such disk, EINVAL for a range outside it or more than kMaxDiskAccess.
  using Bytes = std::vector<std::byte>;
  void read_disk(std::string disk, std::uint64_t offset, std::uint64_t length,
                 std::function<void(Bytes, std::exception_ptr)> done);
  void write_disk(std::string disk, std::uint64_t offset, Bytes data, Done done);
  void resize_disk(std::string disk, std::uint64_t bytes, Done done);
  struct DiskReport {
    std::uint64_t bytes = 0;
    // Of its device, a virtio-scsi's of all its units.
    RequestQueues::Server server = RequestQueues::Server::kVcpu;
    RequestQueues::Served served;
  };
  void disk_report(std::string disk, std::function<void(DiskReport, std::exception_ptr)> done);
  // Logical units of a virtio-scsi come and go. Answer Error ENOENT, EEXIST, EINVAL, and what
  // opening the disk gives.
  void attach_lun(std::string device, ScsiLunSpec lun, Done done);
  void detach_lun(std::string device, std::string lun, Done done);
  // Bytes of RAM that this machine alone holds: what a fork has written, all that a booted guest
  // has touched.
  void private_memory(std::function<void(std::uint64_t, std::exception_ptr)> done);
  // Answers Error EBUSY while another checkpoint or reset is under way, EPIPE after the end. The
  // MarkEvent stands between what the guest did before it and what it does after.
  void checkpoint(std::function<void(std::shared_ptr<const Checkpoint>, std::exception_ptr)> done);
  // From now on the end leaves a checkpoint of what the guest was then, which checkpoint() answers
  // with after it: for a core dump. It is not fit to be forked.
  void keep_end(Done done);
  // Takes a fork back to its checkpoint. As checkpoint(), and EINVAL for a machine that was booted.
  // Should the reset itself fail, the machine ends.
  void reset(ForkOptions options, Done done);

  std::vector<Event> take_events() { return events_.take(); }
  // Waits until the device loop has ended. Not from a callback of this machine.
  void join();

 private:
  enum class State { kNew, kCreated, kRunning, kEnded };

  // BoardOwner
  void output(const char* channel, std::span<const std::byte> data) override;
  void serial_writable() override;
  void pvpanic(std::uint8_t event) override;
  void power_off() override;
  void reset(const char* by) override;
  void test_exit(std::uint32_t code) override;
  void input_waiting(const std::string& device) override;
  void unplugged(const std::string& device) override;
  void vsock_open(const std::string& device, VsockConnection connection, std::uint32_t host_port,
                  std::uint32_t guest_port) override;
  std::size_t vsock_data(const std::string& device, VsockConnection connection,
                         std::span<const iovec> pieces) override;
  void vsock_end(const std::string& device, VsockConnection connection) override;
  void vsock_close(const std::string& device, VsockConnection connection) override;
  void vsock_writable(const std::string& device, VsockConnection connection) override;
  void port_data(const std::string& port, std::span<const std::byte> data) override;
  void port_open(const std::string& port, bool open) override;
  void port_writable(const std::string& port, std::size_t room) override;

  // On vCPU threads.
  VcpuThread::Next handle_exit(Vcpu& vcpu, const Exit& exit);
  // The first cause wins. Any thread.
  void end(std::string reason, std::string detail, std::optional<std::uint64_t> code = {});

  // Holds every vCPU out of the guest with its last exit completed, and the devices paused; on the
  // device loop.
  class Settled;

  // On the device loop.
  void build();
  void build_fork();
  void restore(const ForkOptions& options);
  std::shared_ptr<const Checkpoint> take_checkpoint();
  // Of a machine whose vCPUs are held, or have ended.
  std::shared_ptr<Checkpoint> save_all(const std::vector<bool>& halted);
  void save_end();
  void take_back(const ForkOptions& options);
  void drain_consoles();
  void start_vcpus();
  void finish();
  void release();
  std::vector<VcpuState> sample_vcpus();
  std::map<std::string, std::uint64_t> count_exits() const;
  Disk& disk(const std::string& name, const char* operation) const;
  Scsi& scsi(const std::string& name, const char* operation) const;
  Vsock& vsock(const std::string& name, const char* operation) const;
  Balloon& balloon(const std::string& name) const;
  void ask_balloon_later(const std::string& name, std::chrono::milliseconds interval,
                         std::uint64_t round);
  Console& console_port(const std::string& channel, const char* operation);
  void require_running(const char* operation) const;
  // Calls done with what the action returns or throws.
  void answer(const Done& done, const std::function<void()>& action);
  template <typename Value, typename Action>
  void answer(const std::function<void(Value, std::exception_ptr)>& done, Action action) {
    Value value{};
    std::exception_ptr error = thrown_by([&] { value = action(); });
    done(std::move(value), std::move(error));
  }

  std::shared_ptr<const Checkpoint> origin_;  // null for a machine that is booted, and at the end
  const ForkOptions fork_options_;
  const MachineSpec spec_;
  EventQueue events_;
  HostWrites writes_;

  State state_ = State::kNew;
  std::unique_ptr<Counted> counted_;
  // In the order in which each needs the ones before it; release() goes backwards.
  std::unique_ptr<System> system_;
  std::unique_ptr<GuestMemory> memory_;
  std::unique_ptr<Vm> vm_;
  std::unique_ptr<Board> board_;
  std::vector<std::unique_ptr<Vcpu>> vcpus_;
  std::vector<std::unique_ptr<VcpuThread>> threads_;

  std::atomic<bool> ending_{false};
  std::atomic<bool> saving_{false};  // a checkpoint or a reset was asked for and is not answered
  std::atomic<Fault> fault_{Fault::kNone};  // asked for; the first vCPU's next exit takes it
  std::atomic<unsigned> halted_{0};
  std::atomic<std::uint64_t> unhandled_io_{0};
  std::atomic<std::uint64_t> unhandled_mmio_{0};
  std::mutex end_mutex_;  // end_ until finish(), panic_events_
  MachineEnd end_;
  std::uint8_t panic_events_ = 0;
  std::optional<std::chrono::steady_clock::time_point> started_;
  std::vector<std::function<void(const MachineEnd&)>> stop_waiters_;
  // By balloon: how often its interval was set, so that an older one ends.
  std::map<std::string, std::uint64_t> balloon_rounds_;
  bool keeps_end_ = false;
  std::shared_ptr<const Checkpoint> last_;  // the end, if it was to be kept

  TaskLoop loop_;  // last: its thread uses all of the above
};

}  // namespace kvitest
