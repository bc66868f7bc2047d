// What the addon holds for one Node environment (the main thread or a worker): the way onto its
// thread, and its live machines.
//
// The rules of life, each where it is enforced:
// - Native threads reach JS through one thread-safe function for the environment; they own nothing
// of JS and
//   no session, they only know a session's number.
// - The thread-safe function is referenced only while a promise is pending or a machine runs, so an
// idle addon
//   keeps no process alive.
// - The cleanup hook closes that way, stops every machine and joins its threads, before Node takes
// the
//   environment down: Node may unload the addon or free the environment right after.
#pragma once

#include <napi.h>

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>

namespace kvitest {

class Session;
struct Checkpoint;
class Environment;

// How native threads wake the JS thread.
class Wakeup {
 public:
  explicit Wakeup(Environment& environment);

  // Any thread: has the session with this number drained on the JS thread.
  void wake(std::uint64_t session);
  // The environment ends: from here on wake() does nothing. JS thread.
  void close();
  // Keeps the event loop alive, or lets it go. JS thread.
  void hold(Napi::Env env);
  void release(Napi::Env env);

 private:
  static void call_js(Napi::Env env, Napi::Function, Environment* environment, void* session);
  using Function = Napi::TypedThreadSafeFunction<Environment, void, call_js>;

  std::mutex mutex_;  // a native thread must not be inside the call while close() returns
  bool closed_ = false;
  int holds_ = 0;
  Function function_;
};

class Environment {
 public:
  Environment(Napi::Env env, Napi::Object exports);
  ~Environment();

  Napi::Env env() const { return env_; }
  const std::shared_ptr<Wakeup>& wakeup() const { return wakeup_; }

  std::uint64_t add(std::shared_ptr<Session> session);
  void remove(std::uint64_t session) { sessions_.erase(session); }
  std::shared_ptr<Session> find(std::uint64_t session) const;
  std::uint64_t next_number() { return ++last_number_; }

  // The class of machines, made once.
  Napi::FunctionReference machine_class;
  // Only during our own `new`: JS cannot make machines by itself.
  std::shared_ptr<Session> constructing;
  // The same for checkpoints.
  Napi::FunctionReference checkpoint_class;
  std::shared_ptr<const Checkpoint> constructing_checkpoint;

 private:
  void shut_down();

  Napi::Env env_;
  std::shared_ptr<Wakeup> wakeup_;
  std::map<std::uint64_t, std::shared_ptr<Session>> sessions_;
  std::uint64_t last_number_ = 0;
};

}  // namespace kvitest
