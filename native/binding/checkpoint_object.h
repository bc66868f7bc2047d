// NativeCheckpoint of src/native/contract.ts: a JS object that holds a checkpoint. Forks hold it
// themselves, so that they live on when the object is released or collected.
#pragma once

#include <napi.h>

#include <memory>

#include "native/binding/environment.h"
#include "native/machine/checkpoint.h"

namespace kvitest {

class CheckpointObject : public Napi::ObjectWrap<CheckpointObject> {
 public:
  static Napi::Function define(Napi::Env env, Environment& environment);
  static Napi::Object make(Napi::Env env, std::shared_ptr<const Checkpoint> checkpoint);
  // NativeAddon.loadCheckpoint()
  static Napi::Value load(const Napi::CallbackInfo& info);

  // By make() only.
  explicit CheckpointObject(const Napi::CallbackInfo& info);

 private:
  Napi::Value fork(const Napi::CallbackInfo& info);
  Napi::Value save(const Napi::CallbackInfo& info);
  Napi::Value save_core(const Napi::CallbackInfo& info);
  void release(const Napi::CallbackInfo& info);

  // Throws Error (EINVAL) once it was released.
  const std::shared_ptr<const Checkpoint>& held(const char* operation) const;

  std::shared_ptr<const Checkpoint> checkpoint_;
};

}  // namespace kvitest
