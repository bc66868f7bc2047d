// One machine as its environment sees it: promises that wait for it and events that go to its
// owner. All of it on the JS thread, but for post() and the machine itself.
#pragma once

#include <napi.h>

#include <atomic>
#include <cstdint>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "native/binding/environment.h"
#include "native/machine/machine.h"

namespace kvitest {

class MachineObject;

class Session : public Resident, public std::enable_shared_from_this<Session> {
 public:
  // Makes the answer of an operation that succeeded; null for undefined.
  using Answer = std::function<Napi::Value(Napi::Env)>;

  Session(Environment& environment, MachineSpec spec);
  Session(Environment& environment, std::shared_ptr<const Checkpoint> origin, ForkOptions options);

  std::uint64_t number() const override { return number_; }
  Machine& machine() { return machine_; }

  // A promise, pending until settle() is called with the operation's number. While it is, the
  // machine's object is not collected and the event loop stays alive.
  struct Operation {
    std::uint64_t number;
    Napi::Promise promise;
  };
  Operation begin();
  // From any thread: answers on the JS thread, after every event that the machine had before.
  void settle(std::uint64_t operation, std::exception_ptr error, Answer answer = {});

  // As settle(), but not before the machine's last thread is joined.
  void settle_when_released(std::uint64_t operation, std::exception_ptr error, Answer answer = {});

  // createMachine(): answers with the machine's object.
  Napi::Promise create(Napi::Function on_event);

  // The machine's JS object; it finalizes itself by detach().
  void attach(MachineObject* object) { object_ = object; }
  void detach();
  // The machine was started: until it ends the event loop stays alive, and so does the listener
  // with whatever waits for what it hears; an `await` for an event is reachable from nowhere else.
  void hold_while_running();

  void drain(Napi::Env env) override;
  void stop() override {
    machine_.stop([](const MachineEnd&) {});
  }
  void abandon() override;

 private:
  struct Pending {
    Napi::Promise::Deferred deferred;
    Napi::FunctionReference on_event;  // createMachine() only
  };
  using Reply = std::function<void(Napi::Env)>;

  Machine::Owner owner();
  void post(Reply reply);
  void wake();
  void deliver(Napi::Env env, const Event& event);
  // Empty when nobody listens any more.
  Napi::Function current_listener() const;
  void finish(Napi::Env env, std::uint64_t operation, const std::exception_ptr& error,
              const Answer& answer);
  void make_object(Napi::Env env, std::uint64_t operation);
  void on_released(Napi::Env env);
  void release_hold();
  void forget_if_done();

  Environment* environment_;  // null once abandoned
  const std::shared_ptr<Wakeup> wakeup_;
  const std::uint64_t number_;
  MachineObject* object_ = nullptr;
  std::map<std::uint64_t, Pending> pending_;
  std::uint64_t last_operation_ = 0;
  bool holds_while_running_ = false;
  Napi::FunctionReference listener_;  // while it runs
  bool ended_ = false;
  bool released_ = false;
  std::vector<Reply> when_released_;

  std::mutex mutex_;
  std::vector<Reply> replies_;
  std::atomic<bool> woken_{false};

  Machine machine_;  // last: its threads use the above
};

}  // namespace kvitest
