// What a vCPU's guest, itself a hypervisor, has put into the processor (KVM_CAP_NESTED_STATE).
#pragma once

#include <cstddef>
#include <vector>

#include "native/kvm/vcpu.h"

namespace kvitest {

// struct kvm_nested_state as KVM gave it: a header of 128 bytes, then the VMCB or VMCS of the guest
// that runs. Empty on a host whose KVM does not nest. Throws Error.
std::vector<std::byte> nested_state(const Vcpu& vcpu);

// Takes the vCPU out of a nested guest that it runs, which must come before its special registers
// are set: they would become the nested guest's. Throws Error.
void leave_nested_guest(const Vcpu& vcpu);

// After the special registers, whose EFER says whether SVM is on, and before the general ones and
// the MSRs, which are those of the nested guest from here on. Throws Error.
void set_nested_state(const Vcpu& vcpu, const std::vector<std::byte>& state);

}  // namespace kvitest
