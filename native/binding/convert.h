// Between the plain data of src/native/contract.ts and the structs of native/.
#pragma once

#include <napi.h>

#include <cstddef>
#include <exception>
#include <functional>
#include <string>
#include <vector>

#include "native/binding/fields.h"
#include "native/machine/end.h"
#include "native/machine/event_queue.h"
#include "native/machine/fork_options.h"
#include "native/machine/machine.h"
#include "native/machine/spec.h"

namespace kvitest {

// Throws Error (EINVAL) naming the field that is not as the contract says.
MachineSpec machine_spec(const Napi::Value& value);
// undefined: no options. Throws Error (EINVAL) naming the field that is not as the contract says.
Machine::NmiOptions nmi_options(const Napi::Value& value);
ForkOptions fork_options(const Napi::Value& value, const char* operation);
// In V8's own memory.
Napi::Value to_js(Napi::Env env, const std::vector<std::byte>& bytes);
// A promise of what `call` makes; an Error that it throws rejects it.
Napi::Value promised(Napi::Env env, const std::function<Napi::Promise()>& call);
Napi::Value to_js(Napi::Env env, const Event& event);
Napi::Value to_js(Napi::Env env, const MachineEnd& end);
Napi::Value to_js(Napi::Env env, const MachineSpec& spec);
Napi::Value to_js(Napi::Env env, const std::vector<VcpuState>& states);
Napi::Value to_js(Napi::Env env, const Machine::DiskReport& report);
// A NativeError: message, and code, operation and hint where they are known.
Napi::Value to_js(Napi::Env env, const std::exception_ptr& error);

}  // namespace kvitest
