// Model-specific registers that every vCPU starts with.
#pragma once

#include <cstdint>
#include <vector>

#include "native/kvm/registers.h"

namespace kvitest {

// As firmware leaves them. Set after CPUID: KVM accepts some only when CPUID announces the feature.
std::vector<MsrEntry> boot_msrs();

}  // namespace kvitest
