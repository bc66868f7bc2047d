// Between the plain data of src/native/contract.ts and the structs of native/.
#pragma once

#include <napi.h>

#include <cstddef>
#include <exception>
#include <functional>
#include <string>
#include <vector>

#include "native/machine/end.h"
#include "native/machine/event_queue.h"
#include "native/machine/fork_options.h"
#include "native/machine/spec.h"

namespace kvitest {

// Throws Error (EINVAL) naming the field that is not as the contract says.
MachineSpec machine_spec(const Napi::Value& value);
// undefined: no options. Throws Error (EINVAL) naming the field that is not as the contract says.
ForkOptions fork_options(const Napi::Value& value, const char* operation);
// A copy of a Uint8Array's bytes. Throws Error (EINVAL).
std::vector<std::byte> bytes_of(const Napi::Value& value, const char* operation);
// Throws Error (EINVAL).
std::string string_of(const Napi::Value& value, const char* operation, const char* what);
// A copy, in V8's own memory.
Napi::Value uint8_array(Napi::Env env, const std::vector<std::byte>& data);
// A promise of what `call` makes; an Error that it throws rejects it.
Napi::Value promised(Napi::Env env, const std::function<Napi::Promise()>& call);
// An integer in [low, high]. Throws Error (EINVAL).
std::uint64_t integer_of(const Napi::Value& value, const char* operation, const char* what,
                         std::uint64_t low, std::uint64_t high);

Napi::Value to_js(Napi::Env env, const Event& event);
Napi::Value to_js(Napi::Env env, const MachineEnd& end);
Napi::Value to_js(Napi::Env env, const MachineSpec& spec);
Napi::Value to_js(Napi::Env env, const std::vector<VcpuState>& states);
// A NativeError: message, and code, operation and hint where they are known.
Napi::Value to_js(Napi::Env env, const std::exception_ptr& error);

}  // namespace kvitest
