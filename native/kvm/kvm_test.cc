// Against the real /dev/kvm: system, VM and vCPU.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "native/error.h"
#include "native/kvm/kick_signal.h"
#include "native/kvm/system.h"
#include "native/kvm/vcpu.h"
#include "native/kvm/vm.h"
#include "native/unique_fd.h"

namespace kvitest {
namespace {

constexpr std::uint64_t kMiB = 1 << 20;

bool no_kvm() {
  return ::access("/dev/kvm", R_OK | W_OK) != 0;
}

// A vCPU about to run `code` at 0x1000 in 16-bit real mode: the state that needs no tables.
struct Bench {
  explicit Bench(const std::string& code, bool irqchip = false)
      : memory(kMiB), vm(system, memory, irqchip), vcpu(vm, 0) {
    REQUIRE(memory.write(0x1000, std::as_bytes(std::span(code))));
    SpecialRegisters special = vcpu.special_registers();
    special.cs.base = 0;
    special.cs.selector = 0;
    vcpu.set_special_registers(special);
    GeneralRegisters general;
    general.rip = 0x1000;
    vcpu.set_registers(general);
  }

  System system;
  GuestMemory memory;
  Vm vm;
  Vcpu vcpu;
};

TEST_CASE("kvm system: a path that is not there says what to do") {
  CHECK_THROWS_WITH_AS(System("/nowhere/kvm"),
                       "open: /nowhere/kvm (No such file or directory); this machine offers no "
                       "KVM: use a lab, or load kvm-amd or kvm-intel",
                       Error);
}

TEST_CASE("kvm system: a file that is no KVM is refused") {
  CHECK_THROWS_WITH_AS(System("/dev/null"), doctest::Contains("KVM_GET_API_VERSION"), Error);
}

TEST_SUITE_BEGIN("kvm" * doctest::skip(no_kvm()));

TEST_CASE("kvm system: it speaks version 12 and knows CPUID and MSRs") {
  const System system;

  const auto cpuid = system.supported_cpuid();
  const auto msrs = system.msr_indices();

  CHECK(system.api_version() == 12);
  CHECK(system.max_vcpus() >= 1);
  CHECK(std::ranges::count(cpuid, 1u, &CpuidEntry::function) == 1);
  CHECK(std::ranges::count(msrs, 0xc000'0080u) <= 1);  // EFER, where it is listed
  CHECK(msrs.size() > 4);
}

TEST_CASE("kvm system: its fd is not inherited by child processes") {
  const System system;

  CHECK((::fcntl(system.fd(), F_GETFD) & FD_CLOEXEC) != 0);
}

TEST_CASE("kvm vm: one memory serves several VMs, with and without irqchip") {
  const System system;
  const GuestMemory memory(kMiB);

  const Vm without(system, memory, false);
  const Vm with(system, memory, true);

  CHECK_FALSE(without.has_irqchip());
  CHECK(with.has_irqchip());
}

TEST_CASE("kvm vcpu: an index KVM does not allow is an error that names it") {
  const System system;
  const GuestMemory memory(kMiB);
  const Vm vm(system, memory, false);

  CHECK_THROWS_WITH_AS(Vcpu(vm, 1'000'000), doctest::Contains("KVM_CREATE_VCPU: vCPU 1000000"),
                       Error);
}

TEST_CASE("kvm vcpu: OUT leaves with its port, width and bytes, HLT as a halt") {
  Bench bench("\xba\x34\x12\xb0\x5a\xee\xf4");  // mov dx, 0x1234; mov al, 0x5a; out dx, al; hlt

  const Exit out = bench.vcpu.run();
  const auto io = std::get<IoExit>(out);
  const bool is_out = io.out;
  const std::byte value = io.data[0];
  const Exit halt = bench.vcpu.run();

  CHECK(is_out);
  CHECK(io.port == 0x1234);
  CHECK(io.size == 1);
  CHECK(io.data.size() == 1);
  CHECK(value == std::byte{0x5a});
  CHECK(std::holds_alternative<HaltExit>(halt));
  CHECK(bench.vcpu.exit_counts()[2] == 1);  // KVM_EXIT_IO
  CHECK(exit_name(2) == "io");
}

TEST_CASE("kvm vcpu: IN gets the bytes that the handler leaves") {
  Bench bench("\xe5\x80\xf4");  // in ax, 0x80; hlt

  const Exit in = bench.vcpu.run();
  const auto io = std::get<IoExit>(in);
  std::ranges::fill(io.data, std::byte{0xab});
  const Exit halt = bench.vcpu.run();

  CHECK_FALSE(io.out);
  CHECK(io.data.size() == 2);
  CHECK(std::holds_alternative<HaltExit>(halt));
  CHECK((bench.vcpu.registers().rax & 0xffff) == 0xabab);
}

TEST_CASE("kvm vcpu: an access beyond RAM leaves as MMIO") {
  // mov ax, 0xffff; mov ds, ax; mov byte [0x10], 0x77 (at 1 MiB, behind the RAM); hlt
  Bench bench(std::string("\xb8\xff\xff\x8e\xd8\xc6\x06\x10\x00\x77\xf4", 11));

  const Exit exit = bench.vcpu.run();
  const auto mmio = std::get<MmioExit>(exit);

  CHECK(mmio.write);
  CHECK(mmio.address == 0x10'0000);
  CHECK(mmio.data.size() == 1);
  CHECK(mmio.data[0] == std::byte{0x77});
}

TEST_CASE("kvm vcpu: a kick takes it out of an endless loop, and stays until it is cleared") {
  Bench bench("\xeb\xfe");  // jmp $
  kick_signal();
  std::atomic<int> interrupts{0};

  std::thread runner([&] {
    interrupts += std::holds_alternative<Interrupted>(bench.vcpu.run()) ? 1 : 0;
    interrupts += std::holds_alternative<Interrupted>(bench.vcpu.run()) ? 1 : 0;
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  bench.vcpu.kick(runner.native_handle());
  runner.join();

  CHECK(interrupts == 2);
}

TEST_CASE("kvm vcpu: registers come back as they were set") {
  Bench bench("\xf4");
  GeneralRegisters general;
  general.rax = 0x1122'3344'5566'7788;
  general.r15 = 0x99aa'bbcc'ddee'ff00;
  general.rip = 0x2000;
  general.rflags = 0x202;

  bench.vcpu.set_registers(general);
  const GeneralRegisters read = bench.vcpu.registers();

  CHECK(read.rax == general.rax);
  CHECK(read.r15 == general.r15);
  CHECK(read.rip == general.rip);
  CHECK(read.rflags == general.rflags);
}

TEST_CASE("kvm vcpu: an MSR that KVM refuses is named") {
  Bench bench("\xf4");
  const std::vector<MsrEntry> entries{{0x10, 0}, {0x1234'5678, 1}};

  CHECK_THROWS_WITH_AS(bench.vcpu.set_msrs(entries),
                       "KVM_SET_MSRS: KVM refused MSR 0x12345678 = 0x1", Error);
}

TEST_CASE("kvm vcpu: MP state exists with irqchip only") {
  Bench without("\xf4");
  Bench with("\xf4", true);

  CHECK(without.vcpu.mp_state() == std::nullopt);
  CHECK(with.vcpu.mp_state() == "runnable");
}

TEST_CASE("kvm vcpu: LAPIC registers are written and read alone") {
  constexpr std::size_t kLvt0 = 0x350;
  constexpr std::size_t kLvt1 = 0x360;
  Bench bench("\xf4", true);
  const std::uint32_t lvt1 = bench.vcpu.lapic_register(kLvt1);

  bench.vcpu.set_lapic_register(kLvt0, 0x700);

  CHECK(bench.vcpu.lapic_register(kLvt0) == 0x700);
  CHECK(bench.vcpu.lapic_register(kLvt1) == lvt1);
}

TEST_CASE("kvm vm: a message that no LAPIC takes is not an error") {
  Bench bench("\xf4", true);

  CHECK_NOTHROW(bench.vm.signal_msi(0xfee0'0000, 0x31));
  CHECK_NOTHROW(bench.vm.signal_msi(0, 0));
  CHECK_NOTHROW(bench.vm.signal_msi(~0ull, ~0u));
}

// The LAPIC takes no message until it is on, by its spurious-interrupt register. An irqfd's message
// may come a moment after the signal.
std::vector<std::uint8_t> vectors_after_signal(Bench& bench, int eventfd, std::size_t expected) {
  constexpr std::size_t kIrr = 0x200;
  REQUIRE(::eventfd_write(eventfd, 1) == 0);
  for (int i = 0; i < 1000 && bench.vcpu.lapic_vectors(kIrr).size() < expected; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return bench.vcpu.lapic_vectors(kIrr);
}

TEST_CASE("kvm vm: a signal of an irqfd is its message, the last one that was said") {
  constexpr std::size_t kSpurious = 0xf0;
  using Vectors = std::vector<std::uint8_t>;
  Bench bench("\xf4", true);
  bench.vcpu.set_lapic_register(kSpurious, 0x1ff);
  const UniqueFd one(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  const UniqueFd other(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  REQUIRE(bench.vm.add_irqfd(one.get(), 0xfee0'0000, 0x41));
  REQUIRE(bench.vm.add_irqfd(other.get(), 0xfee0'0000, 0x51));

  CHECK(vectors_after_signal(bench, one.get(), 1) == Vectors{0x41});
  CHECK(vectors_after_signal(bench, other.get(), 2) == Vectors{0x41, 0x51});
  REQUIRE(bench.vm.add_irqfd(one.get(), 0xfee0'0000, 0x42));
  CHECK(vectors_after_signal(bench, one.get(), 3) == Vectors{0x41, 0x42, 0x51});
  // The kernel took each signal out of its eventfd.
  eventfd_t count = 0;
  CHECK(::eventfd_read(one.get(), &count) != 0);

  // The pins are where they were: 4 is the IOAPIC's and the PIC's.
  CHECK_NOTHROW(bench.vm.set_irq_line(4, true));
  CHECK_NOTHROW(bench.vm.set_irq_line(23, true));

  bench.vm.remove_irqfd(one.get());
  bench.vm.remove_irqfd(one.get());
  REQUIRE(::eventfd_write(one.get(), 1) == 0);
  CHECK(::eventfd_read(one.get(), &count) == 0);
}

TEST_CASE("kvm vm: an interrupt line that does not exist names itself") {
  Bench bench("\xf4");

  CHECK_THROWS_WITH_AS(bench.vm.set_irq_line(4, true), doctest::Contains("KVM_IRQ_LINE: GSI 4"),
                       Error);
}

TEST_SUITE_END();

}  // namespace
}  // namespace kvitest
