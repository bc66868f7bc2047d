#include "native/binding/session.h"

#include <utility>

#include "native/binding/convert.h"
#include "native/binding/machine_object.h"

namespace kvitest {
namespace {

// What a callback of the user threw is an uncaught exception of the process, never ours to swallow;
// and it must not keep the other events from being delivered.
void report(Napi::Env env, const Napi::Error& error) {
  napi_fatal_exception(env, error.Value());
}

}  // namespace

Session::Session(Environment& environment, MachineSpec spec)
    : environment_(&environment),
      wakeup_(environment.wakeup()),
      number_(environment.next_number()),
      machine_(std::move(spec), owner()) {}

Session::Session(Environment& environment, std::shared_ptr<const Checkpoint> origin,
                 ForkOptions options)
    : environment_(&environment),
      wakeup_(environment.wakeup()),
      number_(environment.next_number()),
      machine_(std::move(origin), std::move(options), owner()) {}

Machine::Owner Session::owner() {
  return {[this] { wake(); }, [this] { post([this](Napi::Env env) { on_released(env); }); }};
}

void Session::on_released(Napi::Env env) {
  machine_.join();  // the loop's thread posted this as its last action: nothing to wait for
  released_ = true;
  for (const Reply& reply : std::exchange(when_released_, {})) reply(env);
}

void Session::wake() {
  if (!woken_.exchange(true)) wakeup_->wake(number_);
}

void Session::post(Reply reply) {
  {
    const std::lock_guard lock(mutex_);
    replies_.push_back(std::move(reply));
  }
  wake();
}

Session::Operation Session::begin() {
  const Napi::Env env = environment_->env();
  const std::uint64_t operation = ++last_operation_;
  Pending pending{Napi::Promise::Deferred::New(env), {}};
  const Napi::Promise promise = pending.deferred.Promise();
  pending_.emplace(operation, std::move(pending));
  wakeup_->hold(env);
  if (object_ != nullptr) object_->Ref();
  return {operation, promise};
}

void Session::settle(std::uint64_t operation, std::exception_ptr error, Answer answer) {
  post([this, operation, error = std::move(error), answer = std::move(answer)](Napi::Env env) {
    finish(env, operation, error, answer);
  });
}

void Session::settle_when_released(std::uint64_t operation, std::exception_ptr error,
                                   Answer answer) {
  post([this, operation, error = std::move(error), answer = std::move(answer)](Napi::Env env) {
    if (released_) {
      finish(env, operation, error, answer);
      return;
    }
    when_released_.push_back([this, operation, error, answer](Napi::Env later) {
      finish(later, operation, error, answer);
    });
  });
}

void Session::finish(Napi::Env env, std::uint64_t operation, const std::exception_ptr& error,
                     const Answer& answer) {
  const auto found = pending_.find(operation);
  if (found == pending_.end()) return;
  const Napi::Promise::Deferred deferred = found->second.deferred;
  pending_.erase(found);
  wakeup_->release(env);
  if (object_ != nullptr) object_->Unref();
  if (error) {
    deferred.Reject(to_js(env, error));
  } else {
    deferred.Resolve(answer ? answer(env) : env.Undefined());
  }
}

Napi::Promise Session::create(Napi::Function on_event) {
  const Operation operation = begin();
  pending_.at(operation.number).on_event = Napi::Persistent(on_event);
  machine_.create([this, number = operation.number](std::exception_ptr error) {
    if (error) {
      settle_when_released(number, std::move(error));
    } else {
      post([this, number](Napi::Env env) { make_object(env, number); });
    }
  });
  return operation.promise;
}

void Session::make_object(Napi::Env env, std::uint64_t operation) {
  const Napi::Function on_event = pending_.at(operation).on_event.Value();
  environment_->constructing = shared_from_this();
  const Napi::Object object = environment_->machine_class.New({on_event});
  environment_->constructing = nullptr;
  object_->Ref();  // begin() had no object yet to keep; finish() lets go of it
  finish(env, operation, nullptr, [&object](Napi::Env) { return object; });
}

void Session::detach() {
  object_ = nullptr;
  if (environment_ == nullptr) return;
  // Nobody can stop it any more; a listener of a running machine still hears of its end.
  machine_.stop([](const MachineEnd&) {});
  forget_if_done();
}

void Session::hold_while_running() {
  if (holds_while_running_ || ended_ || environment_ == nullptr) return;
  holds_while_running_ = true;
  wakeup_->hold(environment_->env());
  listener_ = Napi::Persistent(object_->listener());
}

void Session::release_hold() {
  if (!std::exchange(holds_while_running_, false)) return;
  listener_.Reset();
  wakeup_->release(environment_->env());
}

void Session::drain(Napi::Env env) {
  const Napi::HandleScope scope(env);
  woken_ = false;
  std::vector<Reply> replies;
  {
    const std::lock_guard lock(mutex_);
    replies = std::exchange(replies_, {});
  }
  // After the replies were taken, so that every event from before a reply is delivered before it.
  for (const Event& event : machine_.take_events()) deliver(env, event);
  for (const Reply& reply : replies) {
    try {
      reply(env);
    } catch (const Napi::Error& error) {
      report(env, error);
    }
  }
  forget_if_done();
}

void Session::deliver(Napi::Env env, const Event& event) {
  const Napi::HandleScope scope(env);
  try {
    const Napi::Function listener = current_listener();
    if (!listener.IsEmpty()) listener.Call({to_js(env, event)});
  } catch (const Napi::Error& error) {
    report(env, error);
  }
  if (std::holds_alternative<EndEvent>(event)) {
    ended_ = true;
    release_hold();
  }
}

Napi::Function Session::current_listener() const {
  if (!listener_.IsEmpty()) return listener_.Value();
  return object_ == nullptr ? Napi::Function() : object_->listener();
}

void Session::forget_if_done() {
  if (released_ && object_ == nullptr && pending_.empty() && environment_ != nullptr) {
    environment_->remove(number_);
  }
}

void Session::abandon() {
  machine_.join();
  // References go while the environment is still there.
  pending_.clear();
  listener_.Reset();
  environment_ = nullptr;
}

}  // namespace kvitest
