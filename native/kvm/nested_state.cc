#include "native/kvm/nested_state.h"

#include <linux/kvm.h>
#include <sys/ioctl.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <string>

#include "native/error.h"
#include "native/kvm/ioctl.h"

namespace kvitest {
namespace {

// api.rst 4.114 and 4.115. Its data is a flexible array; see flexible_table.h for why sizeof is not
// asked.
constexpr std::size_t kHeaderBytes = 128;
constexpr unsigned long kGetNestedState = _IOC(_IOC_READ | _IOC_WRITE, KVMIO, 0xbe, kHeaderBytes);
constexpr unsigned long kSetNestedState = _IOC(_IOC_WRITE, KVMIO, 0xbf, kHeaderBytes);
constexpr unsigned long kCapNestedState = 157;
constexpr std::size_t kFlagsAt = 0;
constexpr std::size_t kFormatAt = 2;
constexpr std::size_t kSizeAt = 4;
constexpr std::uint16_t kFormatSvm = 1;
constexpr std::uint16_t kFlagGif = 1 << 8;
// VMX: both pointers of the header at "none" say that VMX is off.
constexpr std::size_t kVmxPointersAt = 8;
constexpr std::size_t kVmxPointersBytes = 16;

// 0 where KVM does not nest.
std::size_t most_bytes(const Vcpu& vcpu) {
  const int answer = ::ioctl(vcpu.vm().fd(), KVM_CHECK_EXTENSION, kCapNestedState);
  return answer > 0 ? static_cast<std::size_t>(answer) : 0;
}

template <typename T>
T get(const std::vector<std::byte>& state, std::size_t at) {
  T value;
  std::memcpy(&value, state.data() + at, sizeof value);
  return value;
}

template <typename T>
void put(std::vector<std::byte>& state, std::size_t at, T value) {
  std::memcpy(state.data() + at, &value, sizeof value);
}

}  // namespace

std::vector<std::byte> nested_state(const Vcpu& vcpu) {
  const std::size_t room = most_bytes(vcpu);
  if (room < kHeaderBytes) return {};
  std::vector<std::byte> state(room);
  put(state, kSizeAt, static_cast<std::uint32_t>(room));
  kvm_ioctl(vcpu.fd(), kGetNestedState, "KVM_GET_NESTED_STATE", state.data());
  const auto size = get<std::uint32_t>(state, kSizeAt);
  if (size < kHeaderBytes || size > room) {
    throw Error("KVM_GET_NESTED_STATE", EPROTO,
                "KVM says it has " + std::to_string(size) + " bytes");
  }
  state.resize(size);
  return state;
}

void leave_nested_guest(const Vcpu& vcpu) {
  std::vector<std::byte> state = nested_state(vcpu);
  if (state.empty()) return;
  state.resize(kHeaderBytes);
  const bool is_svm = get<std::uint16_t>(state, kFormatAt) == kFormatSvm;
  put(state, kSizeAt, static_cast<std::uint32_t>(kHeaderBytes));
  put(state, kFlagsAt, is_svm ? kFlagGif : std::uint16_t{0});
  std::memset(state.data() + kVmxPointersAt, is_svm ? 0 : 0xff, kVmxPointersBytes);
  kvm_ioctl(vcpu.fd(), kSetNestedState, "KVM_SET_NESTED_STATE", state.data());
}

void set_nested_state(const Vcpu& vcpu, const std::vector<std::byte>& state) {
  if (state.empty()) return;
  if (state.size() < kHeaderBytes || get<std::uint32_t>(state, kSizeAt) != state.size() ||
      state.size() > most_bytes(vcpu)) {
    throw Error("load checkpoint", EBADMSG,
                "a nested state of " + std::to_string(state.size()) +
                    " bytes on a host that takes " + std::to_string(most_bytes(vcpu)),
                "take the checkpoint again");
  }
  std::vector<std::byte> copy = state;
  kvm_ioctl(vcpu.fd(), kSetNestedState, "KVM_SET_NESTED_STATE", copy.data(),
            "the checkpoint's state");
}

}  // namespace kvitest
