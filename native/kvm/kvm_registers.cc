#include "native/kvm/kvm_registers.h"

namespace kvitest {

kvm_segment to_kvm(const SegmentRegister& s) {
  kvm_segment k{};
  k.base = s.base;
  k.limit = s.limit;
  k.selector = s.selector;
  k.type = s.type;
  k.present = s.present;
  k.dpl = s.dpl;
  k.db = s.db;
  k.s = s.s;
  k.l = s.l;
  k.g = s.g;
  k.avl = s.avl;
  k.unusable = s.unusable;
  return k;
}

SegmentRegister from_kvm(const kvm_segment& k) {
  SegmentRegister s;
  s.base = k.base;
  s.limit = k.limit;
  s.selector = k.selector;
  s.type = k.type;
  s.present = k.present;
  s.dpl = k.dpl;
  s.db = k.db;
  s.s = k.s;
  s.l = k.l;
  s.g = k.g;
  s.avl = k.avl;
  s.unusable = k.unusable;
  return s;
}

kvm_dtable to_kvm(const DescriptorTable& t) {
  kvm_dtable k{};
  k.base = t.base;
  k.limit = t.limit;
  return k;
}

DescriptorTable from_kvm(const kvm_dtable& k) {
  return {k.base, k.limit};
}

GeneralRegisters from_kvm(const kvm_regs& k) {
  GeneralRegisters r;
  r.rax = k.rax;
  r.rbx = k.rbx;
  r.rcx = k.rcx;
  r.rdx = k.rdx;
  r.rsi = k.rsi;
  r.rdi = k.rdi;
  r.rsp = k.rsp;
  r.rbp = k.rbp;
  r.r8 = k.r8;
  r.r9 = k.r9;
  r.r10 = k.r10;
  r.r11 = k.r11;
  r.r12 = k.r12;
  r.r13 = k.r13;
  r.r14 = k.r14;
  r.r15 = k.r15;
  r.rip = k.rip;
  r.rflags = k.rflags;
  return r;
}

SpecialRegisters from_kvm(const kvm_sregs& k) {
  SpecialRegisters s;
  s.cs = from_kvm(k.cs);
  s.ds = from_kvm(k.ds);
  s.es = from_kvm(k.es);
  s.fs = from_kvm(k.fs);
  s.gs = from_kvm(k.gs);
  s.ss = from_kvm(k.ss);
  s.tr = from_kvm(k.tr);
  s.ldt = from_kvm(k.ldt);
  s.gdt = from_kvm(k.gdt);
  s.idt = from_kvm(k.idt);
  s.cr0 = k.cr0;
  s.cr2 = k.cr2;
  s.cr3 = k.cr3;
  s.cr4 = k.cr4;
  s.cr8 = k.cr8;
  s.efer = k.efer;
  s.apic_base = k.apic_base;
  return s;
}

}  // namespace kvitest
