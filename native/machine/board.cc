#include "native/machine/board.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <functional>
#include <map>
#include <string_view>

#include "native/boot/layout.h"
#include "native/bus/interrupts.h"
#include "native/bus/io_bus.h"
#include "native/bus/pci.h"
#include "native/bus/shared_lines.h"
#include "native/error.h"
#include "native/machine/vm_signals.h"
#include "native/net/peer.h"
#include "native/net/switch.h"
#include "native/net/tap.h"
#include "native/platform/debug_port.h"
#include "native/platform/exit_port.h"
#include "native/platform/i8042.h"
#include "native/platform/pci_hotplug.h"
#include "native/platform/platform_map.h"
#include "native/platform/power.h"
#include "native/platform/pvpanic.h"
#include "native/platform/rtc.h"
#include "native/platform/serial.h"
#include "native/platform/vmgenid.h"
#include "native/virtio/features.h"
#include "native/virtio/mmio_transport.h"
#include "native/virtio/pci_transport.h"
#include "native/virtio/rng/rng.h"

namespace kvitest {
namespace {

constexpr std::uint64_t kVirtioBarSize = 512 * 1024;
constexpr std::uint64_t kPioEnd = 0x1'0000;

constexpr const char* kLinux = "linux";
constexpr const char* kBare = "bare";
constexpr std::string_view kTypePrefix = "virtio-";

// What the board is made of, ahead of its devices: a checkpoint of other ones is refused before a
// device reads what is not its own.
struct BoardState {
  static constexpr StateTag kTag{"board", 1};
  bool irqchip = false;
  std::string payload;
  std::vector<std::string> devices;
  template <typename Archive>
  void fields(Archive& archive) {
    archive(irqchip, payload, devices);
  }
  bool operator==(const BoardState&) const = default;
};

BoardState describe(const MachineSpec& spec) {
  BoardState state{.irqchip = spec.irqchip,
                   .payload = std::holds_alternative<LinuxPayload>(spec.payload) ? kLinux : kBare,
                   .devices = {}};
  for (const DeviceSpec& device : spec.devices) {
    state.devices.push_back(std::string(type_name(device)).substr(kTypePrefix.size()) +
                            (device.transport.mmio ? "(mmio)" : ""));
  }
  return state;
}

std::string text(const BoardState& state) {
  std::string line = "a " + state.payload + " guest " +
                     (state.irqchip ? "with irqchip" : "without irqchip") + " and devices [";
  for (const std::string& device : state.devices) line += " " + device;
  return line + " ]";
}

ConsoleSink& console_sink(BoardOwner& owner) {
  return owner;
}

std::unique_ptr<Disk> open_image(const std::string& name, const DiskImages& images) {
  const auto found = images.find(name);
  if (found != images.end()) return make_overlay(found->second);
  throw Error("load checkpoint", EBADMSG, "it has no content for disk " + name,
              "take the checkpoint again");
}

// A fork's begins as the checkpoint has it: it never writes to a file that its parent may use.
std::unique_ptr<Disk> open_disk(const BlkSpec& spec, const DiskImages* images) {
  if (images == nullptr) return open_disk(spec.backing, spec.read_only);
  return open_image(spec.name, *images);
}

}  // namespace

struct Board::Parts {
  Parts(const MachineSpec& spec, GuestMemory& memory, Vm& vm, BoardOwner& owner)
      : owner(owner),
        memory(memory),
        description(describe(spec)),
        interrupts(vm),
        doorbells(vm),
        mmio(&doorbells),
        pci_lines(interrupts),
        serial(&interrupts, kSerialGsi,
               {[&owner](std::span<const std::byte> data) { owner.output(kSerialChannel, data); },
                [&owner](std::size_t) { owner.serial_writable(); }}),
        debug_port(
            [&owner](std::span<const std::byte> data) { owner.output(kDebugChannel, data); }),
        test_exit([&owner](std::uint32_t code) { owner.test_exit(code); }),
        i8042([&owner] { owner.reset("keyboard controller"); }),
        power({[&owner] { owner.power_off(); }, [&owner] { owner.reset("ACPI reset register"); }}),
        pvpanic([&owner](std::uint8_t event) { owner.pvpanic(event); }),
        vmgenid(memory, interrupts, kVmGenIdPage, kVmGenIdGsi),
        hotplug(interrupts, kPciHotplugGsi,
                [this, &owner](std::uint8_t slot) {
                  take_away(slot);
                  owner.unplugged(slots.at(slot).name);
                }),
        pci(pio) {
    pio.insert(kSerialPort, kSerialPorts, serial);
    pio.insert(kDebugPort, 1, debug_port);
    pio.insert(kTestExitPort, kTestExitPorts, test_exit);
    pio.insert(kI8042Port, kI8042Ports, i8042);
    pio.insert(kRtcPort, kRtcPorts, rtc);
    pio.insert(kPowerPort, kPowerPorts, power);
    pio.insert(kPvpanicPort, 1, pvpanic);
    pio.insert(kPciHotplugPort, kPciHotplugPorts, hotplug);
  }

  std::unique_ptr<VirtioDevice> make(const ConsoleSpec& spec, BoardOwner& owner,
                                     const DiskImages*) {
    std::unique_ptr<Console> console = make_console(spec, console_sink(owner));
    for (const ConsolePortSpec& port : spec.ports) console_ports[port.name] = console.get();
    return console;
  }
  std::unique_ptr<VirtioDevice> make(const RngSpec& spec, BoardOwner&, const DiskImages*) {
    return make_rng(spec);
  }
  std::unique_ptr<VirtioDevice> make(const BlkSpec& spec, BoardOwner&, const DiskImages* images) {
    std::unique_ptr<Blk> blk = make_blk(spec, open_disk(spec, images));
    disks[spec.name] = blk.get();
    return blk;
  }

  std::unique_ptr<VirtioDevice> make(const NetSpec& spec, BoardOwner& owner, const DiskImages*) {
    if (spec.vhost) {
      std::unique_ptr<Net> net = make_vhost_net(spec, memory);
      nets[spec.name] = net.get();
      return net;
    }
    // However many frames come, one task waits on the device loop.
    const auto asked = std::make_shared<std::atomic<bool>>(false);
    const FramesWaiting wake = [asked, &owner, name = spec.name] {
      if (!asked->exchange(true)) owner.input_waiting(name);
    };
    std::unique_ptr<Link> link = !spec.tap.empty()      ? open_tap(spec.tap, wake)
                                 : spec.network.empty() ? make_peer()
                                                        : join_network(spec.network, wake);
    std::unique_ptr<Net> net = make_net(spec, std::move(link), wake);
    nets[spec.name] = net.get();
    inputs[spec.name] = [asked, device = net.get()] {
      asked->store(false);
      device->deliver();
    };
    return net;
  }

  std::unique_ptr<VirtioDevice> make(const VsockSpec& spec, BoardOwner& owner,
                                     const DiskImages* images) {
    const bool restored = images != nullptr;
    VsockSink& sink = owner;
    std::unique_ptr<Vsock> vsock =
        spec.backend == VsockBackend::kVhost  ? make_vhost_vsock(spec, sink, memory, restored)
        : spec.backend == VsockBackend::kUnix ? make_unix_vsock(spec, sink)
                                              : make_vsock(spec, sink);
    vsocks[spec.name] = vsock.get();
    return vsock;
  }

  std::unique_ptr<VirtioDevice> make(const BalloonSpec& spec, BoardOwner&, const DiskImages*) {
    std::unique_ptr<Balloon> balloon = make_balloon(spec);
    balloons[spec.name] = balloon.get();
    return balloon;
  }

  std::unique_ptr<VirtioDevice> make(const P9Spec& spec, BoardOwner&, const DiskImages*) {
    return make_p9(spec);
  }

  std::unique_ptr<VirtioDevice> make(const ScsiSpec& spec, BoardOwner&, const DiskImages* images) {
    // Its units are the host's, which nobody reads or changes by us.
    if (!spec.vhost.empty()) return make_vhost_scsi(spec, memory, images != nullptr);
    // Of a fork the checkpoint says which units there are, and the images outlive its loading.
    const OpenLun open = [images](const ScsiLunSpec& lun) {
      if (images == nullptr) return open_disk(lun.backing, lun.read_only);
      return open_image(lun.name, *images);
    };
    std::unique_ptr<Scsi> scsi = make_scsi(spec, open, images != nullptr);
    scsis[spec.name] = scsi.get();
    return scsi;
  }

  void attach(const DeviceSpec& spec, std::uint8_t slot, GuestMemory& memory, BoardOwner& owner,
              const DiskImages* images) {
    devices.push_back(std::visit([&](const auto& one) { return make(one, owner, images); }, spec));
    devices.back()->withhold(named_features(*devices.back(), without_features(spec)));
    devices.back()->ask_for(optional_features(*devices.back(), spec.transport.with_features));
    take_on(*devices.back(), spec);
    line_sources.push_back(std::make_unique<SharedLines::Source>(pci_lines));
    if (spec.transport.mmio) {
      mmio_names.push_back(device_name(spec));
      mmio_devices.push_back(make_virtio_mmio(*devices.back(), memory, mmio, *line_sources.back(),
                                              virtio_mmio_address(slot), pci_slot_gsi(slot)));
      return;
    }
    functions.push_back(make_virtio_pci(*devices.back(), memory, mmio, *line_sources.back(),
                                        kPciMmio32Base + (slot - 1) * kVirtioBarSize,
                                        pci_slot_gsi(slot)));
    pci.attach(slot, *functions.back());
    hotplug.add(slot);
    slots[slot] = {device_name(spec), devices.back().get(), functions.back().get()};
  }

  static void take_on(VirtioDevice& device, const DeviceSpec& spec) {
    const Personality personality = personality_of(spec.transport.personality);
    if (device.rings_are_of_host() &&
        (personality.used_length != UsedLength::kHonest || personality.odd_queue_size)) {
      throw Error("machine spec", EINVAL,
                  device_name(spec) +
                      ": the rings of a vhost device are the host kernel's, which "
                      "has no oddities",
                  "leave its personality out, or its vhost");
    }
    device.take_on(personality);
  }

  // The objects stay: other threads may be in them, and the host asks for what a disk holds.
  void take_away(std::uint8_t slot) {
    pci.detach(slot);
    slots.at(slot).function->unplug();
  }

  struct Slot {
    std::string name;
    VirtioDevice* device;
    PciFunction* function;
  };

  // In the order in which each needs the ones before it: what sits on a bus leaves it when it is
  // destroyed.
  BoardOwner& owner;
  GuestMemory& memory;
  const BoardState description;
  VmInterrupts interrupts;
  VmDoorbells doorbells;
  IoBus pio;
  IoBus mmio;
  SharedLines pci_lines;  // slots share inputs
  Serial serial;
  DebugPort debug_port;
  TestExit test_exit;
  I8042 i8042;
  Rtc rtc;
  Power power;
  Pvpanic pvpanic;
  VmGenId vmgenid;
  PciHotplug hotplug;
  std::map<std::uint8_t, Slot> slots;  // of PCI, those too that are empty now
  std::vector<std::unique_ptr<VirtioDevice>> devices;
  std::map<std::string, Console*> console_ports;
  std::map<std::string, Blk*> disks;
  std::map<std::string, Net*> nets;
  std::map<std::string, Vsock*> vsocks;
  std::map<std::string, Balloon*> balloons;
  std::map<std::string, Scsi*> scsis;
  std::map<std::string, std::function<void()>> inputs;  // what deliver() does, by device
  std::vector<std::unique_ptr<SharedLines::Source>> line_sources;
  std::vector<std::unique_ptr<PciFunction>> functions;
  std::vector<std::unique_ptr<VirtioMmio>> mmio_devices;
  std::vector<std::string> mmio_names;
  PciBus pci;
};

Board::Board(const MachineSpec& spec, GuestMemory& memory, Vm& vm, BoardOwner& owner,
             const DiskImages* disks)
    : parts_(std::make_unique<Parts>(spec, memory, vm, owner)) {
  std::uint8_t slot = 1;
  for (const DeviceSpec& device : spec.devices) {
    parts_->attach(device, slot++, memory, owner, disks);
  }
  if (std::holds_alternative<LinuxPayload>(spec.payload)) parts_->vmgenid.initialize();
}

Board::~Board() = default;

bool Board::handle(const IoExit& exit) {
  bool all_answered = true;
  for (std::size_t done = 0; done < exit.data.size(); done += exit.size) {
    const std::span<std::byte> item = exit.data.subspan(done, exit.size);
    // An access may not run over the end of the port space into port 0.
    const bool answered =
        exit.port + item.size() <= kPioEnd &&
        (exit.out ? parts_->pio.write(exit.port, item) : parts_->pio.read(exit.port, item));
    if (!answered && !exit.out) std::ranges::fill(item, std::byte{0xff});
    all_answered = all_answered && answered;
  }
  return all_answered;
}

bool Board::handle(const MmioExit& exit) {
  if (exit.write) return parts_->mmio.write(exit.address, exit.data);
  const bool answered = parts_->mmio.read(exit.address, exit.data);
  if (!answered) std::ranges::fill(exit.data, std::byte{0xff});
  return answered;
}

std::vector<std::string> Board::channels() const {
  std::vector<std::string> names{kSerialChannel, kDebugChannel};
  for (const auto& [name, console] : parts_->console_ports) names.push_back(name);
  return names;
}

bool Board::has_channel(const std::string& channel) const {
  if (std::ranges::count(channels(), channel) != 0) return true;
  const auto [device, connection] = connection_of(channel);
  return device != nullptr && device->has(connection);
}

Console* Board::console_of(const std::string& channel) const {
  const auto found = parts_->console_ports.find(channel);
  return found == parts_->console_ports.end() ? nullptr : found->second;
}

std::size_t Board::host_write(const std::string& channel, std::span<const std::byte> data) {
  if (channel == kSerialChannel) return parts_->serial.host_write(data);
  if (Console* console = console_of(channel)) return console->host_write(channel, data);
  const auto [device, connection] = connection_of(channel);
  return device == nullptr ? 0 : device->host_write(connection, data);
}

Disk* Board::disk(const std::string& name) const {
  const auto found = parts_->disks.find(name);
  if (found != parts_->disks.end()) return &found->second->disk();
  for (const auto& [device, scsi] : parts_->scsis) {
    if (Disk* const unit = scsi->disk(name)) return unit;
  }
  return nullptr;
}

const RequestQueues* Board::requests_of_disk(const std::string& name) const {
  const auto found = parts_->disks.find(name);
  if (found != parts_->disks.end()) return &found->second->requests();
  for (const auto& [device, scsi] : parts_->scsis) {
    if (scsi->disk(name) != nullptr) return &scsi->requests();
  }
  return nullptr;
}

void Board::resize_disk(const std::string& name, std::uint64_t bytes) {
  const auto found = parts_->disks.find(name);
  if (found != parts_->disks.end()) return found->second->resize(bytes);
  for (const auto& [device, scsi] : parts_->scsis) {
    if (scsi->disk(name) != nullptr) return scsi->resize(name, bytes);
  }
}

Scsi* Board::scsi(const std::string& name) const {
  const auto found = parts_->scsis.find(name);
  return found == parts_->scsis.end() ? nullptr : found->second;
}

std::vector<std::string> Board::disks() const {
  std::vector<std::string> names;
  for (const auto& [name, disk] : parts_->disks) names.push_back(name);
  for (const auto& [device, scsi] : parts_->scsis) {
    for (const std::string& unit : scsi->disks()) names.push_back(unit);
  }
  return names;
}

Net* Board::net(const std::string& name) const {
  const auto found = parts_->nets.find(name);
  return found == parts_->nets.end() ? nullptr : found->second;
}

Vsock* Board::vsock(const std::string& name) const {
  const auto found = parts_->vsocks.find(name);
  return found == parts_->vsocks.end() ? nullptr : found->second;
}

Balloon* Board::balloon(const std::string& name) const {
  const auto found = parts_->balloons.find(name);
  return found == parts_->balloons.end() ? nullptr : found->second;
}

std::string vsock_channel(const std::string& device, VsockConnection connection) {
  return device + "#" + std::to_string(connection);
}

std::pair<Vsock*, VsockConnection> Board::connection_of(const std::string& channel) const {
  const std::size_t mark = channel.rfind('#');
  if (mark == std::string::npos) return {nullptr, 0};
  Vsock* device = vsock(channel.substr(0, mark));
  VsockConnection connection = 0;
  const char* const end = channel.data() + channel.size();
  const auto [rest, error] = std::from_chars(channel.data() + mark + 1, end, connection);
  if (error != std::errc() || rest != end) return {nullptr, 0};
  return {device, connection};
}

void Board::unplug(const std::string& device, bool surprise) {
  const auto found = std::ranges::find_if(
      parts_->slots, [&](const auto& slot) { return slot.second.name == device; });
  if (found == parts_->slots.end()) {
    const bool is_mmio = std::ranges::count(parts_->mmio_names, device) != 0;
    throw Error("unplug", is_mmio ? EINVAL : ENOENT,
                is_mmio ? "\"" + device + "\" is a virtio-mmio device, which has no slot"
                        : "no device named \"" + device + "\"",
                is_mmio ? "use one of PCI" : "give its name; of a console its first port's");
  }
  const std::uint8_t slot = found->first;
  const bool was_there = surprise ? parts_->hotplug.vanish(slot, [&] { parts_->take_away(slot); })
                                  : parts_->hotplug.request(slot);
  if (!was_there) throw Error("unplug", ENODEV, "\"" + device + "\" was unplugged before");
  if (surprise) parts_->owner.unplugged(device);
}

void Board::deliver(const std::string& device) {
  const auto found = parts_->inputs.find(device);
  if (found != parts_->inputs.end()) found->second();
}

// A disk takes its serial from the spec.
void Board::personalize(const std::map<std::string, DeviceChange>& devices) {
  for (const auto& [name, change] : devices) {
    if (Net* device = net(name); device != nullptr && change.mac) device->set_mac(*change.mac);
    if (Vsock* device = vsock(name); device != nullptr && change.cid) {
      device->set_cid(*change.cid);
    }
  }
}

void Board::pause() {
  for (const auto& device : parts_->devices) device->pause();
}

void Board::unpause() {
  for (const auto& device : parts_->devices) device->unpause();
}

DiskImages Board::disk_images() const {
  DiskImages images;
  for (const std::string& name : disks()) images[name] = disk(name)->image();
  return images;
}

void Board::send_break() {
  parts_->serial.host_break();
}

void Board::raise_io_check(unsigned times) {
  parts_->i8042.raise_io_check(times);
}

void Board::save(StateWriter& writer) const {
  writer.save(parts_->description);
  parts_->serial.save(writer);
  parts_->i8042.save(writer);
  parts_->rtc.save(writer);
  parts_->hotplug.save(writer);
  parts_->pci.save(writer);
  for (const auto& device : parts_->mmio_devices) device->save(writer);
  // The host may go on asking for what one that was unplugged has: a fork's too.
  for (const auto& [slot, each] : parts_->slots) {
    if (!parts_->hotplug.has(slot)) each.device->save(writer);
  }
}

void Board::load(StateReader& reader) {
  const auto saved = reader.load<BoardState>();
  if (saved != parts_->description) {
    reader.fail("it is of " + text(saved) + ", this machine is " + text(parts_->description));
  }
  parts_->serial.load(reader);
  parts_->i8042.load(reader);
  parts_->rtc.load(reader);
  parts_->hotplug.load(reader);
  for (const auto& [slot, each] : parts_->slots) {
    if (!parts_->hotplug.has(slot)) parts_->take_away(slot);
  }
  parts_->pci.load(reader);
  for (const auto& device : parts_->mmio_devices) device->load(reader);
  for (const auto& [slot, each] : parts_->slots) {
    if (!parts_->hotplug.has(slot)) each.device->load(reader, nullptr);
  }
}

void Board::resume(const std::array<std::byte, 16>& generation_id) {
  // First, so that a guest that a queue wakes finds the new id.
  if (parts_->description.payload == kLinux) parts_->vmgenid.renew(generation_id);
  parts_->serial.resume();
  parts_->hotplug.resume();
  parts_->pci.resume();
  for (const auto& device : parts_->mmio_devices) device->resume();
}

}  // namespace kvitest
