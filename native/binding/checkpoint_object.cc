#include "native/binding/checkpoint_object.h"

#include <cerrno>
#include <exception>
#include <functional>
#include <string>
#include <utility>

#include "native/binding/convert.h"
#include "native/binding/session.h"
#include "native/error.h"
#include "native/machine/core_dump.h"

namespace kvitest {
namespace {

// File access, which blocks, on a thread of libuv's pool.
class FileWorker : public Napi::AsyncWorker {
 public:
  // work: null, or the checkpoint that answers.
  using Work = std::function<std::shared_ptr<const Checkpoint>()>;

  FileWorker(Napi::Env env, Work work)
      : Napi::AsyncWorker(env, "kvitest checkpoint"),
        deferred_(Napi::Promise::Deferred::New(env)),
        work_(std::move(work)) {}

  Napi::Promise promise() const { return deferred_.Promise(); }

 protected:
  void Execute() override {
    try {
      checkpoint_ = work_();
    } catch (...) {
      error_ = std::current_exception();
    }
  }

  void OnOK() override {
    if (error_) {
      deferred_.Reject(to_js(Env(), error_));
    } else if (checkpoint_ == nullptr) {
      deferred_.Resolve(Env().Undefined());
    } else {
      deferred_.Resolve(CheckpointObject::make(Env(), std::move(checkpoint_)));
    }
  }

 private:
  Napi::Promise::Deferred deferred_;
  Work work_;
  std::shared_ptr<const Checkpoint> checkpoint_;
  std::exception_ptr error_;
};

Napi::Promise run(Napi::Env env, FileWorker::Work work) {
  auto worker = std::make_unique<FileWorker>(env, std::move(work));
  const Napi::Promise promise = worker->promise();
  worker.release()->Queue();  // deletes itself
  return promise;
}

}  // namespace

Napi::Function CheckpointObject::define(Napi::Env env, Environment& environment) {
  return DefineClass(env, "NativeCheckpoint",
                     {
                         InstanceMethod<&CheckpointObject::fork>("fork"),
                         InstanceMethod<&CheckpointObject::save>("save"),
                         InstanceMethod<&CheckpointObject::save_core>("saveCore"),
                         InstanceMethod<&CheckpointObject::release>("release"),
                     },
                     &environment);
}

Napi::Object CheckpointObject::make(Napi::Env env, std::shared_ptr<const Checkpoint> checkpoint) {
  Environment& environment = *env.GetInstanceData<Environment>();
  environment.constructing_checkpoint = std::move(checkpoint);
  const Napi::Object object = environment.checkpoint_class.New({});
  environment.constructing_checkpoint = nullptr;
  return object;
}

CheckpointObject::CheckpointObject(const Napi::CallbackInfo& info)
    : Napi::ObjectWrap<CheckpointObject>(info) {
  auto& environment = *static_cast<Environment*>(info.Data());
  if (environment.constructing_checkpoint == nullptr) {
    throw Napi::TypeError::New(
        info.Env(), "a NativeCheckpoint is made by checkpoint() and loadCheckpoint() only");
  }
  checkpoint_ = environment.constructing_checkpoint;
  Napi::Object facts = Napi::Object::New(info.Env());
  facts.Set("spec", to_js(info.Env(), checkpoint_->machine.spec));
  facts.Set("bytes", static_cast<double>(checkpoint_->bytes_held()));
  info.This().As<Napi::Object>().DefineProperty(
      Napi::PropertyDescriptor::Value("info", facts, napi_enumerable));
}

const std::shared_ptr<const Checkpoint>& CheckpointObject::held(const char* operation) const {
  if (checkpoint_ != nullptr) return checkpoint_;
  throw Error(operation, EINVAL, "the checkpoint was released");
}

Napi::Value CheckpointObject::fork(const Napi::CallbackInfo& info) {
  return promised(info.Env(), [&] {
    ForkOptions options = fork_options(info[0], "fork");
    if (!info[1].IsFunction()) throw Error("fork", EINVAL, "onEvent is not a function");
    Environment& environment = *info.Env().GetInstanceData<Environment>();
    const auto session = std::make_shared<Session>(environment, held("fork"), std::move(options));
    environment.add(session);
    return session->create(info[1].As<Napi::Function>());
  });
}

Napi::Value CheckpointObject::save(const Napi::CallbackInfo& info) {
  return promised(info.Env(), [&] {
    std::string path = string_of(info[0], "save checkpoint", "the path");
    return run(info.Env(),
               [checkpoint = held("save checkpoint"),
                path = std::move(path)]() -> std::shared_ptr<const Checkpoint> {
                 checkpoint->save(path);
                 return nullptr;
               });
  });
}

Napi::Value CheckpointObject::save_core(const Napi::CallbackInfo& info) {
  return promised(info.Env(), [&] {
    std::string path = string_of(info[0], "save core", "the path");
    return run(info.Env(),
               [checkpoint = held("save core"),
                path = std::move(path)]() -> std::shared_ptr<const Checkpoint> {
                 kvitest::save_core(*checkpoint, path);
                 return nullptr;
               });
  });
}

void CheckpointObject::release(const Napi::CallbackInfo&) {
  checkpoint_.reset();
}

Napi::Value CheckpointObject::load(const Napi::CallbackInfo& info) {
  return promised(info.Env(), [&] {
    std::string path = string_of(info[0], "load checkpoint", "the path");
    return run(info.Env(), [path = std::move(path)] { return Checkpoint::load(path); });
  });
}

}  // namespace kvitest
