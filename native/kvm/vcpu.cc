#include "native/kvm/vcpu.h"

#include <linux/kvm.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "native/error.h"
#include "native/hex.h"
#include "native/kvm/flexible_table.h"
#include "native/kvm/ioctl.h"
#include "native/kvm/kick_signal.h"
#include "native/kvm/kvm_registers.h"

namespace kvitest {
namespace {

std::string mp_state_name(std::uint32_t state) {
  switch (state) {
    case KVM_MP_STATE_RUNNABLE:
      return "runnable";
    case KVM_MP_STATE_UNINITIALIZED:
      return "uninitialized";
    case KVM_MP_STATE_INIT_RECEIVED:
      return "init-received";
    case KVM_MP_STATE_HALTED:
      return "halted";
    case KVM_MP_STATE_SIPI_RECEIVED:
      return "sipi-received";
    default:
      return "state-" + std::to_string(state);
  }
}

std::string internal_error_detail(const kvm_run& run) {
  switch (run.internal.suberror) {
    case KVM_INTERNAL_ERROR_EMULATION: {
      std::string detail = "KVM could not emulate an instruction";
      const bool has_bytes =
          run.internal.ndata >= 3 &&
          (run.emulation_failure.flags & KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES) != 0;
      if (!has_bytes) return detail;
      detail += ", bytes";
      const std::size_t size = std::min<std::size_t>(run.emulation_failure.insn_size, 15);
      for (std::size_t i = 0; i < size; ++i) {
        char text[4];
        std::snprintf(text, sizeof text, " %02x", run.emulation_failure.insn_bytes[i]);
        detail += text;
      }
      return detail;
    }
    case KVM_INTERNAL_ERROR_SIMUL_EX:
      return "two exceptions at once that KVM could not merge";
    case KVM_INTERNAL_ERROR_DELIVERY_EV:
      return "KVM could not deliver an event to the guest";
    case KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON:
      return "the hardware left the guest for a reason KVM does not know";
    default:
      return "KVM internal error";
  }
}

}  // namespace

Vcpu::Vcpu(const Vm& vm, unsigned index)
    : vm_(vm),
      index_(index),
      fd_(static_cast<int>(kvm_ioctl(vm.fd(), KVM_CREATE_VCPU, "KVM_CREATE_VCPU",
                                     static_cast<unsigned long>(index),
                                     "vCPU " + std::to_string(index)))),
      run_size_(vm.system().vcpu_mmap_size()) {
  run_ = ::mmap(nullptr, run_size_, PROT_READ | PROT_WRITE, MAP_SHARED, fd_.get(), 0);
  if (run_ == MAP_FAILED) throw Error("mmap", errno, "kvm_run of vCPU " + std::to_string(index));
}

Vcpu::~Vcpu() {
  ::munmap(run_, run_size_);
}

void Vcpu::set_cpuid(std::span<const CpuidEntry> entries) {
  CpuidTable table(entries.size());
  for (std::size_t i = 0; i < entries.size(); ++i) {
    const CpuidEntry& e = entries[i];
    kvm_cpuid_entry2 k{};
    k.function = e.function;
    k.index = e.index;
    k.flags = e.flags;
    k.eax = e.eax;
    k.ebx = e.ebx;
    k.ecx = e.ecx;
    k.edx = e.edx;
    table.set(i, k);
  }
  kvm_ioctl(fd_.get(), kSetCpuid2, "KVM_SET_CPUID2", table.data(),
            std::to_string(entries.size()) + " entries");
  cpuid_.assign(entries.begin(), entries.end());
}

std::size_t Vcpu::set_first_msrs(std::span<const MsrEntry> entries) {
  MsrTable table(entries.size());
  for (std::size_t i = 0; i < entries.size(); ++i) {
    kvm_msr_entry k{};
    k.index = entries[i].index;
    k.data = entries[i].value;
    table.set(i, k);
  }
  return static_cast<std::size_t>(kvm_ioctl(fd_.get(), kSetMsrs, "KVM_SET_MSRS", table.data()));
}

void Vcpu::set_msrs(std::span<const MsrEntry> entries) {
  const std::size_t done = set_first_msrs(entries);
  if (done < entries.size()) {
    throw Error("KVM_SET_MSRS", 0,
                "KVM refused MSR " + hex(entries[done].index) + " = " + hex(entries[done].value));
  }
}

bool Vcpu::try_set_msr(const MsrEntry& entry) {
  return set_first_msrs({&entry, 1}) == 1;
}

GeneralRegisters Vcpu::registers() const {
  kvm_regs k{};
  kvm_ioctl(fd_.get(), KVM_GET_REGS, "KVM_GET_REGS", &k);
  return from_kvm(k);
}

void Vcpu::set_registers(const GeneralRegisters& r) {
  kvm_regs k{};
  k.rax = r.rax;
  k.rbx = r.rbx;
  k.rcx = r.rcx;
  k.rdx = r.rdx;
  k.rsi = r.rsi;
  k.rdi = r.rdi;
  k.rsp = r.rsp;
  k.rbp = r.rbp;
  k.r8 = r.r8;
  k.r9 = r.r9;
  k.r10 = r.r10;
  k.r11 = r.r11;
  k.r12 = r.r12;
  k.r13 = r.r13;
  k.r14 = r.r14;
  k.r15 = r.r15;
  k.rip = r.rip;
  k.rflags = r.rflags;
  kvm_ioctl(fd_.get(), KVM_SET_REGS, "KVM_SET_REGS", &k);
}

SpecialRegisters Vcpu::special_registers() const {
  kvm_sregs k{};
  kvm_ioctl(fd_.get(), KVM_GET_SREGS, "KVM_GET_SREGS", &k);
  return from_kvm(k);
}

void Vcpu::set_special_registers(const SpecialRegisters& s) {
  // What boot/ does not describe (the pending-interrupt bitmap, the APIC base) stays as KVM has it.
  kvm_sregs k{};
  kvm_ioctl(fd_.get(), KVM_GET_SREGS, "KVM_GET_SREGS", &k);
  k.cs = to_kvm(s.cs);
  k.ds = to_kvm(s.ds);
  k.es = to_kvm(s.es);
  k.fs = to_kvm(s.fs);
  k.gs = to_kvm(s.gs);
  k.ss = to_kvm(s.ss);
  k.tr = to_kvm(s.tr);
  k.ldt = to_kvm(s.ldt);
  k.gdt = to_kvm(s.gdt);
  k.idt = to_kvm(s.idt);
  k.cr0 = s.cr0;
  k.cr2 = s.cr2;
  k.cr3 = s.cr3;
  k.cr4 = s.cr4;
  k.cr8 = s.cr8;
  k.efer = s.efer;
  if (s.apic_base != 0) k.apic_base = s.apic_base;
  kvm_ioctl(fd_.get(), KVM_SET_SREGS, "KVM_SET_SREGS", &k);
}

void Vcpu::set_fpu(const FpuState& fpu) {
  kvm_fpu k{};
  k.fcw = fpu.fcw;
  k.mxcsr = fpu.mxcsr;
  kvm_ioctl(fd_.get(), KVM_SET_FPU, "KVM_SET_FPU", &k);
}

void Vcpu::set_xcr0(std::uint64_t value) {
  kvm_xcrs k{};
  k.nr_xcrs = 1;
  k.xcrs[0].xcr = 0;
  k.xcrs[0].value = value;
  kvm_ioctl(fd_.get(), KVM_SET_XCRS, "KVM_SET_XCRS", &k);
}

std::uint32_t Vcpu::lapic_register(std::size_t offset) const {
  kvm_lapic_state state{};
  kvm_ioctl(fd_.get(), KVM_GET_LAPIC, "KVM_GET_LAPIC", &state);
  std::uint32_t value = 0;
  std::memcpy(&value, state.regs + offset, sizeof value);
  return value;
}

void Vcpu::set_lapic_register(std::size_t offset, std::uint32_t value) {
  kvm_lapic_state state{};
  kvm_ioctl(fd_.get(), KVM_GET_LAPIC, "KVM_GET_LAPIC", &state);
  std::memcpy(state.regs + offset, &value, sizeof value);
  kvm_ioctl(fd_.get(), KVM_SET_LAPIC, "KVM_SET_LAPIC", &state);
}

std::vector<std::uint8_t> Vcpu::lapic_vectors(std::size_t offset) const {
  // Eight registers of 32 bits, 16 bytes apart.
  constexpr std::size_t kRegisters = 8, kStride = 16, kBits = 32;
  kvm_lapic_state state{};
  kvm_ioctl(fd_.get(), KVM_GET_LAPIC, "KVM_GET_LAPIC", &state);
  std::vector<std::uint8_t> vectors;
  for (std::size_t i = 0; i < kRegisters; ++i) {
    std::uint32_t value = 0;
    std::memcpy(&value, state.regs + offset + i * kStride, sizeof value);
    for (std::size_t bit = 0; bit < kBits; ++bit) {
      if ((value >> bit & 1) != 0) vectors.push_back(static_cast<std::uint8_t>(i * kBits + bit));
    }
  }
  return vectors;
}

bool Vcpu::nmi_masked() const {
  kvm_vcpu_events events{};
  kvm_ioctl(fd_.get(), KVM_GET_VCPU_EVENTS, "KVM_GET_VCPU_EVENTS", &events);
  return events.nmi.masked != 0;
}

std::optional<std::string> Vcpu::mp_state() const {
  if (!vm_.has_irqchip()) return std::nullopt;
  kvm_mp_state state{};
  kvm_ioctl(fd_.get(), KVM_GET_MP_STATE, "KVM_GET_MP_STATE", &state);
  return mp_state_name(state.mp_state);
}

void Vcpu::nmi() {
  kvm_ioctl(fd_.get(), KVM_NMI, "KVM_NMI", 0UL);
}

void Vcpu::set_run_cr8(std::uint64_t value) {
  static_cast<kvm_run*>(run_)->cr8 = value;
}

void Vcpu::set_complete_only() {
  __atomic_store_n(&static_cast<kvm_run*>(run_)->immediate_exit, 1, __ATOMIC_SEQ_CST);
}

void Vcpu::clear_kick() {
  __atomic_store_n(&static_cast<kvm_run*>(run_)->immediate_exit, 0, __ATOMIC_SEQ_CST);
}

void Vcpu::kick(pthread_t thread) {
  // immediate_exit first: a signal that comes just before the thread enters KVM_RUN is spent on the
  // empty handler, and the flag then makes KVM_RUN return.
  __atomic_store_n(&static_cast<kvm_run*>(run_)->immediate_exit, 1, __ATOMIC_SEQ_CST);
  ::pthread_kill(thread, kick_signal());
}

Exit Vcpu::run() {
  auto& run = *static_cast<kvm_run*>(run_);
  if (::ioctl(fd_.get(), KVM_RUN, 0) < 0) {
    const int code = errno;
    if (code == EINTR || code == EAGAIN) {
      ++exit_counts_[KVM_EXIT_INTR];
      return Interrupted{};
    }
    throw Error("KVM_RUN", code, "vCPU " + std::to_string(index_),
                code == EFAULT || code == ENOMEM ? "the host ran out of memory for guest RAM" : "");
  }
  const std::uint32_t reason = run.exit_reason;
  ++exit_counts_[std::min(reason, kExitReasons - 1)];
  auto* bytes = static_cast<std::byte*>(run_);
  switch (reason) {
    case KVM_EXIT_IO:
      return IoExit{run.io.direction == KVM_EXIT_IO_OUT,
                    run.io.port,
                    run.io.size,
                    {bytes + run.io.data_offset, std::size_t{run.io.size} * run.io.count}};
    case KVM_EXIT_MMIO:
      return MmioExit{run.mmio.is_write != 0,
                      run.mmio.phys_addr,
                      {reinterpret_cast<std::byte*>(run.mmio.data),
                       std::min<std::size_t>(run.mmio.len, sizeof run.mmio.data)}};
    case KVM_EXIT_HLT:
      return HaltExit{};
    case KVM_EXIT_SHUTDOWN:
      return ShutdownExit{};
    case KVM_EXIT_INTERNAL_ERROR:
      return InternalErrorExit{run.internal.suberror, internal_error_detail(run)};
    case KVM_EXIT_FAIL_ENTRY:
      return FailEntryExit{run.fail_entry.hardware_entry_failure_reason};
    case KVM_EXIT_INTR:
      return Interrupted{};
    case KVM_EXIT_IRQ_WINDOW_OPEN:
    case KVM_EXIT_SET_TPR:
    case KVM_EXIT_IOAPIC_EOI:
      return IgnoredExit{};
    default:
      return UnexpectedExit{reason};
  }
}

}  // namespace kvitest
