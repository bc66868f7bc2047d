// What a lab that was restored must tell its own kernel: new entropy and the time of day.
#pragma once

#include <napi.h>

namespace kvitest {

// addEntropy and setClock of src/native/contract.ts.
void export_kernel_state(Napi::Env env, Napi::Object exports);

}  // namespace kvitest
