// vCPU state as plain data: what boot/ fills in and inspection reads, without linux/kvm.h.
#pragma once

#include <cstdint>

namespace kvitest {

struct GeneralRegisters {
  std::uint64_t rax = 0, rbx = 0, rcx = 0, rdx = 0, rsi = 0, rdi = 0, rsp = 0, rbp = 0;
  std::uint64_t r8 = 0, r9 = 0, r10 = 0, r11 = 0, r12 = 0, r13 = 0, r14 = 0, r15 = 0;
  std::uint64_t rip = 0;
  std::uint64_t rflags = 2;  // bit 1 is always set
};

// A segment register with its hidden part; field names follow the descriptor (Intel SDM 3, 3.4.5).
struct SegmentRegister {
  std::uint64_t base = 0;
  std::uint32_t limit = 0;  // in bytes, already scaled by granularity
  std::uint16_t selector = 0;
  std::uint8_t type = 0;  // 4 bits; for code and data bit 0 is "accessed" and must be set for VMX
  std::uint8_t present = 0, dpl = 0, db = 0, s = 0, l = 0, g = 0, avl = 0;
  std::uint8_t unusable = 0;
};

struct DescriptorTable {
  std::uint64_t base = 0;
  std::uint16_t limit = 0;
};

// apic_base 0 means: leave what KVM reports after reset.
struct SpecialRegisters {
  SegmentRegister cs, ds, es, fs, gs, ss, tr, ldt;
  DescriptorTable gdt, idt;
  std::uint64_t cr0 = 0, cr2 = 0, cr3 = 0, cr4 = 0, cr8 = 0, efer = 0, apic_base = 0;
};

struct FpuState {
  std::uint16_t fcw = 0x37f;     // state after FNINIT
  std::uint32_t mxcsr = 0x1f80;  // state after reset
};

struct CpuidEntry {
  std::uint32_t function = 0;
  std::uint32_t index = 0;
  std::uint32_t flags = 0;  // kCpuidSignificantIndex: index selects a subleaf
  std::uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
  template <typename Archive>
  void fields(Archive& archive) {
    archive(function, index, flags, eax, ebx, ecx, edx);
  }
};

// KVM_CPUID_FLAG_SIGNIFCANT_INDEX
inline constexpr std::uint32_t kCpuidSignificantIndex = 1;

struct MsrEntry {
  std::uint32_t index = 0;
  std::uint64_t value = 0;
  template <typename Archive>
  void fields(Archive& archive) {
    archive(index, value);
  }
};

}  // namespace kvitest
