// The whole board in a checkpoint, on a real /dev/kvm: its interrupts go to an in-kernel irqchip.
#include "native/machine/board.h"

#include <doctest/doctest.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <string>
#include <vector>

#include "native/boot/layout.h"
#include "native/bus/pci.h"
#include "native/error.h"
#include "native/kvm/system.h"
#include "native/little_endian.h"
#include "native/platform/platform_map.h"
#include "native/state/test_checkpoint.h"

namespace kvitest {
namespace {

bool no_kvm() {
  return ::access("/dev/kvm", R_OK | W_OK) != 0;
}

struct Owner : BoardOwner {
  void output(const char* channel, std::span<const std::byte>) override { log.push_back(channel); }
  void serial_writable() override {}
  void pvpanic(std::uint8_t) override {}
  void power_off() override { log.push_back("off"); }
  void reset(const char*) override { log.push_back("reset"); }
  void test_exit(std::uint32_t) override { log.push_back("exit"); }
  void input_waiting(const std::string& device) override { log.push_back(device + " input"); }
  void unplugged(const std::string& device) override { log.push_back(device + " is gone"); }
  void port_data(const std::string&, std::span<const std::byte>) override {}
  void port_open(const std::string& port, bool open) override {
    log.push_back(port + (open ? " opens" : " closes"));
  }
  void port_writable(const std::string&, std::size_t) override {}
  void vsock_open(const std::string&, VsockConnection, std::uint32_t, std::uint32_t) override {}
  std::size_t vsock_data(const std::string&, VsockConnection, std::span<const iovec>) override {
    return 0;
  }
  void vsock_end(const std::string&, VsockConnection) override {}
  void vsock_close(const std::string&, VsockConnection) override {}
  void vsock_writable(const std::string&, VsockConnection) override {}
  std::vector<std::string> log;
};

MachineSpec with_devices(std::vector<DeviceSpec> devices) {
  MachineSpec spec;
  spec.memory = 2 << 20;
  spec.payload = LinuxPayload{};
  spec.devices = std::move(devices);
  spec.irqchip = true;
  return spec;
}

std::vector<DeviceSpec> usual() {
  return {ConsoleSpec{{{"hvc", true}, {"agent", false}}}, RngSpec{}};
}

struct Hardware {
  explicit Hardware(MachineSpec spec = with_devices(usual())) : spec(std::move(spec)) {}
  void out(std::uint16_t port, std::uint8_t value) { access(port, value, true); }
  std::uint8_t in(std::uint16_t port) { return access(port, 0, false); }
  std::uint8_t access(std::uint16_t port, std::uint8_t value, bool out) {
    std::array<std::byte, 1> data{std::byte{value}};
    board.handle(IoExit{.out = out, .port = port, .size = 1, .data = data});
    return std::to_integer<std::uint8_t>(data[0]);
  }

  MachineSpec spec;
  Owner owner;
  System system;
  GuestMemory memory{spec.memory};
  Vm vm{system, memory, spec.irqchip};
  Board board{spec, memory, vm, owner};
};

std::array<std::byte, 16> generation_id(const GuestMemory& memory) {
  std::array<std::byte, 16> id{};
  REQUIRE(memory.read(kVmGenIdPage, id));
  return id;
}

constexpr std::array<std::byte, 16> kId{std::byte{7}, std::byte{8}, std::byte{9}};

TEST_SUITE_BEGIN("board" * doctest::skip(no_kvm()));

TEST_CASE("board checkpoint: what its devices remember is back in the fork") {
  Hardware machine;
  machine.out(kSerialPort + 7, 0x5a);
  machine.out(kI8042Port + 1, 0x02);
  machine.out(kRtcPort, 0x0b);
  const std::array<std::byte, 3> text{std::byte{'a'}, std::byte{'b'}, std::byte{'c'}};
  CHECK(machine.board.host_write("agent", text) == 3);

  Hardware fork;
  load(fork.board, saved(machine.board));
  fork.board.resume(kId);

  CHECK(fork.in(kSerialPort + 7) == 0x5a);
  CHECK((fork.in(kI8042Port + 1) & 0x0f) == 0x02);
  CHECK(fork.in(kRtcPort + 1) == machine.in(kRtcPort + 1));
  CHECK(fork.owner.log.empty());
  // What waits for the guest takes room there too.
  const std::vector<std::byte> much(kPortWindow);
  CHECK(fork.board.host_write("agent", much) == kPortWindow - 3);
}

TEST_CASE("board checkpoint: loading leaves memory alone, resuming renews the generation id") {
  Hardware machine;
  const auto before = generation_id(machine.memory);
  const std::vector<std::byte> bytes = saved(machine.board);

  Hardware fork;
  const auto own = generation_id(fork.memory);
  load(fork.board, bytes);
  CHECK(generation_id(fork.memory) == own);
  fork.board.resume(kId);
  CHECK(generation_id(fork.memory) == kId);
  CHECK(generation_id(machine.memory) == before);
}

TEST_CASE("board checkpoint: a bare guest has no generation id") {
  MachineSpec spec = with_devices({});
  spec.payload = BarePayload{};
  spec.irqchip = false;
  Hardware machine(spec);
  Hardware fork(spec);
  load(fork.board, saved(machine.board));
  fork.board.resume(kId);
  CHECK(generation_id(fork.memory) == std::array<std::byte, 16>{});
}

TEST_CASE("board checkpoint: one of other devices is refused before a device reads it") {
  Hardware machine;
  Hardware fork(with_devices({RngSpec{}}));
  CHECK(refusal(fork.board, saved(machine.board)) ==
        "load checkpoint: section board: it is of a linux guest with irqchip and devices [ console "
        "rng ], this machine is a linux guest with irqchip and devices [ rng ] (Bad message); take "
        "the checkpoint again");
  CHECK(refusal(machine.board, with_version(saved(machine.board), "board", 2)).find("version 2") !=
        std::string::npos);
}

TEST_CASE(
    "board: a device on MMIO answers where its slot says, goes on in a fork, and only there") {
  std::vector<DeviceSpec> devices{RngSpec{}, RngSpec{}};
  devices[1].transport = {.mmio = true, .with_features = {"ring_packed"}};
  CHECK(describe(devices[1]) == "virtio-rng(with ring_packed, on MMIO)");
  const auto status = [](Hardware& hardware, std::optional<std::uint8_t> value) {
    std::array<std::byte, 4> data{std::byte{value.value_or(0)}};
    hardware.board.handle(MmioExit{
        .write = value.has_value(), .address = virtio_mmio_address(2) + 0x70, .data = data});
    return std::to_integer<std::uint8_t>(data[0]);
  };
  Hardware machine(with_devices(devices));
  status(machine, 3);
  CHECK(status(machine, {}) == 3);

  Hardware fork(with_devices(devices));
  load(fork.board, saved(machine.board));
  fork.board.resume(kId);
  CHECK(status(fork, {}) == 3);
  Hardware pci(with_devices({RngSpec{}, RngSpec{}}));
  CHECK(refusal(pci.board, saved(machine.board)).find("devices [ rng rng(mmio) ]") !=
        std::string::npos);
}

TEST_CASE("board checkpoint: a part of it, or one with a changed byte, is refused or harmless") {
  Hardware machine;
  machine.board.host_write("agent", std::array<std::byte, 3>{});
  const std::vector<std::byte> bytes = saved(machine.board);
  std::size_t refused = 0;
  for (std::size_t at = 0; at < bytes.size(); ++at) {
    Owner owner;
    Board cut(machine.spec, machine.memory, machine.vm, owner);
    refused += refusal(cut, std::span(bytes).first(at)).empty() ? 0 : 1;
    std::vector<std::byte> changed = bytes;
    changed[at] ^= std::byte{0xff};
    Board fork(machine.spec, machine.memory, machine.vm, owner);
    if (refusal(fork, changed).empty()) fork.resume(kId);
  }
  CHECK(refused == bytes.size());
}

// Vendor and device of a slot, through configuration mechanism 1.
std::uint32_t identity(Board& board, std::uint8_t slot) {
  std::array<std::byte, 4> data{};
  write_le(data, 0x8000'0000u | std::uint32_t{slot} << 11);
  board.handle(IoExit{.out = true, .port = 0xcf8, .size = 4, .data = data});
  board.handle(IoExit{.out = false, .port = 0xcfc, .size = 4, .data = data});
  return static_cast<std::uint32_t>(read_le(data));
}

bool bar_answers(Board& board, std::uint8_t slot) {
  std::array<std::byte, 4> data{};
  return board.handle(MmioExit{
      .write = false, .address = kPciMmio32Base + (slot - 1) * 512u * 1024u, .data = data});
}

void eject(Board& board, std::uint32_t slots) {
  std::array<std::byte, 4> data{};
  write_le(data, slots);
  board.handle(IoExit{.out = true, .port = kPciHotplugPort + 8, .size = 4, .data = data});
}

TEST_CASE("board: a device leaves when its guest ejects it, and not before") {
  Hardware machine;
  const std::uint32_t rng = identity(machine.board, 2);
  machine.board.unplug("virtio-rng", false);
  CHECK(identity(machine.board, 2) == rng);
  CHECK(machine.owner.log.empty());
  eject(machine.board, 1u << 2);
  CHECK(identity(machine.board, 2) == 0xffff'ffff);
  CHECK_FALSE(bar_answers(machine.board, 2));
  CHECK(bar_answers(machine.board, 1));
  CHECK(machine.owner.log == std::vector<std::string>{"virtio-rng is gone"});
}

TEST_CASE("board: a device that is taken away as a surprise is gone at once, once") {
  Hardware machine;
  machine.board.unplug("hvc", true);
  CHECK(identity(machine.board, 1) == 0xffff'ffff);
  CHECK_FALSE(bar_answers(machine.board, 1));
  CHECK(std::ranges::count(machine.owner.log, "hvc is gone") == 1);
  CHECK_THROWS_AS(machine.board.unplug("hvc", true), Error);
  CHECK_THROWS_AS(machine.board.unplug("hvc", false), Error);
  CHECK_THROWS_AS(machine.board.unplug("agent", true), Error);
}

TEST_CASE("board: what was unplugged is not there in a fork either") {
  Hardware machine;
  machine.board.unplug("virtio-rng", true);
  Hardware fork;
  load(fork.board, saved(machine.board));
  fork.board.resume(kId);
  CHECK(identity(fork.board, 2) == 0xffff'ffff);
  CHECK_FALSE(bar_answers(fork.board, 2));
  CHECK(bar_answers(fork.board, 1));
}

TEST_CASE("board: a fork has the disks of what was unplugged, as its parent") {
  ScsiLunSpec unit;
  unit.name = "unit";
  unit.backing = MemoryBacking{8192};
  ScsiSpec scsi;
  scsi.name = "scsi0";
  scsi.luns = {unit};
  BlkSpec blk;
  blk.name = "disk";
  blk.backing = MemoryBacking{4096};
  Hardware machine(with_devices({scsi, blk, RngSpec{}}));
  const std::array<std::byte, 2> written{std::byte{'o'}, std::byte{'k'}};
  for (const char* name : {"unit", "disk"}) machine.board.disk(name)->write(512, written);
  machine.board.unplug("scsi0", false);
  eject(machine.board, 1u << 1);
  machine.board.unplug("disk", true);

  const DiskImages images = machine.board.disk_images();
  Owner owner;
  Board fork(machine.spec, machine.memory, machine.vm, owner, &images);
  load(fork, saved(machine.board));
  fork.resume(kId);
  CHECK(identity(fork, 1) == 0xffff'ffff);
  for (const char* name : {"unit", "disk"}) {
    REQUIRE(fork.disk(name) != nullptr);
    std::array<std::byte, 2> read{};
    fork.disk(name)->read(512, read);
    CHECK(read == written);
  }
}

TEST_CASE("board: a device of virtio-mmio cannot be unplugged") {
  std::vector<DeviceSpec> devices = usual();
  devices[1].transport.mmio = true;
  Hardware machine(with_devices(std::move(devices)));
  CHECK_THROWS_WITH_AS(machine.board.unplug("virtio-rng", false), doctest::Contains("virtio-mmio"),
                       Error);
}

TEST_CASE("board: more devices than interrupt inputs are built") {
  Hardware machine(with_devices(std::vector<DeviceSpec>(31, RngSpec{})));
  Hardware fork(machine.spec);
  load(fork.board, saved(machine.board));
  fork.board.resume(kId);
  CHECK(refusal(fork.board, saved(machine.board)) == "");
}

TEST_SUITE_END();

}  // namespace
}  // namespace kvitest
