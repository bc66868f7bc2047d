#include "native/machine/vcpu_setup.h"

#include <cpuid.h>

#include <array>
#include <cstring>
#include <string>
#include <vector>

#include "native/boot/cpuid.h"
#include "native/boot/msrs.h"
#include "native/hex.h"

namespace kvitest {
namespace {

constexpr std::uint64_t kRflagsInterrupts = 1 << 9;

// SDM 3, table 11-1 and 11.5.1: LINT0 takes the PIC's interrupts, LINT1 is NMI, as firmware leaves
// them.
constexpr std::size_t kLapicIsr = 0x100;
constexpr std::size_t kLapicIrr = 0x200;
constexpr std::size_t kLapicLvt0 = 0x350;
constexpr std::size_t kLapicLvt1 = 0x360;
constexpr std::uint32_t kDeliveryModeMask = 0x700;
constexpr std::uint32_t kDeliveryModeNmi = 0x400;
constexpr std::uint32_t kDeliveryModeExtInt = 0x700;

void set_lapic_mode(Vcpu& vcpu, std::size_t offset, std::uint32_t mode) {
  const std::uint32_t value = vcpu.lapic_register(offset);
  vcpu.set_lapic_register(offset, (value & ~kDeliveryModeMask) | mode);
}

// QEMU's TCG emulates SVM without the XSETBV intercept (seen with 7.2): the processor takes a
// guest's XSETBV and KVM never hears of it, so CPUID leaf 0xd stays at the reset size (Linux then
// warns "XSAVE consistency problem") and KVM puts the reset XCR0 back on every entry. Where KVM
// believes from the start what the guest is going to write, all three agree. INIT keeps XCR0, so
// this holds for application processors too.
bool host_loses_xsetbv() {
  unsigned eax = 0;
  std::array<unsigned, 3> signature{};
  __cpuid(0x4000'0000, eax, signature[0], signature[1], signature[2]);
  return std::memcmp(signature.data(), "TCGTCGTCGTCG", sizeof signature) == 0;
}

std::uint64_t supported_xcr0(std::span<const CpuidEntry> supported) {
  for (const CpuidEntry& entry : supported) {
    if (entry.function == 0xd && entry.index == 0) {
      return entry.eax | static_cast<std::uint64_t>(entry.edx) << 32;
    }
  }
  return 0;
}

}  // namespace

BootState load_payload(const MachineSpec& spec, GuestMemory& memory, const AcpiPlatform& platform) {
  if (const auto* linux_payload = std::get_if<LinuxPayload>(&spec.payload)) {
    return load_linux(memory,
                      {linux_payload->kernel, linux_payload->initramfs, linux_payload->cmdline},
                      platform);
  }
  const auto& bare = std::get<BarePayload>(spec.payload);
  return load_bare(memory, bare.elf, bare.ring);
}

void set_up_vcpu(Vcpu& vcpu, const MachineSpec& spec, std::span<const CpuidEntry> supported_cpuid,
                 const BootState& boot) {
  // CPUID first: KVM checks CR4 and the MSRs against it, and it may not change once the vCPU has
  // run.
  const CpuTopology topology{vcpu.index(), spec.cpus, spec.irqchip};
  vcpu.set_cpuid(vcpu_cpuid(supported_cpuid, topology));

  // With a LAPIC the other processors wait for INIT and SIPI, which set their state; without one
  // every vCPU runs at once and needs it all.
  const bool starts_now = vcpu.index() == 0 || !spec.irqchip;
  if (starts_now) {
    vcpu.set_special_registers(boot.special);
    GeneralRegisters general = boot.general;
    if (!spec.irqchip && spec.cpus > 1) general.rdi = vcpu.index();
    vcpu.set_registers(general);
    vcpu.set_fpu(boot.fpu);
  }
  const std::uint64_t xcr0 = supported_xcr0(supported_cpuid);
  if (xcr0 != 0 && host_loses_xsetbv()) vcpu.set_xcr0(xcr0);
  const std::vector<MsrEntry> msrs = boot_msrs();
  vcpu.set_msrs(msrs);
  if (spec.irqchip) {
    set_lapic_mode(vcpu, kLapicLvt0, kDeliveryModeExtInt);
    set_lapic_mode(vcpu, kLapicLvt1, kDeliveryModeNmi);
  }
}

VcpuState sample_vcpu(const Vcpu& vcpu) {
  const GeneralRegisters r = vcpu.registers();
  const SpecialRegisters s = vcpu.special_registers();
  VcpuState state;
  state.index = vcpu.index();
  state.registers = {{"rip", hex(r.rip)}, {"rsp", hex(r.rsp)},   {"rflags", hex(r.rflags)},
                     {"rax", hex(r.rax)}, {"rbx", hex(r.rbx)},   {"rcx", hex(r.rcx)},
                     {"rdx", hex(r.rdx)}, {"rsi", hex(r.rsi)},   {"rdi", hex(r.rdi)},
                     {"rbp", hex(r.rbp)}, {"r8", hex(r.r8)},     {"r9", hex(r.r9)},
                     {"r10", hex(r.r10)}, {"r11", hex(r.r11)},   {"r12", hex(r.r12)},
                     {"r13", hex(r.r13)}, {"r14", hex(r.r14)},   {"r15", hex(r.r15)},
                     {"cr0", hex(s.cr0)}, {"cr2", hex(s.cr2)},   {"cr3", hex(s.cr3)},
                     {"cr4", hex(s.cr4)}, {"efer", hex(s.efer)}, {"cs", hex(s.cs.selector)}};
  state.mp_state = vcpu.mp_state();
  state.interrupts_enabled = (r.rflags & kRflagsInterrupts) != 0;
  state.cpl = s.ss.dpl;  // SDM 3, 5.5
  if (vcpu.vm().has_irqchip()) {
    state.pending = vcpu.lapic_vectors(kLapicIrr);
    state.in_service = vcpu.lapic_vectors(kLapicIsr);
  }
  state.nmi_masked = vcpu.nmi_masked();
  return state;
}

}  // namespace kvitest
