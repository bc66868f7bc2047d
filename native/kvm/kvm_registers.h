// Registers between KVM's structures and ours.
#pragma once

#include <linux/kvm.h>

#include "native/kvm/registers.h"

namespace kvitest {

kvm_segment to_kvm(const SegmentRegister& s);
SegmentRegister from_kvm(const kvm_segment& k);
kvm_dtable to_kvm(const DescriptorTable& t);
DescriptorTable from_kvm(const kvm_dtable& k);
GeneralRegisters from_kvm(const kvm_regs& k);
SpecialRegisters from_kvm(const kvm_sregs& k);

}  // namespace kvitest
