// Balloons, between contract.ts and native/machine.
#pragma once

#include <napi.h>

#include "native/machine/machine.h"

namespace kvitest {

// undefined: nothing is asked. Throws Error (EINVAL) naming the field that is not as the contract
// says.
Machine::BalloonRequest balloon_request(const Napi::Value& value);
Napi::Value to_js(Napi::Env env, const BalloonReport& report);

}  // namespace kvitest
