// NativeRaw of src/native/raw-contract.ts: a JS object around a session of raw access to KVM.
//
// The session lives as long as its JS object, or a call that is pending. One that is collected, or
// whose environment ends, is closed.
#pragma once

#include <napi.h>

#include <atomic>
#include <memory>

#include "native/binding/environment.h"

namespace kvitest {

class RawResident;

// Not closed yet; all environments of the process.
inline std::atomic<int> live_raw_sessions{0};

class RawObject : public Napi::ObjectWrap<RawObject> {
 public:
  static Napi::Function define(Napi::Env env, Environment& environment);
  // NativeAddon.openRaw()
  static Napi::Value open(const Napi::CallbackInfo& info);

  // By open() only.
  explicit RawObject(const Napi::CallbackInfo& info);
  ~RawObject() override;

 private:
  Napi::Value call(const Napi::CallbackInfo& info);
  Napi::Value close(const Napi::CallbackInfo& info);

  std::shared_ptr<RawResident> resident_;
};

}  // namespace kvitest
