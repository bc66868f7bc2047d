// Makes one call, on the thread it is meant for.
#pragma once

#include "native/kvm/raw/call.h"
#include "native/kvm/raw/objects.h"
#include "native/kvm/raw/thread.h"

namespace kvitest::raw {

// A system call that fails is a Result. Throws Error for a call that could not be made: a handle
// that names nothing, a size beyond a limit, a range outside its mapping.
Result execute(Job& job, Objects& objects, Threads& threads);

}  // namespace kvitest::raw
