#include "native/binding/convert.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <utility>

#include "native/binding/convert_device.h"
#include "native/error.h"

namespace kvitest {
namespace {

std::variant<LinuxPayload, BarePayload> payload_of(const Napi::Value& value) {
  const Napi::Object payload = object_of(value, kSpec, "payload");
  const std::string kind = string_of(payload.Get("kind"), kSpec, "payload.kind");
  if (kind == "linux") {
    LinuxPayload linux_payload;
    linux_payload.kernel = string_of(payload.Get("kernel"), kSpec, "payload.kernel");
    if (!payload.Get("initramfs").IsUndefined()) {
      linux_payload.initramfs = string_of(payload.Get("initramfs"), kSpec, "payload.initramfs");
    }
    linux_payload.cmdline = string_of(payload.Get("cmdline"), kSpec, "payload.cmdline");
    return linux_payload;
  }
  if (kind == "bare") {
    BarePayload bare;
    bare.elf = string_of(payload.Get("elf"), kSpec, "payload.elf");
    bare.ring = static_cast<int>(integer_of(payload.Get("ring"), kSpec, "payload.ring", 0, 3));
    return bare;
  }
  refuse(kSpec, "no payload of kind \"" + kind + "\"");
}

Napi::Array numbers(Napi::Env env, const std::vector<std::uint8_t>& values) {
  Napi::Array array = Napi::Array::New(env, values.size());
  for (std::uint32_t i = 0; i < values.size(); ++i) array.Set(i, unsigned{values[i]});
  return array;
}

Napi::Value to_js(Napi::Env env, const VcpuState& state) {
  Napi::Object registers = Napi::Object::New(env);
  for (const auto& [name, value] : state.registers) registers.Set(name, value);
  Napi::Object object = Napi::Object::New(env);
  object.Set("index", state.index);
  object.Set("registers", registers);
  if (state.mp_state) object.Set("mpState", *state.mp_state);
  object.Set("interruptsEnabled", state.interrupts_enabled);
  object.Set("cpl", state.cpl);
  object.Set("pending", numbers(env, state.pending));
  object.Set("inService", numbers(env, state.in_service));
  object.Set("nmiMasked", state.nmi_masked);
  return object;
}

}  // namespace

Napi::Value promised(Napi::Env env, const std::function<Napi::Promise()>& call) {
  try {
    return call();
  } catch (const Error&) {
    const auto deferred = Napi::Promise::Deferred::New(env);
    deferred.Reject(to_js(env, std::current_exception()));
    return deferred.Promise();
  }
}

MachineSpec machine_spec(const Napi::Value& value) {
  const Napi::Object object = object_of(value, kSpec, "the spec");
  MachineSpec spec;
  spec.name = string_of(object.Get("name"), kSpec, "name");
  spec.cpus = static_cast<unsigned>(integer_of(object.Get("cpus"), kSpec, "cpus", 0, 1024));
  spec.memory = integer_of(object.Get("memory"), kSpec, "memory", 0, kMaxSafeInteger);
  spec.payload = payload_of(object.Get("payload"));
  spec.devices = devices_of(object.Get("devices"));
  const bool is_linux = std::holds_alternative<LinuxPayload>(spec.payload);
  spec.irqchip = boolean_or(object.Get("irqchip"), "irqchip", is_linux || !spec.devices.empty());
  return spec;
}

Machine::NmiOptions nmi_options(const Napi::Value& value) {
  Machine::NmiOptions options;
  if (value.IsUndefined()) return options;
  const Napi::Object object = object_of(value, "nmi", "the options");
  if (!object.Get("vcpu").IsUndefined()) {
    options.vcpu = static_cast<unsigned>(integer_of(object.Get("vcpu"), "nmi", "vcpu", 0, 1024));
  }
  options.io_check = object.Get("ioCheck").ToBoolean().Value();
  return options;
}

ForkOptions fork_options(const Napi::Value& value, const char* operation) {
  ForkOptions options;
  if (value.IsUndefined()) return options;
  const Napi::Object object = object_of(value, operation, "the options");
  if (!object.Get("name").IsUndefined()) {
    options.name = string_of(object.Get("name"), operation, "name");
  }
  if (!object.Get("generationId").IsUndefined()) {
    const std::vector<std::byte> bytes = bytes_of(object.Get("generationId"), operation);
    options.generation_id.emplace();
    if (bytes.size() != options.generation_id->size()) {
      refuse(operation, "generationId has " + std::to_string(bytes.size()) + " bytes, not 16");
    }
    std::ranges::copy(bytes, options.generation_id->begin());
  }
  if (!object.Get("devices").IsUndefined()) {
    options.devices = device_changes(object.Get("devices"), operation);
  }
  if (object.Get("expected").IsUndefined()) return options;
  const Napi::Object expected = object_of(object.Get("expected"), operation, "expected");
  if (!expected.Get("cpus").IsUndefined()) {
    options.expected_cpus = static_cast<unsigned>(
        integer_of(expected.Get("cpus"), operation, "expected.cpus", 0, 1024));
  }
  if (!expected.Get("memory").IsUndefined()) {
    options.expected_memory =
        integer_of(expected.Get("memory"), operation, "expected.memory", 0, kMaxSafeInteger);
  }
  if (!expected.Get("devices").IsUndefined()) {
    options.expected_devices = devices_of(expected.Get("devices"));
  }
  return options;
}

Napi::Value to_js(Napi::Env env, const std::vector<std::byte>& data) {
  // Copied into V8's own memory: V8 aborts when two external buffers cover one address. An
  // ArrayBuffer is cleared before we have it, the one below a Buffer is not.
  const auto memory = Napi::Buffer<std::uint8_t>::New(env, data.size());
  std::memcpy(memory.Data(), data.data(), data.size());
  return Napi::Uint8Array::New(env, data.size(), memory.ArrayBuffer(), memory.ByteOffset());
}

Napi::Value to_js(Napi::Env env, const MachineSpec& spec) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("name", spec.name);
  object.Set("cpus", spec.cpus);
  object.Set("memory", static_cast<double>(spec.memory));
  Napi::Object payload = Napi::Object::New(env);
  if (const auto* linux_payload = std::get_if<LinuxPayload>(&spec.payload)) {
    payload.Set("kind", "linux");
    payload.Set("kernel", linux_payload->kernel);
    if (!linux_payload->initramfs.empty()) payload.Set("initramfs", linux_payload->initramfs);
    payload.Set("cmdline", linux_payload->cmdline);
  } else {
    payload.Set("kind", "bare");
    payload.Set("elf", std::get<BarePayload>(spec.payload).elf);
    payload.Set("ring", std::get<BarePayload>(spec.payload).ring);
  }
  object.Set("payload", payload);
  Napi::Array devices = Napi::Array::New(env);
  for (const DeviceSpec& device : spec.devices) devices.Set(devices.Length(), to_js(env, device));
  object.Set("devices", devices);
  object.Set("irqchip", spec.irqchip);
  return object;
}

Napi::Value to_js(Napi::Env env, const std::vector<VcpuState>& states) {
  Napi::Array array = Napi::Array::New(env, states.size());
  for (std::uint32_t i = 0; i < states.size(); ++i) array.Set(i, to_js(env, states[i]));
  return array;
}

Napi::Value to_js(Napi::Env env, const Machine::DiskReport& report) {
  constexpr std::array kServers{"vcpu", "threads", "io_uring"};
  Napi::Object served = Napi::Object::New(env);
  served.Set(kServers[0], static_cast<double>(report.served.vcpu));
  served.Set(kServers[1], static_cast<double>(report.served.threads));
  served.Set(kServers[2], static_cast<double>(report.served.engine));
  Napi::Object object = Napi::Object::New(env);
  object.Set("bytes", static_cast<double>(report.bytes));
  object.Set("engine", kServers[static_cast<std::size_t>(report.server)]);
  object.Set("served", served);
  return object;
}

Napi::Value to_js(Napi::Env env, const MachineEnd& end) {
  Napi::Object exits = Napi::Object::New(env);
  for (const auto& [name, count] : end.exits) exits.Set(name, static_cast<double>(count));
  Napi::Object object = Napi::Object::New(env);
  object.Set("reason", end.reason);
  if (end.code) object.Set("code", static_cast<double>(*end.code));
  object.Set("detail", end.detail);
  object.Set("panicked", end.panicked);
  object.Set("exits", exits);
  object.Set("vcpus", to_js(env, end.vcpus));
  object.Set("elapsed", end.elapsed);
  return object;
}

Napi::Value to_js(Napi::Env env, const Event& event) {
  Napi::Object object = Napi::Object::New(env);
  if (const auto* data = std::get_if<DataEvent>(&event)) {
    object.Set("type", "data");
    object.Set("channel", data->channel);
    object.Set("data", to_js(env, data->data));
  } else if (const auto* port = std::get_if<PortEvent>(&event)) {
    object.Set("type", "port");
    object.Set("channel", port->channel);
    object.Set("open", port->open);
  } else if (const auto* vsock = std::get_if<VsockEvent>(&event)) {
    object.Set("type", "vsock");
    object.Set("device", vsock->device);
    object.Set("channel", vsock->channel);
    if (vsock->kind == VsockEvent::Kind::kOpen) {
      object.Set("event", "open");
      object.Set("hostPort", static_cast<double>(vsock->host_port));
      object.Set("guestPort", static_cast<double>(vsock->guest_port));
    } else {
      object.Set("event", vsock->kind == VsockEvent::Kind::kEnd ? "end" : "close");
    }
  } else if (const auto* pvpanic = std::get_if<PvpanicEvent>(&event)) {
    object.Set("type", "pvpanic");
    object.Set("event", static_cast<double>(pvpanic->event));
  } else if (const auto* unplugged = std::get_if<UnpluggedEvent>(&event)) {
    object.Set("type", "unplugged");
    object.Set("device", unplugged->device);
  } else if (const auto* mark = std::get_if<MarkEvent>(&event)) {
    object.Set("type", "mark");
    object.Set("mark", mark->reset ? "reset" : "checkpoint");
  } else {
    object.Set("type", "end");
    object.Set("end", to_js(env, std::get<EndEvent>(event).end));
  }
  return object;
}

Napi::Value to_js(Napi::Env env, const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const Error& e) {
    const Napi::Error js = Napi::Error::New(env, e.what());
    Napi::Object object = js.Value();
    if (const char* name = e.code() == 0 ? nullptr : ::strerrorname_np(e.code())) {
      object.Set("code", name);
    }
    object.Set("operation", e.operation());
    if (!e.hint().empty()) object.Set("hint", e.hint());
    return object;
  } catch (const std::exception& e) {
    const Napi::Error js = Napi::Error::New(env, std::string("kvitest addon: ") + e.what());
    Napi::Object object = js.Value();
    object.Set("operation", "kvitest addon");
    return object;
  }
}

}  // namespace kvitest
