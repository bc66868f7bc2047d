// NativeAddon of src/native/contract.ts.
#include <napi.h>
#include <sys/prctl.h>

#include <cerrno>
#include <csignal>
#include <exception>
#include <memory>
#include <optional>
#include <string>

#include "native/binding/checkpoint_object.h"
#include "native/binding/convert.h"
#include "native/binding/environment.h"
#include "native/binding/kernel_state.h"
#include "native/binding/raw_object.h"
#include "native/binding/session.h"
#include "native/counts.h"
#include "native/error.h"
#include "native/kvm/system.h"

namespace kvitest {
namespace {

Environment& environment_of(const Napi::CallbackInfo& info) {
  return *info.Env().GetInstanceData<Environment>();
}

class ProbeWorker : public Napi::AsyncWorker {
 public:
  explicit ProbeWorker(Napi::Env env)
      : Napi::AsyncWorker(env, "kvitest probe"), deferred_(Napi::Promise::Deferred::New(env)) {}

  Napi::Promise promise() const { return deferred_.Promise(); }

 protected:
  void Execute() override {
    try {
      const System system;
      api_version_ = system.api_version();
      max_vcpus_ = system.max_vcpus();
    } catch (...) {
      error_ = std::current_exception();
    }
  }

  void OnOK() override {
    if (error_) {
      deferred_.Reject(to_js(Env(), error_));
      return;
    }
    Napi::Object probe = Napi::Object::New(Env());
    probe.Set("apiVersion", api_version_);
    probe.Set("maxVcpus", max_vcpus_);
    deferred_.Resolve(probe);
  }

 private:
  Napi::Promise::Deferred deferred_;
  std::exception_ptr error_;
  int api_version_ = 0;
  unsigned max_vcpus_ = 0;
};

Napi::Value probe(const Napi::CallbackInfo& info) {
  auto worker = std::make_unique<ProbeWorker>(info.Env());
  const Napi::Promise promise = worker->promise();
  worker.release()->Queue();  // deletes itself
  return promise;
}

Napi::Value create_machine(const Napi::CallbackInfo& info) {
  try {
    MachineSpec spec = machine_spec(info[0]);
    if (!info[1].IsFunction()) {
      throw Error("createMachine", EINVAL, "onEvent is not a function");
    }
    Environment& environment = environment_of(info);
    const auto session = std::make_shared<Session>(environment, std::move(spec));
    environment.add(session);
    return session->create(info[1].As<Napi::Function>());
  } catch (const Error&) {
    const auto deferred = Napi::Promise::Deferred::New(info.Env());
    deferred.Reject(to_js(info.Env(), std::current_exception()));
    return deferred.Promise();
  }
}

Napi::Value counts(const Napi::CallbackInfo& info) {
  Napi::Object counts = Napi::Object::New(info.Env());
  counts.Set("machines", live_machines.load());
  counts.Set("threads", live_threads.load());
  counts.Set("checkpoints", live_checkpoints.load());
  counts.Set("rawSessions", live_raw_sessions.load());
  return counts;
}

void set_parent_death_signal(const Napi::CallbackInfo& info) {
  std::optional<Error> error;
  try {
    const std::uint64_t signal =
        integer_of(info[0], "setParentDeathSignal", "the signal", 0, NSIG - 1);
    if (::prctl(PR_SET_PDEATHSIG, static_cast<unsigned long>(signal), 0, 0, 0) == 0) return;
    error.emplace("prctl", errno, "PR_SET_PDEATHSIG");
  } catch (const Error& e) {
    error.emplace(e);
  }
  const Napi::Value value = to_js(info.Env(), std::make_exception_ptr(*error));
  throw Napi::Error(info.Env(), value);
}

Napi::Object initialize(Napi::Env env, Napi::Object exports) {
  // Lives as long as the environment; Node deletes it after the cleanup hooks ran.
  env.SetInstanceData(new Environment(env, exports));
  exports.Set("version", KVITEST_VERSION);
  exports.Set("probe", Napi::Function::New(env, probe, "probe"));
  exports.Set("createMachine", Napi::Function::New(env, create_machine, "createMachine"));
  exports.Set("loadCheckpoint", Napi::Function::New(env, CheckpointObject::load, "loadCheckpoint"));
  exports.Set("openRaw", Napi::Function::New(env, RawObject::open, "openRaw"));
  exports.Set("counts", Napi::Function::New(env, counts, "counts"));
  exports.Set("setParentDeathSignal",
              Napi::Function::New(env, set_parent_death_signal, "setParentDeathSignal"));
  export_kernel_state(env, exports);
  return exports;
}

}  // namespace
}  // namespace kvitest

namespace {

Napi::Object initialize_module(Napi::Env env, Napi::Object exports) {
  return kvitest::initialize(env, exports);
}

}  // namespace

NODE_API_MODULE(kvitest, initialize_module)
