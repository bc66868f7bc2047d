// The two clocks of a guest, its TSC and its kvmclock, which must keep their distance: Linux
// watches the one by the other and calls a clock unstable that is 125 microseconds off after half a
// second.
#pragma once

#include <cstdint>

#include "native/kvm/vcpu.h"
#include "native/kvm/vm.h"

namespace kvitest {

// Both at one moment.
struct ClockReading {
  std::uint64_t nanoseconds = 0;  // kvmclock (KVM_GET_CLOCK)
  std::uint64_t tsc = 0;          // as the vCPU's guest reads it
  std::uint32_t tsc_khz = 0;      // 0: unknown

  template <typename Archive>
  void fields(Archive& archive) {
    archive(nanoseconds, tsc, tsc_khz);
  }
};

// Throws Error.
ClockReading read_clocks(const Vm& vm, const Vcpu& vcpu);

// Sets the kvmclock so that it goes on from `saved` as far as the vCPU's TSC, which was set before,
// has come since then. Throws Error.
void set_kvmclock(Vm& vm, const Vcpu& vcpu, const ClockReading& saved);

}  // namespace kvitest
