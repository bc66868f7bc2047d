// NativeMachine of src/native/contract.ts: a JS object around a session.
//
// Before start() and after the end the listener hangs on the JS object itself, not on the session:
// a listener usually reaches its machine, and through a strong native reference the two would keep
// each other alive for ever. While the machine runs the session holds the listener, not the object:
// an object that even its listener does not reach is collected, which stops the machine.
#pragma once

#include <napi.h>

#include <memory>

#include "native/binding/environment.h"
#include "native/binding/session.h"

namespace kvitest {

class MachineObject : public Napi::ObjectWrap<MachineObject> {
 public:
  static Napi::Function define(Napi::Env env, Environment& environment);

  // `new` by Environment::constructing only. info[0]: the owner's callback.
  explicit MachineObject(const Napi::CallbackInfo& info);
  ~MachineObject() override;

  // The function given to createMachine(); empty when the object is collected and not yet
  // finalized.
  Napi::Function listener() const;

 private:
  Napi::Value start(const Napi::CallbackInfo& info);
  Napi::Value stop(const Napi::CallbackInfo& info);
  Napi::Value write(const Napi::CallbackInfo& info);
  void consumed(const Napi::CallbackInfo& info);
  Napi::Value set_port_open(const Napi::CallbackInfo& info);
  Napi::Value resize(const Napi::CallbackInfo& info);
  Napi::Value inspect(const Napi::CallbackInfo& info);
  Napi::Value private_memory(const Napi::CallbackInfo& info);
  Napi::Value read_disk(const Napi::CallbackInfo& info);
  Napi::Value write_disk(const Napi::CallbackInfo& info);
  Napi::Value resize_disk(const Napi::CallbackInfo& info);
  Napi::Value disk_report(const Napi::CallbackInfo& info);
  Napi::Value nmi(const Napi::CallbackInfo& info);
  Napi::Value send_break(const Napi::CallbackInfo& info);
  Napi::Value fault(const Napi::CallbackInfo& info);
  Napi::Value keep_end(const Napi::CallbackInfo& info);
  Napi::Value set_link(const Napi::CallbackInfo& info);
  Napi::Value unplug(const Napi::CallbackInfo& info);
  Napi::Value vsock_listen(const Napi::CallbackInfo& info);
  Napi::Value vsock_connect(const Napi::CallbackInfo& info);
  Napi::Value vsock_close(const Napi::CallbackInfo& info);
  Napi::Value attach_lun(const Napi::CallbackInfo& info);
  Napi::Value detach_lun(const Napi::CallbackInfo& info);
  Napi::Value balloon(const Napi::CallbackInfo& info);
  Napi::Value checkpoint(const Napi::CallbackInfo& info);
  Napi::Value reset(const Napi::CallbackInfo& info);

  // A promise of what `call` starts; what `call` throws rejects it.
  Napi::Value promise(const std::function<void(std::uint64_t operation)>& call);
  // A Done that settles the operation with undefined.
  Machine::Done settles(std::uint64_t operation);
  std::function<void(std::uint64_t, std::exception_ptr)> settles_bytes(std::uint64_t operation);

  std::shared_ptr<Session> session_;
};

}  // namespace kvitest
