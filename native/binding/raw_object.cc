#include "native/binding/raw_object.h"

#include <cerrno>
#include <exception>
#include <map>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "native/binding/convert.h"
#include "native/binding/raw_convert.h"
#include "native/counts.h"
#include "native/error.h"
#include "native/kvm/raw/session.h"

namespace kvitest {

// The session as its environment sees it: promises that wait for its calls.
class RawResident : public Resident, public std::enable_shared_from_this<RawResident> {
 public:
  explicit RawResident(Environment& environment)
      : environment_(&environment),
        wakeup_(environment.wakeup()),
        number_(environment.next_number()) {}

  Napi::Promise call(raw::Call call);
  Napi::Promise close();
  void attach(RawObject* object) { object_ = object; }
  // The JS object is gone: nobody can call any more.
  void detach();

  std::uint64_t number() const override { return number_; }
  void drain(Napi::Env env) override;
  void stop() override {}
  void abandon() override;

 private:
  struct Answer {
    std::uint64_t call;
    raw::Result result;
    std::exception_ptr error;
  };
  class Closing;

  Environment* environment_;  // null once abandoned
  const std::shared_ptr<Wakeup> wakeup_;
  const std::uint64_t number_;
  RawObject* object_ = nullptr;
  bool closed_ = false;
  std::optional<Counted> counted_{std::in_place, live_raw_sessions};
  std::uint64_t last_call_ = 0;
  std::map<std::uint64_t, Napi::Promise::Deferred> pending_;

  std::mutex mutex_;
  std::vector<Answer> answers_;

  raw::Session session_;  // last: its threads use the above
};

// Closing waits for threads and for KVM: on a thread of libuv's pool.
class RawResident::Closing : public Napi::AsyncWorker {
 public:
  Closing(Napi::Env env, std::shared_ptr<RawResident> resident)
      : Napi::AsyncWorker(env, "kvitest raw KVM access"),
        deferred_(Napi::Promise::Deferred::New(env)),
        resident_(std::move(resident)) {}

  Napi::Promise promise() const { return deferred_.Promise(); }

 protected:
  void Execute() override { resident_->session_.close(); }
  void OnOK() override {
    // The calls that it ended have answers by now, which come first.
    resident_->drain(Env());
    resident_->closed_ = true;
    resident_->counted_.reset();
    if (resident_->environment_ != nullptr) resident_->environment_->remove(resident_->number_);
    deferred_.Resolve(Env().Undefined());
  }

 private:
  Napi::Promise::Deferred deferred_;
  std::shared_ptr<RawResident> resident_;
};

Napi::Promise RawResident::call(raw::Call call) {
  const Napi::Env env = environment_->env();
  const std::uint64_t number = ++last_call_;
  // Its own number and weak: an answer may come when nobody is there any more.
  session_.submit(std::move(call),
                  [self = weak_from_this(), number](raw::Result result, std::exception_ptr error) {
                    const std::shared_ptr<RawResident> resident = self.lock();
                    if (resident == nullptr) return;
                    {
                      const std::lock_guard lock(resident->mutex_);
                      resident->answers_.push_back({number, std::move(result), std::move(error)});
                    }
                    resident->wakeup_->wake(resident->number_);
                  });
  wakeup_->hold(env);
  object_->Ref();  // not collected while a call of it is pending
  const auto deferred = Napi::Promise::Deferred::New(env);
  pending_.emplace(number, deferred);
  return deferred.Promise();
}

Napi::Promise RawResident::close() {
  auto worker = std::make_unique<Closing>(environment_->env(), shared_from_this());
  const Napi::Promise promise = worker->promise();
  worker.release()->Queue();  // deletes itself
  return promise;
}

void RawResident::detach() {
  object_ = nullptr;
  // Once closed it is not the environment's any more, which may be gone.
  if (environment_ == nullptr || closed_) return;
  const Napi::HandleScope scope(environment_->env());
  close();
}

void RawResident::drain(Napi::Env env) {
  const Napi::HandleScope scope(env);
  std::vector<Answer> answers;
  {
    const std::lock_guard lock(mutex_);
    answers = std::exchange(answers_, {});
  }
  for (const Answer& answer : answers) {
    const auto found = pending_.find(answer.call);
    if (found == pending_.end()) continue;
    const Napi::Promise::Deferred deferred = found->second;
    pending_.erase(found);
    wakeup_->release(env);
    if (object_ != nullptr) object_->Unref();
    if (answer.error) {
      deferred.Reject(to_js(env, answer.error));
    } else {
      deferred.Resolve(to_js(env, answer.result));
    }
  }
}

void RawResident::abandon() {
  session_.close();
  counted_.reset();
  pending_.clear();
  environment_ = nullptr;
}

Napi::Function RawObject::define(Napi::Env env, Environment& environment) {
  return DefineClass(env, "NativeRaw",
                     {
                         InstanceMethod<&RawObject::call>("call"),
                         InstanceMethod<&RawObject::close>("close"),
                     },
                     &environment);
}

Napi::Value RawObject::open(const Napi::CallbackInfo& info) {
  return promised(info.Env(), [&] {
    Environment& environment = *info.Env().GetInstanceData<Environment>();
    const auto resident = std::make_shared<RawResident>(environment);
    environment.add(resident);
    environment.constructing_raw = resident;
    const Napi::Object object = environment.raw_class.New({});
    environment.constructing_raw = nullptr;
    const auto deferred = Napi::Promise::Deferred::New(info.Env());
    deferred.Resolve(object);
    return deferred.Promise();
  });
}

RawObject::RawObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<RawObject>(info) {
  auto& environment = *static_cast<Environment*>(info.Data());
  if (environment.constructing_raw == nullptr) {
    throw Napi::TypeError::New(info.Env(), "a NativeRaw is made by openRaw() only");
  }
  resident_ = environment.constructing_raw;
  resident_->attach(this);
}

RawObject::~RawObject() {
  if (resident_ != nullptr) resident_->detach();
}

Napi::Value RawObject::call(const Napi::CallbackInfo& info) {
  return promised(info.Env(), [&] { return resident_->call(raw_call(info[0])); });
}

Napi::Value RawObject::close(const Napi::CallbackInfo&) {
  return resident_->close();
}

}  // namespace kvitest
