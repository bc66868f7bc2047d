// Between the plain data of src/native/raw-contract.ts and the structs of native/kvm/raw.
#pragma once

#include <napi.h>

#include "native/kvm/raw/call.h"

namespace kvitest {

// Throws Error (EINVAL) naming the field that is not as the contract says.
raw::Call raw_call(const Napi::Value& value);
Napi::Value to_js(Napi::Env env, const raw::Result& result);

}  // namespace kvitest
