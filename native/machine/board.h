// The hardware around the vCPUs: buses and devices, composed from a MachineSpec.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "native/disk/image.h"
#include "native/kvm/exit.h"
#include "native/kvm/vm.h"
#include "native/machine/fork_options.h"
#include "native/machine/spec.h"
#include "native/memory/guest_memory.h"
#include "native/state/archive.h"
#include "native/virtio/blk/blk.h"
#include "native/virtio/console/console.h"

namespace kvitest {

inline constexpr const char* kSerialChannel = "serial";
inline constexpr const char* kDebugChannel = "debug";

// vsock0#7
std::string vsock_channel(const std::string& device, VsockConnection connection);

// What the devices tell the machine. On vCPU threads, and on the device loop for ConsoleSink.
class BoardOwner : public ConsoleSink, public VsockSink {
 public:
  // Bytes of the serial line or the debug port; may make the vCPU wait.
  virtual void output(const char* channel, std::span<const std::byte> data) = 0;
  // The UART's receive FIFO has room again.
  virtual void serial_writable() = 0;
  virtual void pvpanic(std::uint8_t event) = 0;
  virtual void power_off() = 0;
  virtual void reset(const char* by) = 0;
  virtual void test_exit(std::uint32_t code) = 0;
  // Board::deliver() has something to do for this device. On any thread, with locks held: must not
  // block and not call the board.
  virtual void input_waiting(const std::string& device) = 0;
  // A device left the machine. On a vCPU thread, or in Board::unplug().
  virtual void unplugged(const std::string& device) = 0;
};

class Board {
 public:
  // All of them must outlive the board. Throws Error (EINVAL) for a spec that cannot be built, and
  // what opening a disk gives. disks: of a fork, what its disks start as, whatever the spec's
  // backings say.
  Board(const MachineSpec& spec, GuestMemory& memory, Vm& vm, BoardOwner& owner,
        const DiskImages* disks = nullptr);
  ~Board();
  Board(const Board&) = delete;
  Board& operator=(const Board&) = delete;

  // Performs one access of the guest. False when no device answered: reads are then all ones,
  // writes dropped.
  bool handle(const IoExit& exit);
  bool handle(const MmioExit& exit);

  // Names a person can use in write(), setPortOpen()...; for error messages.
  std::vector<std::string> channels() const;
  bool has_channel(const std::string& channel) const;
  // Null when the channel is not a virtio-console port.
  Console* console_of(const std::string& channel) const;
  // Bytes for the guest; returns how many were taken.
  std::size_t host_write(const std::string& channel, std::span<const std::byte> data);

  // A break on the serial line; the next `times` NMIs are I/O channel checks.
  void send_break();
  void raise_io_check(unsigned times);

  // Of a virtio-blk, or a logical unit of a virtio-scsi. Null when there is no disk of that name.
  Disk* disk(const std::string& name) const;
  // Of the device that has it; null as disk().
  const RequestQueues* requests_of_disk(const std::string& name) const;
  // Throws Error, as Blk::resize() and Scsi::resize().
  void resize_disk(const std::string& name, std::uint64_t bytes);
  // Null when there is no virtio-scsi of this name.
  Scsi* scsi(const std::string& name) const;
  std::vector<std::string> disks() const;

  // Null when there is no network device of this name.
  Net* net(const std::string& name) const;
  // Null when there is no vsock of this name.
  Vsock* vsock(const std::string& name) const;
  // Null when there is no balloon of this name.
  Balloon* balloon(const std::string& name) const;
  // The vsock and the connection that a channel names (vsock_channel); null when it names none.
  std::pair<Vsock*, VsockConnection> connection_of(const std::string& channel) const;
  // See Machine::unplug(). Not while a checkpoint is saved.
  void unplug(const std::string& device, bool surprise);
  // Gives the guest what waits for it at a device that said input_waiting(). On the device loop.
  void deliver(const std::string& device);
  // Between load() and resume(): what a fork's devices have of their own; fork_spec() has checked
  // it.
  void personalize(const std::map<std::string, DeviceChange>& devices);

  // No device has work under way on threads of its own, until unpause(). While no vCPU is in a
  // device's handler.
  void pause();
  void unpause();
  // What the disks hold. Paused.
  DiskImages disk_images() const;
  // Appends what the devices remember. While no vCPU runs and none is in a device's handler;
  // paused.
  void save(StateWriter& writer) const;
  // On a board just built from the same spec, before any vCPU runs, once guest memory is restored:
  // nothing in it is changed, no interrupt raised, no queue looked at. Tells the owner of every
  // port that the guest has open. Throws Error (EBADMSG) for a checkpoint that is damaged or of
  // other devices; the board is then good for destruction only.
  void load(StateReader& reader);
  // After load(), once the irqchip and the vCPUs are restored too: drives the interrupt lines as
  // they were, serves what waits in the queues, and gives a Linux guest its new generation id, with
  // the interrupt that tells it. Throws Error.
  void resume(const std::array<std::byte, 16>& generation_id);

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

}  // namespace kvitest
