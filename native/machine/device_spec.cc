#include "native/machine/device_spec.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include "native/error.h"
#include "native/overloaded.h"

namespace kvitest {
namespace {

constexpr const char* kConsole = "virtio-console";
constexpr const char* kRng = "virtio-rng";
constexpr const char* kBlk = "virtio-blk";
constexpr const char* kNet = "virtio-net";
constexpr const char* kVsock = "virtio-vsock";
constexpr const char* kBalloon = "virtio-balloon";
constexpr const char* kP9 = "virtio-9p";
constexpr const char* kScsi = "virtio-scsi";

std::string describe_ports(const ConsoleSpec& spec) {
  std::string text;
  for (const ConsolePortSpec& port : spec.ports) {
    if (!text.empty()) text += ", ";
    text += port.name + (port.console ? " as console" : "");
  }
  return text;
}

std::string describe_disk(const BlkSpec& spec) {
  std::string text = spec.name;
  std::visit(Overloaded{
                 [&](const MemoryBacking& one) {
                   text += ": " + std::to_string(one.bytes) + " bytes of memory";
                 },
                 [&](const FileBacking& one) { text += ": file " + one.path; },
                 [&](const OverlayBacking& one) { text += ": overlay of " + one.path; },
             },
             spec.backing);
  if (spec.read_only) text += ", read-only";
  if (spec.queues != 1) text += ", " + std::to_string(spec.queues) + " queues";
  return text;
}

// All but what a fork may have for itself.
std::string describe_net(const NetSpec& spec) {
  const char* kind = spec.vhost             ? ": tap by vhost"
                     : !spec.tap.empty()    ? ": tap"
                     : spec.network.empty() ? ": peer"
                                            : ": switch";
  std::string text = spec.name + kind;
  if (spec.mtu != 0) text += ", MTU " + std::to_string(spec.mtu);
  if (spec.queue_pairs != 1) text += ", " + std::to_string(spec.queue_pairs) + " queue pairs";
  return text;
}

std::string describe_share(const P9Spec& spec) {
  return spec.tag + ": " + spec.path + (spec.read_only ? ", read-only" : "");
}

std::string describe_vsock(const VsockSpec& spec) {
  switch (spec.backend) {
    case VsockBackend::kStreams:
      break;
    case VsockBackend::kVhost:
      return spec.name + ": vhost";
    case VsockBackend::kUnix:
      return spec.name + ": Unix sockets";
  }
  return spec.name;
}

DeviceFields::Blk blk_fields(const BlkSpec& spec) {
  DeviceFields::Blk fields{.name = spec.name,
                           .serial = spec.serial,
                           .backing = {},
                           .bytes = 0,
                           .backing_kind = static_cast<std::uint8_t>(spec.backing.index()),
                           .read_only = spec.read_only,
                           .queues = spec.queues,
                           .queue_size = spec.queue_size,
                           .block_size = spec.block_size};
  std::visit(Overloaded{
                 [&](const MemoryBacking& one) { fields.bytes = one.bytes; },
                 [&](const FileBacking& one) { fields.backing = one.path; },
                 [&](const OverlayBacking& one) { fields.backing = one.path; },
             },
             spec.backing);
  return fields;
}

BlkSpec blk_spec(const DeviceFields::Blk& fields) {
  BlkSpec spec{.name = fields.name,
               .backing = MemoryBacking{fields.bytes},
               .read_only = fields.read_only,
               .serial = fields.serial,
               .queues = fields.queues,
               .queue_size = fields.queue_size,
               .block_size = fields.block_size,
               .without_features = {}};
  if (fields.backing_kind == 1) spec.backing = FileBacking{fields.backing};
  if (fields.backing_kind == 2) spec.backing = OverlayBacking{fields.backing};
  return spec;
}

std::string describe_units(const ScsiSpec& spec) {
  std::string text = spec.name;
  if (!spec.vhost.empty()) text += ": " + spec.vhost + " by vhost";
  for (const ScsiLunSpec& lun : spec.luns) {
    text += ", " + lun.name + " at " + std::to_string(lun.target) + ":" + std::to_string(lun.lun);
    if (lun.read_only) text += " read-only";
  }
  return text;
}

ScsiSpec scsi_spec(const DeviceFields& fields) {
  ScsiSpec spec{.name = fields.name,
                .luns = {},
                .queues = fields.queues,
                .queue_size = fields.queue_size,
                .vhost = fields.vhost,
                .without_features = fields.without_features};
  for (const DeviceFields::Lun& lun : fields.luns) {
    spec.luns.push_back({lun.name, MemoryBacking{lun.bytes}, lun.target, lun.lun, lun.read_only,
                         lun.serial, lun.block_size});
  }
  return spec;
}

VsockSpec vsock_spec(const DeviceFields& fields) {
  const DeviceFields::Socket& socket = fields.vsock.front();
  const auto last = static_cast<std::uint8_t>(VsockBackend::kUnix);
  return {socket.name, socket.cid, static_cast<VsockBackend>(std::min(socket.backend, last)),
          socket.path, fields.without_features};
}

AnyDeviceSpec device_of(const DeviceFields& fields) {
  if (fields.type == kRng) return RngSpec{fields.without_features};
  if (fields.type == kConsole) {
    ConsoleSpec console;
    for (const DeviceFields::Port& port : fields.ports) {
      console.ports.push_back({port.name, port.console});
    }
    console.without_features = fields.without_features;
    return console;
  }
  if (fields.type == kBlk && fields.blk.size() == 1) {
    BlkSpec blk = blk_spec(fields.blk.front());
    blk.without_features = fields.without_features;
    return blk;
  }
  if (fields.type == kNet && fields.net.size() == 1) {
    const DeviceFields::Net& net = fields.net.front();
    return NetSpec{net.name,    net.mac, net.mtu,   net.queue_pairs,
                   net.network, net.tap, net.vhost, fields.without_features};
  }
  if (fields.type == kVsock && fields.vsock.size() == 1) {
    return vsock_spec(fields);
  }
  if (fields.type == kBalloon) return BalloonSpec{fields.name, fields.without_features};
  if (fields.type == kP9 && fields.p9.size() == 1) {
    const DeviceFields::Share& share = fields.p9.front();
    return P9Spec{share.tag, share.path, share.read_only, fields.without_features};
  }
  if (fields.type == kScsi) return scsi_spec(fields);
  throw Error("load checkpoint", EBADMSG, "it has a device of type \"" + fields.type + "\"",
              "take the checkpoint again");
}

}  // namespace

std::string device_name(const DeviceSpec& device) {
  if (const auto* console = std::get_if<ConsoleSpec>(&device)) {
    if (!console->ports.empty()) return console->ports.front().name;
  }
  if (const auto* blk = std::get_if<BlkSpec>(&device)) return blk->name;
  if (const auto* net = std::get_if<NetSpec>(&device)) return net->name;
  if (const auto* vsock = std::get_if<VsockSpec>(&device)) return vsock->name;
  if (const auto* balloon = std::get_if<BalloonSpec>(&device)) return balloon->name;
  if (const auto* scsi = std::get_if<ScsiSpec>(&device)) return scsi->name;
  if (const auto* share = std::get_if<P9Spec>(&device)) return share->tag;
  return type_name(device);
}

const char* type_name(const DeviceSpec& device) {
  return std::visit(
      Overloaded{[](const ConsoleSpec&) { return kConsole; }, [](const RngSpec&) { return kRng; },
                 [](const BlkSpec&) { return kBlk; }, [](const NetSpec&) { return kNet; },
                 [](const VsockSpec&) { return kVsock; },
                 [](const BalloonSpec&) { return kBalloon; }, [](const P9Spec&) { return kP9; },
                 [](const ScsiSpec&) { return kScsi; }},
      device);
}

const std::vector<std::string>& without_features(const DeviceSpec& device) {
  return std::visit(
      [](const auto& spec) -> const std::vector<std::string>& { return spec.without_features; },
      device);
}

std::string describe(const DeviceSpec& device) {
  std::string inner =
      std::visit(Overloaded{[](const ConsoleSpec& spec) { return describe_ports(spec); },
                            [](const RngSpec&) { return std::string(); },
                            [](const BlkSpec& spec) { return describe_disk(spec); },
                            [](const NetSpec& spec) { return describe_net(spec); },
                            [](const VsockSpec& spec) { return describe_vsock(spec); },
                            [](const BalloonSpec& spec) { return spec.name; },
                            [](const P9Spec& spec) { return describe_share(spec); },
                            [](const ScsiSpec& spec) { return describe_units(spec); }},
                 device);
  for (const std::string& feature : without_features(device)) {
    inner += (inner.empty() ? "without " : ", without ") + feature;
  }
  for (const std::string& feature : device.transport.with_features) {
    inner += (inner.empty() ? "with " : ", with ") + feature;
  }
  for (const std::string& oddity : device.transport.personality) {
    inner += (inner.empty() ? "" : ", ") + oddity;
  }
  if (device.transport.mmio) inner += inner.empty() ? "on MMIO" : ", on MMIO";
  return inner.empty() ? type_name(device) : type_name(device) + ("(" + inner + ")");
}

DeviceFields to_fields(const DeviceSpec& device) {
  DeviceFields fields;
  fields.type = type_name(device);
  fields.transport = device.transport;
  fields.without_features = without_features(device);
  if (const auto* console = std::get_if<ConsoleSpec>(&device)) {
    for (const ConsolePortSpec& port : console->ports) {
      fields.ports.push_back({port.name, port.console});
    }
  }
  if (const auto* blk = std::get_if<BlkSpec>(&device)) fields.blk.push_back(blk_fields(*blk));
  if (const auto* net = std::get_if<NetSpec>(&device)) {
    fields.net.push_back(
        {net->name, net->mac, net->mtu, net->queue_pairs, net->network, net->tap, net->vhost});
  }
  if (const auto* vsock = std::get_if<VsockSpec>(&device)) {
    fields.vsock.push_back(
        {vsock->name, vsock->cid, static_cast<std::uint8_t>(vsock->backend), vsock->path});
  }
  if (const auto* balloon = std::get_if<BalloonSpec>(&device)) fields.name = balloon->name;
  if (const auto* share = std::get_if<P9Spec>(&device)) {
    fields.p9.push_back({share->tag, share->path, share->read_only});
  }
  if (const auto* scsi = std::get_if<ScsiSpec>(&device)) {
    fields.name = scsi->name;
    fields.queues = scsi->queues;
    fields.queue_size = scsi->queue_size;
    fields.vhost = scsi->vhost;
    for (const ScsiLunSpec& lun : scsi->luns) {
      const auto* memory = std::get_if<MemoryBacking>(&lun.backing);
      fields.luns.push_back({lun.name, lun.serial, memory == nullptr ? kSectorSize : memory->bytes,
                             lun.target, lun.lun, lun.read_only, lun.block_size});
    }
  }
  return fields;
}

DeviceSpec from_fields(const DeviceFields& fields) {
  DeviceSpec device =
      std::visit([](auto&& one) { return DeviceSpec(std::move(one)); }, device_of(fields));
  device.transport = fields.transport;
  return device;
}

}  // namespace kvitest
