// Devices of machine specs, between contract.ts and native/machine.
#pragma once

#include <napi.h>

#include <map>
#include <string>
#include <vector>

#include "native/machine/device_spec.h"
#include "native/machine/fork_options.h"

namespace kvitest {

// All throw Error (EINVAL) naming the field that is not as the contract says.
std::vector<DeviceSpec> devices_of(const Napi::Value& value);
ScsiLunSpec lun_of(const Napi::Value& value);
std::map<std::string, DeviceChange> device_changes(const Napi::Value& value, const char* operation);

Napi::Value to_js(Napi::Env env, const DeviceSpec& device);

}  // namespace kvitest
