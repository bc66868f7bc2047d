#include "native/binding/convert_device.h"

#include <cstdint>
#include <cstdio>
#include <limits>
#include <utility>

#include "native/binding/fields.h"

namespace kvitest {
namespace {

constexpr std::uint64_t kMaxU16 = std::numeric_limits<std::uint16_t>::max();
constexpr std::uint64_t kMaxU32 = std::numeric_limits<std::uint32_t>::max();

std::uint64_t integer_or(const Napi::Value& value, const char* what, std::uint64_t fallback,
                         std::uint64_t high) {
  return value.IsUndefined() ? fallback : integer_of(value, kSpec, what, 0, high);
}

std::string string_or(const Napi::Value& value, const char* what, const char* fallback) {
  return value.IsUndefined() ? fallback : string_of(value, kSpec, what);
}

std::vector<std::string> names_of(const Napi::Object& device, const char* key, const char* what) {
  std::vector<std::string> names;
  const Napi::Value value = device.Get(key);
  if (value.IsUndefined()) return names;
  const Napi::Array array = array_of(value, key);
  for (std::uint32_t i = 0; i < array.Length(); ++i) {
    names.push_back(string_of(array.Get(i), kSpec, what));
  }
  return names;
}

ConsoleSpec console_spec(const Napi::Object& device) {
  ConsoleSpec spec;
  const Napi::Array ports = array_of(device.Get("ports"), "ports of a virtio-console");
  for (std::uint32_t i = 0; i < ports.Length(); ++i) {
    const Napi::Value value = ports.Get(i);
    const Napi::Object port = object_of(value, kSpec, "a virtio-console port");
    spec.ports.push_back({string_of(port.Get("name"), kSpec, "a port's name"),
                          boolean_or(port.Get("console"), "a port's console", false)});
  }
  return spec;
}

FileEngine engine_of(const Napi::Value& value) {
  const std::string name = string_or(value, "backing.engine", "auto");
  if (name == "auto") return FileEngine::kAuto;
  if (name == "io_uring") return FileEngine::kUring;
  if (name == "threads") return FileEngine::kThreads;
  refuse(kSpec, "no engine \"" + name + "\": io_uring or threads");
}

Backing backing_of(const Napi::Value& value) {
  const Napi::Object backing = object_of(value, kSpec, "the backing of a virtio-blk");
  if (!backing.Get("memory").IsUndefined()) {
    return MemoryBacking{
        integer_of(backing.Get("memory"), kSpec, "backing.memory", 0, kMaxSafeInteger)};
  }
  if (!backing.Get("file").IsUndefined()) {
    return FileBacking{string_of(backing.Get("file"), kSpec, "backing.file"),
                       engine_of(backing.Get("engine"))};
  }
  if (!backing.Get("overlay").IsUndefined()) {
    return OverlayBacking{string_of(backing.Get("overlay"), kSpec, "backing.overlay")};
  }
  refuse(kSpec, "the backing of a virtio-blk has none of memory, file, overlay");
}

BlkSpec blk_spec(const Napi::Object& device) {
  BlkSpec spec;
  spec.name = string_of(device.Get("name"), kSpec, "the name of a virtio-blk");
  spec.backing = backing_of(device.Get("backing"));
  spec.read_only = boolean_or(device.Get("readOnly"), "readOnly", spec.read_only);
  spec.serial = string_or(device.Get("serial"), "serial", "");
  spec.queues =
      static_cast<std::uint16_t>(integer_or(device.Get("queues"), "queues", spec.queues, kMaxU16));
  spec.queue_size = static_cast<std::uint16_t>(
      integer_or(device.Get("queueSize"), "queueSize", spec.queue_size, kMaxU16));
  spec.block_size = static_cast<std::uint32_t>(
      integer_or(device.Get("blockSize"), "blockSize", spec.block_size, kMaxU32));
  return spec;
}

MacAddress mac_of(const Napi::Value& value, const char* operation) {
  const std::string text = string_of(value, operation, "a MAC address");
  MacAddress mac{};
  char rest = 0;
  const int parts = std::sscanf(text.c_str(), "%2hhx:%2hhx:%2hhx:%2hhx:%2hhx:%2hhx%c", &mac[0],
                                &mac[1], &mac[2], &mac[3], &mac[4], &mac[5], &rest);
  if (parts != 6 || text.size() != 17) {
    refuse(operation, "\"" + text.substr(0, 40) + "\" is no MAC address: 02:00:00:00:00:01 is one");
  }
  return mac;
}

std::string text_of(const MacAddress& mac) {
  char text[18];
  std::snprintf(text, sizeof text, "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3],
                mac[4], mac[5]);
  return text;
}

// The last byte is the device's place among the machine's.
constexpr MacAddress kDefaultMac{0x02, 0x6b, 0x76, 0x00, 0x01, 0x00};

NetSpec net_spec(const Napi::Object& device, std::uint32_t index) {
  NetSpec spec;
  spec.name = string_of(device.Get("name"), kSpec, "the name of a virtio-net");
  spec.mac = kDefaultMac;
  spec.mac.back() = static_cast<std::uint8_t>(index);
  if (!device.Get("mac").IsUndefined()) spec.mac = mac_of(device.Get("mac"), kSpec);
  spec.mtu = static_cast<std::uint16_t>(integer_or(device.Get("mtu"), "mtu", 0, kMaxU16));
  spec.queue_pairs =
      static_cast<std::uint16_t>(integer_or(device.Get("queues"), "queues", 1, kMaxU16));
  const Napi::Value value = device.Get("backend");
  const Napi::Object backend = object_of(value, kSpec, "the backend of a virtio-net");
  const std::string kind = string_of(backend.Get("kind"), kSpec, "backend.kind");
  if (kind == "switch") {
    spec.network = string_of(backend.Get("network"), kSpec, "backend.network");
    if (spec.network.empty()) refuse(kSpec, "backend.network is empty");
  } else if (kind == "tap") {
    spec.tap = string_of(backend.Get("interface"), kSpec, "backend.interface");
    if (spec.tap.empty()) refuse(kSpec, "backend.interface is empty");
    spec.vhost = boolean_or(backend.Get("vhost"), "backend.vhost", false);
  } else if (kind != "peer") {
    refuse(kSpec, "no virtio-net backend of kind \"" + kind + "\"");
  }
  return spec;
}

VsockSpec vsock_spec(const Napi::Object& device) {
  VsockSpec spec;
  spec.name = string_of(device.Get("name"), kSpec, "the name of a virtio-vsock");
  spec.cid = static_cast<std::uint32_t>(integer_or(device.Get("cid"), "cid", spec.cid, kMaxU32));
  const Napi::Value value = device.Get("backend");
  if (value.IsUndefined()) return spec;
  const Napi::Object backend = object_of(value, kSpec, "the backend of a virtio-vsock");
  const std::string kind = string_of(backend.Get("kind"), kSpec, "backend.kind");
  if (kind == "vhost") {
    spec.backend = VsockBackend::kVhost;
  } else if (kind == "unix") {
    spec.backend = VsockBackend::kUnix;
    spec.path = string_of(backend.Get("path"), kSpec, "backend.path");
  } else if (kind != "streams") {
    refuse(kSpec, "no virtio-vsock backend of kind \"" + kind + "\"");
  }
  return spec;
}

ScsiSpec scsi_spec(const Napi::Object& device) {
  ScsiSpec spec;
  spec.name = string_of(device.Get("name"), kSpec, "the name of a virtio-scsi");
  const Napi::Array luns = array_of(device.Get("luns"), "luns of a virtio-scsi");
  for (std::uint32_t i = 0; i < luns.Length(); ++i) spec.luns.push_back(lun_of(luns.Get(i)));
  spec.queues =
      static_cast<std::uint16_t>(integer_or(device.Get("queues"), "queues", spec.queues, kMaxU16));
  spec.queue_size = static_cast<std::uint16_t>(
      integer_or(device.Get("queueSize"), "queueSize", spec.queue_size, kMaxU16));
  if (device.Get("backend").IsUndefined()) return spec;
  const Napi::Object backend =
      object_of(device.Get("backend"), kSpec, "the backend of a virtio-scsi");
  const std::string kind = string_of(backend.Get("kind"), kSpec, "backend.kind");
  if (kind != "vhost") refuse(kSpec, "no virtio-scsi backend of kind \"" + kind + "\"");
  spec.vhost = string_of(backend.Get("wwpn"), kSpec, "backend.wwpn");
  if (spec.vhost.empty()) refuse(kSpec, "backend.wwpn is empty");
  return spec;
}

BalloonSpec balloon_spec(const Napi::Object& device) {
  return {string_of(device.Get("name"), kSpec, "the name of a virtio-balloon"), {}};
}

P9Spec p9_spec(const Napi::Object& device) {
  P9Spec spec;
  spec.tag = string_of(device.Get("tag"), kSpec, "the tag of a virtio-9p");
  spec.path = string_of(device.Get("path"), kSpec, "the path of a virtio-9p");
  spec.read_only = boolean_or(device.Get("readOnly"), "readOnly", spec.read_only);
  return spec;
}

TransportSpec transport_of(const Napi::Object& device) {
  const std::string name = string_or(device.Get("transport"), "transport", "pci");
  if (name != "pci" && name != "mmio") refuse(kSpec, "no transport \"" + name + "\": pci or mmio");
  return {.mmio = name == "mmio",
          .with_features = names_of(device, "withFeatures", "a feature's name"),
          .personality = names_of(device, "personality", "an oddity's name")};
}

DeviceSpec typed_spec(const Napi::Object& device, std::uint32_t index) {
  const std::string type = string_of(device.Get("type"), kSpec, "a device's type");
  if (type == "virtio-console") return console_spec(device);
  if (type == "virtio-rng") return RngSpec{};
  if (type == "virtio-blk") return blk_spec(device);
  if (type == "virtio-net") return net_spec(device, index);
  if (type == "virtio-vsock") return vsock_spec(device);
  if (type == "virtio-scsi") return scsi_spec(device);
  if (type == "virtio-balloon") return balloon_spec(device);
  if (type == "virtio-9p") return p9_spec(device);
  refuse(kSpec, "no device of type \"" + type + "\"");
}

DeviceSpec device_spec(const Napi::Value& value, std::uint32_t index) {
  const Napi::Object device = object_of(value, kSpec, "a device");
  DeviceSpec spec = typed_spec(device, index);
  std::visit(
      [&](auto& one) {
        one.without_features = names_of(device, "withoutFeatures", "a feature's name");
      },
      spec);
  spec.transport = transport_of(device);
  return spec;
}

void put_names(Napi::Env env, Napi::Object& object, const char* key,
               const std::vector<std::string>& list) {
  if (list.empty()) return;
  Napi::Array names = Napi::Array::New(env);
  for (const std::string& name : list) names.Set(names.Length(), name);
  object.Set(key, names);
}

void put(Napi::Env env, Napi::Object& object, const ConsoleSpec& console) {
  Napi::Array ports = Napi::Array::New(env);
  for (const ConsolePortSpec& spec : console.ports) {
    Napi::Object port = Napi::Object::New(env);
    port.Set("name", spec.name);
    port.Set("console", spec.console);
    ports.Set(ports.Length(), port);
  }
  object.Set("ports", ports);
}

void put(Napi::Env, Napi::Object&, const RngSpec&) {}

void put(Napi::Env env, Napi::Object& object, const BlkSpec& blk) {
  object.Set("name", blk.name);
  Napi::Object backing = Napi::Object::New(env);
  if (const auto* memory = std::get_if<MemoryBacking>(&blk.backing)) {
    backing.Set("memory", static_cast<double>(memory->bytes));
  } else if (const auto* file = std::get_if<FileBacking>(&blk.backing)) {
    backing.Set("file", file->path);
    if (file->engine != FileEngine::kAuto) {
      backing.Set("engine", file->engine == FileEngine::kUring ? "io_uring" : "threads");
    }
  } else {
    backing.Set("overlay", std::get<OverlayBacking>(blk.backing).path);
  }
  object.Set("backing", backing);
  object.Set("readOnly", blk.read_only);
  object.Set("serial", blk.serial);
  object.Set("queues", blk.queues);
  object.Set("queueSize", blk.queue_size);
  object.Set("blockSize", blk.block_size);
}

void put(Napi::Env env, Napi::Object& object, const NetSpec& net) {
  object.Set("name", net.name);
  object.Set("mac", text_of(net.mac));
  if (net.mtu != 0) object.Set("mtu", net.mtu);
  object.Set("queues", net.queue_pairs);
  Napi::Object backend = Napi::Object::New(env);
  const bool is_tap = !net.tap.empty();
  backend.Set("kind", is_tap ? "tap" : net.network.empty() ? "peer" : "switch");
  if (is_tap) backend.Set("interface", net.tap);
  if (net.vhost) backend.Set("vhost", true);
  if (!net.network.empty()) backend.Set("network", net.network);
  object.Set("backend", backend);
}

void put(Napi::Env env, Napi::Object& object, const VsockSpec& vsock) {
  object.Set("name", vsock.name);
  object.Set("cid", vsock.cid);
  Napi::Object backend = Napi::Object::New(env);
  const bool is_unix = vsock.backend == VsockBackend::kUnix;
  const char* const kernel = vsock.backend == VsockBackend::kVhost ? "vhost" : "streams";
  backend.Set("kind", is_unix ? "unix" : kernel);
  if (is_unix) backend.Set("path", vsock.path);
  object.Set("backend", backend);
}

void put(Napi::Env env, Napi::Object& object, const ScsiSpec& scsi) {
  object.Set("name", scsi.name);
  Napi::Array luns = Napi::Array::New(env);
  for (const ScsiLunSpec& spec : scsi.luns) {
    Napi::Object lun = Napi::Object::New(env);
    lun.Set("name", spec.name);
    const auto* memory = std::get_if<MemoryBacking>(&spec.backing);
    lun.Set("memory", memory == nullptr ? 0.0 : static_cast<double>(memory->bytes));
    lun.Set("target", spec.target);
    lun.Set("lun", spec.lun);
    lun.Set("readOnly", spec.read_only);
    lun.Set("serial", spec.serial);
    lun.Set("blockSize", spec.block_size);
    luns.Set(luns.Length(), lun);
  }
  object.Set("luns", luns);
  object.Set("queues", scsi.queues);
  object.Set("queueSize", scsi.queue_size);
  if (scsi.vhost.empty()) return;
  Napi::Object backend = Napi::Object::New(env);
  backend.Set("kind", "vhost");
  backend.Set("wwpn", scsi.vhost);
  object.Set("backend", backend);
}

void put(Napi::Env, Napi::Object& object, const BalloonSpec& balloon) {
  object.Set("name", balloon.name);
}

void put(Napi::Env, Napi::Object& object, const P9Spec& share) {
  object.Set("tag", share.tag);
  object.Set("path", share.path);
  object.Set("readOnly", share.read_only);
}

}  // namespace

ScsiLunSpec lun_of(const Napi::Value& value) {
  const Napi::Object lun = object_of(value, kSpec, "a logical unit");
  ScsiLunSpec spec;
  spec.name = string_of(lun.Get("name"), kSpec, "the name of a logical unit");
  spec.backing = MemoryBacking{
      integer_of(lun.Get("memory"), kSpec, "memory of a logical unit", 0, kMaxSafeInteger)};
  spec.target =
      static_cast<std::uint8_t>(integer_or(lun.Get("target"), "target", 0, kScsiMaxTarget));
  spec.lun = static_cast<std::uint8_t>(integer_or(lun.Get("lun"), "lun", 0, kScsiMaxLun));
  spec.read_only = boolean_or(lun.Get("readOnly"), "readOnly", false);
  spec.serial = string_or(lun.Get("serial"), "serial", "");
  spec.block_size = static_cast<std::uint32_t>(
      integer_or(lun.Get("blockSize"), "blockSize", spec.block_size, kMaxU32));
  return spec;
}

std::vector<DeviceSpec> devices_of(const Napi::Value& value) {
  const Napi::Array devices = array_of(value, "devices");
  std::vector<DeviceSpec> specs;
  for (std::uint32_t i = 0; i < devices.Length(); ++i)
    specs.push_back(device_spec(devices.Get(i), i));
  return specs;
}

std::map<std::string, DeviceChange> device_changes(const Napi::Value& value,
                                                   const char* operation) {
  const Napi::Object object = object_of(value, operation, "devices");
  const Napi::Array names = object.GetPropertyNames();
  std::map<std::string, DeviceChange> changes;
  for (std::uint32_t i = 0; i < names.Length(); ++i) {
    const std::string name = string_of(names.Get(i), operation, "a device's name");
    const Napi::Object wanted = object_of(object.Get(name), operation, "what a device changes");
    DeviceChange change;
    if (!wanted.Get("serial").IsUndefined()) {
      change.serial = string_of(wanted.Get("serial"), operation, "serial");
    }
    if (!wanted.Get("mac").IsUndefined()) change.mac = mac_of(wanted.Get("mac"), operation);
    if (!wanted.Get("network").IsUndefined()) {
      change.network = string_of(wanted.Get("network"), operation, "network");
    }
    if (!wanted.Get("path").IsUndefined()) {
      change.path = string_of(wanted.Get("path"), operation, "path");
    }
    if (!wanted.Get("cid").IsUndefined()) {
      change.cid =
          static_cast<std::uint32_t>(integer_of(wanted.Get("cid"), operation, "cid", 0, kMaxU32));
    }
    changes[name] = std::move(change);
  }
  return changes;
}

Napi::Value to_js(Napi::Env env, const DeviceSpec& device) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("type", type_name(device));
  std::visit([&](const auto& spec) { put(env, object, spec); }, device);
  if (device.transport.mmio) object.Set("transport", "mmio");
  put_names(env, object, "withoutFeatures", without_features(device));
  put_names(env, object, "withFeatures", device.transport.with_features);
  put_names(env, object, "personality", device.transport.personality);
  return object;
}

}  // namespace kvitest
