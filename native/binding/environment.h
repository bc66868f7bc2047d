// What the addon holds for one Node environment (the main thread or a worker): the way onto its
// thread, and its live machines and raw sessions.
//
// The rules of life, each where it is enforced:
// - Native threads reach JS through one thread-safe function for the environment; they own nothing
// of JS and
//   no session, they only know a session's number (a Resident's).
// - The thread-safe function is referenced only while a promise is pending or a machine runs, so an
// idle addon
//   keeps no process alive.
// - The cleanup hook closes that way, stops every resident and joins its threads, before Node takes
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
class RawResident;
struct Checkpoint;
class Environment;

// What native threads work for in an environment, known to them by its number only. JS thread.
class Resident {
 public:
  virtual ~Resident() = default;
  virtual std::uint64_t number() const = 0;
  // Gives JS what there is: somebody called wake() with its number.
  virtual void drain(Napi::Env env) = 0;
  // The environment ends. All are told by stop(), which waits for nothing, then each by abandon(),
  // which waits for its threads and drops everything that belongs to the environment.
  virtual void stop() = 0;
  virtual void abandon() = 0;
};

// How native threads wake the JS thread.
class Wakeup {
 public:
  explicit Wakeup(Environment& environment);

  // Any thread: has the resident with this number drained on the JS thread.
  void wake(std::uint64_t resident);
  // The environment ends: from here on wake() does nothing. JS thread.
  void close();
  // Keeps the event loop alive, or lets it go. JS thread.
  void hold(Napi::Env env);
  void release(Napi::Env env);

 private:
  static void call_js(Napi::Env env, Napi::Function, Environment* environment, void* resident);
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

  void add(std::shared_ptr<Resident> resident);
  void remove(std::uint64_t resident) { residents_.erase(resident); }
  std::shared_ptr<Resident> find(std::uint64_t resident) const;
  std::uint64_t next_number() { return ++last_number_; }

  // The class of machines, made once.
  Napi::FunctionReference machine_class;
  // Only during our own `new`: JS cannot make machines by itself.
  std::shared_ptr<Session> constructing;
  // The same for checkpoints.
  Napi::FunctionReference checkpoint_class;
  std::shared_ptr<const Checkpoint> constructing_checkpoint;
  // The same for raw access to KVM.
  Napi::FunctionReference raw_class;
  std::shared_ptr<RawResident> constructing_raw;

 private:
  void shut_down();

  Napi::Env env_;
  std::shared_ptr<Wakeup> wakeup_;
  std::map<std::uint64_t, std::shared_ptr<Resident>> residents_;
  std::uint64_t last_number_ = 0;
};

}  // namespace kvitest
