#include "native/binding/environment.h"

#include <utility>
#include <vector>

#include "native/binding/checkpoint_object.h"
#include "native/binding/machine_object.h"
#include "native/binding/raw_object.h"

namespace kvitest {

Wakeup::Wakeup(Environment& environment)
    : function_(Function::New(environment.env(), "kvitest machines", 0, 1, &environment)) {
  function_.Unref(environment.env());
}

void Wakeup::wake(std::uint64_t resident) {
  const std::lock_guard lock(mutex_);
  if (closed_) return;
  // The number itself travels in the pointer: nothing to free when the call never arrives.
  function_.NonBlockingCall(reinterpret_cast<void*>(resident));
}

void Wakeup::close() {
  const std::lock_guard lock(mutex_);
  // Not released either: Node closes the function itself when the environment ends, and a release
  // after that would touch freed memory.
  closed_ = true;
}

void Wakeup::hold(Napi::Env env) {
  if (closed_) return;
  if (holds_++ == 0) function_.Ref(env);
}

void Wakeup::release(Napi::Env env) {
  if (closed_) return;
  if (--holds_ == 0) function_.Unref(env);
}

void Wakeup::call_js(Napi::Env env, Napi::Function, Environment* environment, void* resident) {
  if (env == nullptr) return;  // the environment ends with calls still queued
  const std::shared_ptr<Resident> found =
      environment->find(reinterpret_cast<std::uint64_t>(resident));
  if (found != nullptr) found->drain(env);
}

Environment::Environment(Napi::Env env, Napi::Object) : env_(env) {
  wakeup_ = std::make_shared<Wakeup>(*this);
  machine_class = Napi::Persistent(MachineObject::define(env, *this));
  checkpoint_class = Napi::Persistent(CheckpointObject::define(env, *this));
  raw_class = Napi::Persistent(RawObject::define(env, *this));
  // After the thread-safe function was made: hooks run in reverse, so ours comes before the one by
  // which Node closes that function.
  env.AddCleanupHook([](Environment* self) { self->shut_down(); }, this);
}

Environment::~Environment() = default;

void Environment::add(std::shared_ptr<Resident> resident) {
  const std::uint64_t number = resident->number();
  residents_.emplace(number, std::move(resident));
}

std::shared_ptr<Resident> Environment::find(std::uint64_t resident) const {
  const auto found = residents_.find(resident);
  return found == residents_.end() ? nullptr : found->second;
}

void Environment::shut_down() {
  wakeup_->close();
  // All of them are told first, so that they end side by side.
  for (const auto& [number, resident] : residents_) resident->stop();
  for (const auto& [number, resident] : residents_) resident->abandon();
  residents_.clear();
  machine_class.Reset();
  checkpoint_class.Reset();
  raw_class.Reset();
}

}  // namespace kvitest
