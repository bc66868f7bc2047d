// On a real /dev/kvm: what is saved of one vCPU is restored into another.
#include "native/kvm/vcpu_state.h"

#include <doctest/doctest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>

#include "native/error.h"
#include "native/kvm/vm_state.h"

namespace kvitest {
namespace {

bool no_kvm() {
  return ::access("/dev/kvm", R_OK | W_OK) != 0;
}

struct Bench {
  explicit Bench(bool irqchip) : vm(system, memory, irqchip), vcpu(vm, 0) {}
  System system;
  GuestMemory memory{1 << 20};
  Vm vm;
  Vcpu vcpu;
};

constexpr std::uint32_t kMsrLstar = 0xc000'0082;
constexpr std::uint32_t kMsrTsc = 0x10;

SavedVcpu sample(Bench& bench) {
  bench.vcpu.set_cpuid(bench.system.supported_cpuid());
  GeneralRegisters registers = bench.vcpu.registers();
  registers.rax = 0x1234;
  registers.rip = 0x5678;
  bench.vcpu.set_registers(registers);
  const MsrEntry lstar{kMsrLstar, 0xffff'8000'1234'5678};
  bench.vcpu.set_msrs(std::span(&lstar, 1));
  return save_vcpu(bench.vcpu);
}

std::uint64_t msr(const SavedVcpu& saved, std::uint32_t index) {
  const auto found = std::ranges::find(saved.msrs, index, &MsrEntry::index);
  return found == saved.msrs.end() ? 0 : found->value;
}

TEST_SUITE_BEGIN("vcpu state" * doctest::skip(no_kvm()));

TEST_CASE("vcpu state: another vCPU gets all of it, and its TSC goes on") {
  for (const bool irqchip : {false, true}) {
    CAPTURE(irqchip);
    Bench first(irqchip);
    Bench second(irqchip);
    const SavedVcpu saved = sample(first);

    shape_vcpu(second.vcpu, saved);
    restore_vcpu(second.vcpu, saved, tsc_distance(second.vcpu, saved));
    restore_vm(second.vm, second.vcpu, save_vm(first.vm, first.vcpu));
    const SavedVcpu again = save_vcpu(second.vcpu);

    CHECK(again.registers == saved.registers);
    CHECK(again.special_registers == saved.special_registers);
    CHECK(again.xcrs == saved.xcrs);
    CHECK(again.debug_registers == saved.debug_registers);
    CHECK(again.mp_state == saved.mp_state);
    CHECK(again.lapic.size() == saved.lapic.size());
    CHECK(again.lapic.empty() == !irqchip);
    CHECK(again.cpuid.size() == saved.cpuid.size());
    CHECK(again.msrs.size() == saved.msrs.size());
    CHECK(msr(again, kMsrLstar) == 0xffff'8000'1234'5678);
    if (saved.has_tsc_offset) {
      CHECK(msr(again, kMsrTsc) >= msr(saved, kMsrTsc));
      CHECK((msr(again, kMsrTsc) - msr(saved, kMsrTsc)) / 1000 < saved.tsc_khz);  // below 1 s
    }
  }
}

TEST_CASE("vcpu state: kvmclock and TSC keep their distance") {
  Bench first(true);
  Bench second(true);
  const SavedVcpu saved = sample(first);
  const SavedVm saved_vm = save_vm(first.vm, first.vcpu);
  ::usleep(20'000);

  shape_vcpu(second.vcpu, saved);
  restore_vcpu(second.vcpu, saved, tsc_distance(second.vcpu, saved));
  restore_vm(second.vm, second.vcpu, saved_vm);
  const ClockReading now = read_clocks(second.vm, second.vcpu);

  REQUIRE(now.tsc_khz != 0);
  const double by_tsc = static_cast<double>(now.tsc - saved_vm.clock.tsc) * 1e6 / now.tsc_khz;
  const double by_clock = static_cast<double>(now.nanoseconds - saved_vm.clock.nanoseconds);
  CHECK(std::abs(by_tsc - by_clock) < 1e6);
}

TEST_CASE("vcpu state: a clock that was read long after its vCPU was saved is taken back to it") {
  Bench first(true);
  Bench second(true);
  const SavedVcpu saved = sample(first);
  ::usleep(200'000);
  const SavedVm saved_vm = save_vm(first.vm, first.vcpu);

  shape_vcpu(second.vcpu, saved);
  restore_vcpu(second.vcpu, saved, tsc_distance(second.vcpu, saved));
  restore_vm(second.vm, second.vcpu, saved_vm);
  const ClockReading now = read_clocks(second.vm, second.vcpu);

  REQUIRE(now.tsc_khz != 0);
  const auto ticks = static_cast<std::int64_t>(now.tsc - saved_vm.clock.tsc);
  const auto passed = static_cast<std::int64_t>(now.nanoseconds - saved_vm.clock.nanoseconds);
  CHECK(std::abs(static_cast<double>(ticks) * 1e6 / now.tsc_khz - static_cast<double>(passed)) <
        1e6);
}

TEST_CASE(
    "vcpu state: an MSR that this KVM does not know is left out at 0, and refused otherwise") {
  constexpr std::uint32_t kUnknown = 0x0bad'0000;
  Bench first(true);
  Bench second(true);
  SavedVcpu saved = sample(first);
  // In front: the others are set all the same.
  saved.msrs.insert(saved.msrs.begin(), MsrEntry{kUnknown, 0});

  shape_vcpu(second.vcpu, saved);
  restore_vcpu(second.vcpu, saved, tsc_distance(second.vcpu, saved));
  CHECK(msr(save_vcpu(second.vcpu), kMsrLstar) == 0xffff'8000'1234'5678);

  saved.msrs.front().value = 1;
  CHECK_THROWS_WITH_AS(restore_vcpu(second.vcpu, saved, 0),
                       doctest::Contains("KVM refused MSR 0xbad0000 = 0x1"), Error);
}

TEST_CASE("vcpu state: structures of other lengths are refused by name") {
  Bench bench(false);
  const SavedVcpu saved = sample(bench);
  SavedVcpu bad = saved;
  bad.special_registers.pop_back();
  SavedVcpu short_xsave = saved;
  short_xsave.xsave.resize(100);

  CHECK_THROWS_WITH_AS(restore_vcpu(bench.vcpu, bad, 0), doctest::Contains("KVM_SET_SREGS has"),
                       Error);
  CHECK_THROWS_WITH_AS(restore_vcpu(bench.vcpu, short_xsave, 0),
                       doctest::Contains("the XSAVE area has 100 bytes"), Error);
}

TEST_SUITE_END();

}  // namespace
}  // namespace kvitest
