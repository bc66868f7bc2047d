#include "native/binding/machine_object.h"

#include <cstdint>
#include <limits>
#include <utility>

#include "native/binding/checkpoint_object.h"
#include "native/binding/convert.h"
#include "native/binding/convert_balloon.h"
#include "native/binding/convert_device.h"
#include "native/error.h"

namespace kvitest {
namespace {

constexpr const char* kOnEvent = "onEvent";

}  // namespace

Napi::Function MachineObject::define(Napi::Env env, Environment& environment) {
  return DefineClass(env, "NativeMachine",
                     {
                         InstanceMethod<&MachineObject::start>("start"),
                         InstanceMethod<&MachineObject::stop>("stop"),
                         InstanceMethod<&MachineObject::write>("write"),
                         InstanceMethod<&MachineObject::consumed>("consumed"),
                         InstanceMethod<&MachineObject::set_port_open>("setPortOpen"),
                         InstanceMethod<&MachineObject::resize>("resize"),
                         InstanceMethod<&MachineObject::inspect>("inspect"),
                         InstanceMethod<&MachineObject::private_memory>("privateMemory"),
                         InstanceMethod<&MachineObject::read_disk>("readDisk"),
                         InstanceMethod<&MachineObject::write_disk>("writeDisk"),
                         InstanceMethod<&MachineObject::resize_disk>("resizeDisk"),
                         InstanceMethod<&MachineObject::disk_report>("diskReport"),
                         InstanceMethod<&MachineObject::nmi>("nmi"),
                         InstanceMethod<&MachineObject::send_break>("sendBreak"),
                         InstanceMethod<&MachineObject::fault>("fault"),
                         InstanceMethod<&MachineObject::keep_end>("keepEnd"),
                         InstanceMethod<&MachineObject::set_link>("setLink"),
                         InstanceMethod<&MachineObject::unplug>("unplug"),
                         InstanceMethod<&MachineObject::vsock_listen>("vsockListen"),
                         InstanceMethod<&MachineObject::vsock_connect>("vsockConnect"),
                         InstanceMethod<&MachineObject::vsock_close>("vsockClose"),
                         InstanceMethod<&MachineObject::balloon>("balloon"),
                         InstanceMethod<&MachineObject::attach_lun>("attachLun"),
                         InstanceMethod<&MachineObject::detach_lun>("detachLun"),
                         InstanceMethod<&MachineObject::checkpoint>("checkpoint"),
                         InstanceMethod<&MachineObject::reset>("reset"),
                     },
                     &environment);
}

MachineObject::MachineObject(const Napi::CallbackInfo& info)
    : Napi::ObjectWrap<MachineObject>(info) {
  auto& environment = *static_cast<Environment*>(info.Data());
  if (environment.constructing == nullptr) {
    throw Napi::TypeError::New(info.Env(), "a NativeMachine is made by createMachine() only");
  }
  session_ = environment.constructing;
  info.This().As<Napi::Object>().DefineProperty(
      Napi::PropertyDescriptor::Value(kOnEvent, info[0], napi_default));
  session_->attach(this);
}

MachineObject::~MachineObject() {
  if (session_ != nullptr) session_->detach();
}

Napi::Function MachineObject::listener() const {
  const Napi::Object self = Value();
  if (self.IsEmpty()) return {};
  return self.Get(kOnEvent).As<Napi::Function>();
}

Napi::Value MachineObject::promise(const std::function<void(std::uint64_t)>& call) {
  const Session::Operation operation = session_->begin();
  try {
    call(operation.number);
  } catch (const Error&) {
    session_->settle(operation.number, std::current_exception());
  }
  return operation.promise;
}

// Native threads call it: it holds the session by its bare address, which the machine in it cannot
// outlive.
Machine::Done MachineObject::settles(std::uint64_t operation) {
  return [session = session_.get(), operation](std::exception_ptr error) {
    session->settle(operation, std::move(error));
  };
}

Napi::Value MachineObject::start(const Napi::CallbackInfo&) {
  return promise([this](std::uint64_t operation) {
    session_->hold_while_running();
    session_->machine().start(settles(operation));
  });
}

Napi::Value MachineObject::stop(const Napi::CallbackInfo&) {
  return promise([this](std::uint64_t operation) {
    session_->machine().stop([session = session_.get(), operation](const MachineEnd& end) {
      session->settle_when_released(operation, nullptr,
                                    [end](Napi::Env env) { return to_js(env, end); });
    });
  });
}

Napi::Value MachineObject::write(const Napi::CallbackInfo& info) {
  return promise([&](std::uint64_t operation) {
    std::string channel = string_of(info[0], "write", "the channel");
    session_->machine().write(std::move(channel), bytes_of(info[1], "write"), settles(operation));
  });
}

void MachineObject::consumed(const Napi::CallbackInfo& info) {
  try {
    std::string channel = string_of(info[0], "consumed", "the channel");
    const std::uint64_t bytes = integer_of(info[1], "consumed", "the number of bytes", 0,
                                           std::numeric_limits<std::uint32_t>::max());
    session_->machine().consumed(std::move(channel), bytes);
  } catch (const Error& error) {
    throw Napi::TypeError::New(info.Env(), error.what());
  }
}

Napi::Value MachineObject::set_port_open(const Napi::CallbackInfo& info) {
  return promise([&](std::uint64_t operation) {
    std::string channel = string_of(info[0], "setPortOpen", "the channel");
    const bool open = info[1].ToBoolean().Value();
    session_->machine().set_port_open(std::move(channel), open, settles(operation));
  });
}

Napi::Value MachineObject::resize(const Napi::CallbackInfo& info) {
  return promise([&](std::uint64_t operation) {
    constexpr std::uint64_t kLimit = std::numeric_limits<std::uint16_t>::max();
    std::string channel = string_of(info[0], "resize", "the channel");
    const auto columns =
        static_cast<std::uint16_t>(integer_of(info[1], "resize", "columns", 0, kLimit));
    const auto rows = static_cast<std::uint16_t>(integer_of(info[2], "resize", "rows", 0, kLimit));
    session_->machine().resize(std::move(channel), columns, rows, settles(operation));
  });
}

Napi::Value MachineObject::inspect(const Napi::CallbackInfo&) {
  return promise([this](std::uint64_t operation) {
    session_->machine().inspect([session = session_.get(), operation](std::vector<VcpuState> states,
                                                                      std::exception_ptr error) {
      session->settle(operation, std::move(error),
                      [states = std::move(states)](Napi::Env env) { return to_js(env, states); });
    });
  });
}

// A Machine's answer that is a number of bytes.
std::function<void(std::uint64_t, std::exception_ptr)> MachineObject::settles_bytes(
    std::uint64_t operation) {
  return [session = session_.get(), operation](std::uint64_t bytes, std::exception_ptr error) {
    session->settle(operation, std::move(error), [bytes](Napi::Env env) {
      return Napi::Number::New(env, static_cast<double>(bytes));
    });
  };
}

Napi::Value MachineObject::private_memory(const Napi::CallbackInfo&) {
  return promise([this](std::uint64_t operation) {
    session_->machine().private_memory(settles_bytes(operation));
  });
}

Napi::Value MachineObject::read_disk(const Napi::CallbackInfo& info) {
  return promise([&](std::uint64_t operation) {
    constexpr const char* kCall = "read disk";
    std::string disk = string_of(info[0], kCall, "the disk");
    const std::uint64_t offset = integer_of(info[1], kCall, "the offset", 0, kMaxSafeInteger);
    const std::uint64_t length = integer_of(info[2], kCall, "the length", 0, kMaxDiskAccess);
    session_->machine().read_disk(
        std::move(disk), offset, length,
        [session = session_.get(), operation](Machine::Bytes bytes, std::exception_ptr error) {
          session->settle(operation, std::move(error),
                          [bytes = std::move(bytes)](Napi::Env env) { return to_js(env, bytes); });
        });
  });
}

Napi::Value MachineObject::write_disk(const Napi::CallbackInfo& info) {
  return promise([&](std::uint64_t operation) {
    constexpr const char* kCall = "write disk";
    std::string disk = string_of(info[0], kCall, "the disk");
    const std::uint64_t offset = integer_of(info[1], kCall, "the offset", 0, kMaxSafeInteger);
    session_->machine().write_disk(std::move(disk), offset, bytes_of(info[2], kCall),
                                   settles(operation));
  });
}

Napi::Value MachineObject::resize_disk(const Napi::CallbackInfo& info) {
  return promise([&](std::uint64_t operation) {
    constexpr const char* kCall = "resize disk";
    std::string disk = string_of(info[0], kCall, "the disk");
    const std::uint64_t bytes = integer_of(info[1], kCall, "the size", 0, kMaxSafeInteger);
    session_->machine().resize_disk(std::move(disk), bytes, settles(operation));
  });
}

Napi::Value MachineObject::disk_report(const Napi::CallbackInfo& info) {
  return promise([&](std::uint64_t operation) {
    std::string disk = string_of(info[0], "disk", "the disk");
    session_->machine().disk_report(
        std::move(disk), [session = session_.get(), operation](const Machine::DiskReport& report,
                                                               std::exception_ptr error) {
          session->settle(operation, std::move(error),
                          [report](Napi::Env env) { return to_js(env, report); });
        });
  });
}

Napi::Value MachineObject::nmi(const Napi::CallbackInfo& info) {
  return promise([&](std::uint64_t operation) {
    session_->machine().nmi(nmi_options(info[0]), settles(operation));
  });
}

Napi::Value MachineObject::send_break(const Napi::CallbackInfo&) {
  return promise(
      [this](std::uint64_t operation) { session_->machine().send_break(settles(operation)); });
}

Napi::Value MachineObject::fault(const Napi::CallbackInfo& info) {
  return promise([&](std::uint64_t operation) {
    const std::string fault = string_of(info[0], "fault", "the fault");
    if (fault != "throw" && fault != "abort") {
      throw Error("fault", EINVAL, fault + ": no such fault", "use throw or abort");
    }
    session_->machine().fault(fault == "throw" ? Machine::Fault::kThrow : Machine::Fault::kAbort,
                              settles(operation));
  });
}

Napi::Value MachineObject::keep_end(const Napi::CallbackInfo&) {
  return promise(
      [this](std::uint64_t operation) { session_->machine().keep_end(settles(operation)); });
}

Napi::Value MachineObject::set_link(const Napi::CallbackInfo& info) {
  return promise([&](std::uint64_t operation) {
    std::string device = string_of(info[0], "setLink", "the device");
    const bool up = info[1].ToBoolean().Value();
    session_->machine().set_link(std::move(device), up, settles(operation));
  });
}

Napi::Value MachineObject::unplug(const Napi::CallbackInfo& info) {
  return promise([&](std::uint64_t operation) {
    std::string device = string_of(info[0], "unplug", "the device");
    const bool surprise = info[1].ToBoolean().Value();
    session_->machine().unplug(std::move(device), surprise, settles(operation));
  });
}

Napi::Value MachineObject::vsock_listen(const Napi::CallbackInfo& info) {
  return promise([&](std::uint64_t operation) {
    std::string device = string_of(info[0], "vsockListen", "the device");
    const auto port = static_cast<std::uint32_t>(integer_of(
        info[1], "vsockListen", "the port", 0, std::numeric_limits<std::uint32_t>::max()));
    const bool on = info[2].ToBoolean().Value();
    session_->machine().vsock_listen(std::move(device), port, on, settles(operation));
  });
}

Napi::Value MachineObject::vsock_connect(const Napi::CallbackInfo& info) {
  return promise([&](std::uint64_t operation) {
    std::string device = string_of(info[0], "vsockConnect", "the device");
    const auto port = static_cast<std::uint32_t>(integer_of(
        info[1], "vsockConnect", "the port", 0, std::numeric_limits<std::uint32_t>::max()));
    session_->machine().vsock_connect(
        std::move(device), port,
        [session = session_.get(), operation](std::string channel, std::exception_ptr error) {
          session->settle(operation, std::move(error),
                          [channel = std::move(channel)](Napi::Env env) {
                            return Napi::String::New(env, channel);
                          });
        });
  });
}

Napi::Value MachineObject::vsock_close(const Napi::CallbackInfo& info) {
  return promise([&](std::uint64_t operation) {
    std::string channel = string_of(info[0], "vsockClose", "the channel");
    const bool whole = info[1].ToBoolean().Value();
    session_->machine().vsock_shut(std::move(channel), whole, settles(operation));
  });
}

Napi::Value MachineObject::attach_lun(const Napi::CallbackInfo& info) {
  return promise([&](std::uint64_t operation) {
    std::string device = string_of(info[0], "attachLun", "the device");
    session_->machine().attach_lun(std::move(device), lun_of(info[1]), settles(operation));
  });
}

Napi::Value MachineObject::detach_lun(const Napi::CallbackInfo& info) {
  return promise([&](std::uint64_t operation) {
    std::string device = string_of(info[0], "detachLun", "the device");
    std::string lun = string_of(info[1], "detachLun", "the logical unit");
    session_->machine().detach_lun(std::move(device), std::move(lun), settles(operation));
  });
}

Napi::Value MachineObject::balloon(const Napi::CallbackInfo& info) {
  return promise([&](std::uint64_t operation) {
    std::string device = string_of(info[0], "balloon", "the device");
    session_->machine().balloon(
        std::move(device), balloon_request(info[1]),
        [session = session_.get(), operation](BalloonReport report, std::exception_ptr error) {
          session->settle(operation, std::move(error), [report = std::move(report)](Napi::Env env) {
            return to_js(env, report);
          });
        });
  });
}

Napi::Value MachineObject::checkpoint(const Napi::CallbackInfo&) {
  return promise([this](std::uint64_t operation) {
    session_->machine().checkpoint(
        [session = session_.get(), operation](std::shared_ptr<const Checkpoint> checkpoint,
                                              std::exception_ptr error) {
          session->settle(operation, std::move(error),
                          [checkpoint = std::move(checkpoint)](Napi::Env env) {
                            return CheckpointObject::make(env, checkpoint);
                          });
        });
  });
}

Napi::Value MachineObject::reset(const Napi::CallbackInfo& info) {
  return promise([&](std::uint64_t operation) {
    session_->machine().reset(fork_options(info[0], "reset"), settles(operation));
  });
}

}  // namespace kvitest
