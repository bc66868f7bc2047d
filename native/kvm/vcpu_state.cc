#include "native/kvm/vcpu_state.h"

#include <linux/kvm.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <string>

#include "native/error.h"
#include "native/hex.h"
#include "native/kvm/flexible_table.h"
#include "native/kvm/ioctl.h"
#include "native/kvm/kernel_bytes.h"
#include "native/kvm/kvm_registers.h"
#include "native/kvm/nested_state.h"

namespace kvitest {
namespace {

constexpr std::uint32_t kMsrTsc = 0x10;
constexpr std::uint32_t kMsrTscDeadline = 0x6e0;

// MSRs whose KVM_SET_MSRS does more than to set them: the time stamp counter and the timer of the
// vCPU that goes on would move, KVM would write its clock, steal time or page-fault area anew.
constexpr std::array<std::uint32_t, 10> kNotWrittenBack{
    kMsrTsc,     kMsrTscDeadline, 0x11, 0x12,  // kvmclock, old numbers
    0x4b56'4d00, 0x4b56'4d01,                  // kvmclock
    0x4b56'4d02, 0x4b56'4d03,                  // asynchronous page faults, steal time
    0x4b56'4d04, 0x4b56'4d07,                  // PV EOI, asynchronous page faults acknowledged
};

// The kvm_xsave of KVM_GET_XSAVE is 4096 bytes; see flexible_table.h for why sizeof is not asked.
constexpr std::size_t kXsaveBytes = 4096;
constexpr unsigned long kGetXsave = _IOC(_IOC_READ, KVMIO, 0xa4, kXsaveBytes);
constexpr unsigned long kSetXsave = _IOC(_IOC_WRITE, KVMIO, 0xa5, kXsaveBytes);
constexpr unsigned long kGetXsave2 = _IOC(_IOC_READ, KVMIO, 0xcf, kXsaveBytes);
constexpr unsigned long kCapXsave2 = 208;

// KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET (Documentation/virt/kvm/devices/vcpu.rst), Linux 5.16.
constexpr std::uint32_t kTscControl = 0;
constexpr std::uint64_t kTscOffset = 0;

constexpr std::size_t kMsrsAtOnce = 64;

bool tsc_offset_ioctl(const Vcpu& vcpu, unsigned long request, std::uint64_t& offset) {
  kvm_device_attr attribute{};
  attribute.group = kTscControl;
  attribute.attr = kTscOffset;
  attribute.addr = reinterpret_cast<std::uint64_t>(&offset);
  return ::ioctl(vcpu.fd(), request, &attribute) == 0;
}

std::size_t xsave_bytes(const Vcpu& vcpu) {
  const int answer = ::ioctl(vcpu.vm().fd(), KVM_CHECK_EXTENSION, kCapXsave2);
  return std::max<std::size_t>(answer > 0 ? static_cast<std::size_t>(answer) : 0, kXsaveBytes);
}

// What KVM tells of `indices`; those it knows but this vCPU has not are left out.
std::vector<MsrEntry> read_msrs(const Vcpu& vcpu, std::span<const std::uint32_t> indices) {
  std::vector<MsrEntry> read;
  while (!indices.empty()) {
    const std::size_t wanted = std::min(indices.size(), kMsrsAtOnce);
    MsrTable table(wanted);
    for (std::size_t i = 0; i < wanted; ++i) {
      kvm_msr_entry entry{};
      entry.index = indices[i];
      table.set(i, entry);
    }
    // The answer is how many were read: KVM stops at the first that it does not give.
    const auto done =
        static_cast<std::size_t>(kvm_ioctl(vcpu.fd(), kGetMsrs, "KVM_GET_MSRS", table.data()));
    for (std::size_t i = 0; i < done; ++i) {
      const kvm_msr_entry entry = table.get(i);
      read.push_back({entry.index, entry.data});
    }
    indices = indices.subspan(std::min(indices.size(), done < wanted ? done + 1 : done));
  }
  return read;
}

// A checkpoint that cannot be restored is found when it is taken: what was read is written back.
// KVM lists MSRs that it then refuses to set on this vCPU (KVM_ASYNC_PF_INT without irqchip); at 0
// they are what a new vCPU has, and left out.
std::vector<MsrEntry> restorable(Vcpu& vcpu, const std::vector<MsrEntry>& read) {
  std::vector<MsrEntry> kept;
  for (const MsrEntry& entry : read) {
    const bool is_tried = std::ranges::count(kNotWrittenBack, entry.index) == 0;
    if (!is_tried || vcpu.try_set_msr(entry)) {
      kept.push_back(entry);
    } else if (entry.value != 0) {
      throw Error("checkpoint", ENOTSUP,
                  "KVM gives MSR " + hex(entry.index) + " = " + hex(entry.value) + " of vCPU " +
                      std::to_string(vcpu.index()) + " and refuses to set it",
                  "this host's KVM cannot restore such a guest");
    }
  }
  return kept;
}

std::uint64_t value_of(const std::vector<MsrEntry>& msrs, std::uint32_t index) {
  const auto found = std::ranges::find(msrs, index, &MsrEntry::index);
  return found == msrs.end() ? 0 : found->value;
}

// All but those at 0 that KVM refuses. KVMs differ in what they list: 6.1 has the fixed counters of
// a PMU (0x309) that neither the guest nor the CPU has, and 6.12 refuses what it does not list.
// What a vCPU cannot be given is 0 in it.
void set_known_msrs(Vcpu& vcpu, std::span<const MsrEntry> entries) {
  for (;;) {
    const std::size_t done = vcpu.set_first_msrs(entries);
    if (done == entries.size()) return;
    // Throws, and says which it is.
    if (entries[done].value != 0) vcpu.set_msrs(entries.subspan(done, 1));
    entries = entries.subspan(done + 1);
  }
}

void restore_msrs(Vcpu& vcpu, const SavedVcpu& saved, std::uint64_t distance) {
  std::vector<MsrEntry> msrs;
  std::optional<MsrEntry> deadline;
  for (const MsrEntry& entry : saved.msrs) {
    if (entry.index == kMsrTscDeadline) {
      deadline = entry;
    } else if (entry.index != kMsrTsc || !saved.has_tsc_offset) {
      msrs.push_back(entry);
    }
  }
  set_known_msrs(vcpu, msrs);
  // The offset, not the MSR: KVM takes a TSC written within a second of what it expects for an
  // attempt to synchronise vCPUs and ignores the value, which after a reset would let the guest's
  // time jump.
  if (saved.has_tsc_offset) {
    std::uint64_t offset = saved.tsc_offset - distance;
    if (!tsc_offset_ioctl(vcpu, KVM_SET_DEVICE_ATTR, offset)) {
      throw Error("KVM_VCPU_TSC_OFFSET", errno, "vCPU " + std::to_string(vcpu.index()));
    }
  }
  // After the TSC, with which KVM compares it at once; after the LAPIC, whose timer mode decides
  // whether the deadline is taken at all.
  if (deadline) {
    // 0 is also what KVM tells of a timer that has expired and not yet interrupted. At once then: a
    // guest can bear one interrupt too many, none it cannot.
    if (deadline->value == 0) deadline->value = saved.tsc;
    vcpu.set_msrs(std::span(&*deadline, 1));
  }
}

}  // namespace

GeneralRegisters general_registers(const SavedVcpu& saved) {
  if (saved.registers.size() != sizeof(kvm_regs)) return {};
  return from_kvm(from_bytes<kvm_regs>(saved.registers, "kvm_regs"));
}

SpecialRegisters special_registers(const SavedVcpu& saved) {
  if (saved.special_registers.size() != sizeof(kvm_sregs)) return {};
  return from_kvm(from_bytes<kvm_sregs>(saved.special_registers, "kvm_sregs"));
}

SavedVcpu save_vcpu(Vcpu& vcpu) {
  const int fd = vcpu.fd();
  const bool irqchip = vcpu.vm().has_irqchip();
  SavedVcpu saved;
  saved.cpuid.assign(vcpu.cpuid().begin(), vcpu.cpuid().end());
  // First: asking makes KVM act on an INIT or SIPI that has arrived, which changes registers.
  if (irqchip) {
    saved.mp_state = get_bytes<kvm_mp_state>(fd, KVM_GET_MP_STATE, "KVM_GET_MP_STATE");
  }
  saved.registers = get_bytes<kvm_regs>(fd, KVM_GET_REGS, "KVM_GET_REGS");
  saved.special_registers = get_bytes<kvm_sregs>(fd, KVM_GET_SREGS, "KVM_GET_SREGS");
  saved.nested = nested_state(vcpu);
  saved.cr8 = from_bytes<kvm_sregs>(saved.special_registers, "kvm_sregs").cr8;
  saved.xsave.resize(xsave_bytes(vcpu));
  if (saved.xsave.size() > kXsaveBytes) {
    kvm_ioctl(fd, kGetXsave2, "KVM_GET_XSAVE2", saved.xsave.data());
  } else {
    kvm_ioctl(fd, kGetXsave, "KVM_GET_XSAVE", saved.xsave.data());
  }
  saved.xcrs = get_bytes<kvm_xcrs>(fd, KVM_GET_XCRS, "KVM_GET_XCRS");
  saved.debug_registers = get_bytes<kvm_debugregs>(fd, KVM_GET_DEBUGREGS, "KVM_GET_DEBUGREGS");
  if (irqchip) saved.lapic = get_bytes<kvm_lapic_state>(fd, KVM_GET_LAPIC, "KVM_GET_LAPIC");
  const int tsc_khz = ::ioctl(fd, KVM_GET_TSC_KHZ, 0);
  saved.tsc_khz = tsc_khz > 0 ? static_cast<std::uint32_t>(tsc_khz) : 0;
  saved.msrs = restorable(vcpu, read_msrs(vcpu, vcpu.vm().system().msr_indices()));
  saved.tsc = value_of(saved.msrs, kMsrTsc);
  saved.has_tsc_offset = tsc_offset_ioctl(vcpu, KVM_GET_DEVICE_ATTR, saved.tsc_offset);
  // Last: an interrupt that the requests before have made pending belongs to it.
  saved.events = get_bytes<kvm_vcpu_events>(fd, KVM_GET_VCPU_EVENTS, "KVM_GET_VCPU_EVENTS");
  return saved;
}

void shape_vcpu(Vcpu& vcpu, const SavedVcpu& saved) {
  // Before everything else: KVM checks control registers, MSRs and XSAVE data against CPUID.
  vcpu.set_cpuid(saved.cpuid);
  const int tsc_khz = ::ioctl(vcpu.fd(), KVM_GET_TSC_KHZ, 0);
  if (saved.tsc_khz == 0 || tsc_khz <= 0 || saved.tsc_khz == static_cast<unsigned>(tsc_khz)) return;
  // Before the TSC's offset, which counts in this unit. Only for a checkpoint of another host; the
  // error is clear when this one cannot scale.
  kvm_ioctl(vcpu.fd(), KVM_SET_TSC_KHZ, "KVM_SET_TSC_KHZ",
            static_cast<unsigned long>(saved.tsc_khz),
            "the checkpoint's " + std::to_string(saved.tsc_khz) + " kHz on a host with " +
                std::to_string(tsc_khz));
}

std::uint64_t guest_tsc(const Vcpu& vcpu) {
  return value_of(read_msrs(vcpu, std::array{kMsrTsc}), kMsrTsc);
}

std::optional<std::uint64_t> tsc_offset(const Vcpu& vcpu) {
  std::uint64_t offset = 0;
  if (!tsc_offset_ioctl(vcpu, KVM_GET_DEVICE_ATTR, offset)) return std::nullopt;
  return offset;
}

std::uint64_t tsc_distance(const Vcpu& vcpu, const SavedVcpu& saved) {
  const std::optional<std::uint64_t> offset = tsc_offset(vcpu);
  if (!saved.has_tsc_offset || !offset) return 0;
  return (guest_tsc(vcpu) - *offset) - (saved.tsc - saved.tsc_offset);
}

void restore_vcpu(Vcpu& vcpu, const SavedVcpu& saved, std::uint64_t distance) {
  const int fd = vcpu.fd();
  set_bytes<kvm_mp_state>(fd, KVM_SET_MP_STATE, "KVM_SET_MP_STATE", saved.mp_state);
  // A vCPU that is reset may run a nested guest, whose registers those below would be.
  leave_nested_guest(vcpu);
  // Before the LAPIC: the APIC base in it says whether that is an xAPIC or an x2APIC.
  set_bytes<kvm_sregs>(fd, KVM_SET_SREGS, "KVM_SET_SREGS", saved.special_registers);
  // Its guest's EFER decides whether it may run a nested guest; the registers from here on are then
  // that one's.
  set_nested_state(vcpu, saved.nested);
  set_bytes<kvm_regs>(fd, KVM_SET_REGS, "KVM_SET_REGS", saved.registers);
  vcpu.set_run_cr8(saved.cr8);
  if (saved.xsave.size() != xsave_bytes(vcpu)) {
    throw Error("load checkpoint", EBADMSG,
                "the XSAVE area has " + std::to_string(saved.xsave.size()) +
                    " bytes, this host's has " + std::to_string(xsave_bytes(vcpu)),
                "take the checkpoint again");
  }
  kvm_ioctl(fd, kSetXsave, "KVM_SET_XSAVE", saved.xsave.data(), "the checkpoint's state");
  set_bytes<kvm_xcrs>(fd, KVM_SET_XCRS, "KVM_SET_XCRS", saved.xcrs);
  set_bytes<kvm_debugregs>(fd, KVM_SET_DEBUGREGS, "KVM_SET_DEBUGREGS", saved.debug_registers);
  // Before the MSRs: TSC_DEADLINE is ignored unless the LAPIC's timer is in that mode.
  set_bytes<kvm_lapic_state>(fd, KVM_SET_LAPIC, "KVM_SET_LAPIC", saved.lapic);
  restore_msrs(vcpu, saved, distance);
  // After the special registers and the LAPIC, which both touch what interrupt is pending.
  set_bytes<kvm_vcpu_events>(fd, KVM_SET_VCPU_EVENTS, "KVM_SET_VCPU_EVENTS", saved.events);
  // Tells a guest with kvmclock that it was stopped, so that its watchdogs stay quiet; EINVAL when
  // it has none.
  if (::ioctl(fd, KVM_KVMCLOCK_CTRL, 0) != 0 && errno != EINVAL) {
    throw Error("KVM_KVMCLOCK_CTRL", errno, "vCPU " + std::to_string(vcpu.index()));
  }
}

}  // namespace kvitest
