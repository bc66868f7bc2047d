#include "native/kvm/guest_clock.h"

#include <linux/kvm.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <cstdlib>

#include "native/kvm/ioctl.h"
#include "native/kvm/vcpu_state.h"

namespace kvitest {
namespace {

// Of KVM_GET_CLOCK, Linux 5.16: the host's TSC at the very moment of the clock (api.rst 4.29).
constexpr std::uint32_t kClockHostTsc = 1 << 3;

// A TSC further from the checkpoint's than this was not restored: KVM on this host does not do so.
constexpr std::int64_t kBelievable = 10'000'000'000;

// A tenth of what Linux's watchdog bears.
constexpr std::int64_t kCloseEnough = 50'000;
constexpr int kTries = 100;

// The TSC may be the earlier one: a vCPU is saved, and its TSC goes on from there, before the
// clocks are read.
std::uint64_t clock_at(const ClockReading& saved, std::uint64_t tsc) {
  if (saved.tsc_khz == 0) return saved.nanoseconds;
  const auto distance = static_cast<std::int64_t>(tsc - saved.tsc);
  const auto passed =
      static_cast<std::int64_t>(static_cast<__int128>(distance) * 1'000'000 / saved.tsc_khz);
  const bool is_believable = std::abs(passed) < kBelievable;
  return saved.nanoseconds + static_cast<std::uint64_t>(is_believable ? passed : 0);
}

void set_clock(const Vm& vm, std::uint64_t nanoseconds) {
  // Without flags, KVM_CLOCK_REALTIME above all: the guest's time goes on from the checkpoint's.
  kvm_clock_data data{};
  data.clock = nanoseconds;
  kvm_ioctl(vm.fd(), KVM_SET_CLOCK, "KVM_SET_CLOCK", &data, "the checkpoint's state");
}

}  // namespace

ClockReading read_clocks(const Vm& vm, const Vcpu& vcpu) {
  kvm_clock_data data{};
  kvm_ioctl(vm.fd(), KVM_GET_CLOCK, "KVM_GET_CLOCK", &data);
  ClockReading reading;
  reading.nanoseconds = data.clock;
  const std::optional<std::uint64_t> offset = tsc_offset(vcpu);
  const bool is_exact = (data.flags & kClockHostTsc) != 0 && offset.has_value();
  reading.tsc = is_exact ? data.host_tsc + *offset : guest_tsc(vcpu);
  const int khz = ::ioctl(vcpu.fd(), KVM_GET_TSC_KHZ, 0);
  reading.tsc_khz = khz > 0 ? static_cast<std::uint32_t>(khz) : 0;
  return reading;
}

void set_kvmclock(Vm& vm, const Vcpu& vcpu, const ClockReading& saved) {
  // Time passes between the look at the TSC and the moment at which KVM takes the value. How much
  // is read back; the least of it is made up for, and a try on which this thread was put aside in
  // between is followed by another.
  std::int64_t latency = 0;
  for (int i = 0; i < kTries; ++i) {
    set_clock(vm, clock_at(saved, guest_tsc(vcpu)) + static_cast<std::uint64_t>(latency));
    const ClockReading now = read_clocks(vm, vcpu);
    const auto behind = static_cast<std::int64_t>(clock_at(saved, now.tsc) - now.nanoseconds);
    if (std::abs(behind) < kCloseEnough) return;
    const std::int64_t seen = latency + behind;
    latency = i == 0 ? seen : std::min(latency, seen);
  }
}

}  // namespace kvitest
