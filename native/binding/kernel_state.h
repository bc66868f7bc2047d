// What labs need of this machine's clocks and of their own kernel: the speed of the TSC, and after
// a restore new entropy and the time of day.
#pragma once

#include <napi.h>

namespace kvitest {

// readTsc, addEntropy and setClock of src/native/contract.ts.
void export_kernel_state(Napi::Env env, Napi::Object exports);

}  // namespace kvitest
