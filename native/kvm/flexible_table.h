// Tables with a header and as many entries as there are, for ioctls such as KVM_SET_CPUID2.
//
// linux/kvm.h declares their entries with __DECLARE_FLEX_ARRAY, which in C++ has put an empty
// struct, one byte and its padding, in front of them (linux-libc-dev 6.1: sizeof(kvm_cpuid2) is 12,
// not 8). Both the layout and the request number, which carries the size, are then wrong; so
// neither is taken from there.
#pragma once

#include <linux/kvm.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

namespace kvitest {

// HeaderBytes: where the kernel expects entry 0; the header begins with a u32 count.
template <typename Entry, std::size_t HeaderBytes>
class FlexibleTable {
 public:
  explicit FlexibleTable(std::size_t entries) : bytes_(HeaderBytes + entries * sizeof(Entry)) {
    const auto count = static_cast<std::uint32_t>(entries);
    std::memcpy(bytes_.data(), &count, sizeof count);
  }

  // For the ioctl.
  void* data() { return bytes_.data(); }
  // What the kernel says there is, which may be more than there was room for.
  std::uint32_t count() const {
    std::uint32_t count = 0;
    std::memcpy(&count, bytes_.data(), sizeof count);
    return count;
  }
  Entry get(std::size_t index) const {
    Entry entry;
    std::memcpy(&entry, bytes_.data() + HeaderBytes + index * sizeof(Entry), sizeof entry);
    return entry;
  }
  void set(std::size_t index, const Entry& entry) {
    std::memcpy(bytes_.data() + HeaderBytes + index * sizeof(Entry), &entry, sizeof entry);
  }

 private:
  std::vector<std::byte> bytes_;
};

using CpuidTable = FlexibleTable<kvm_cpuid_entry2, 8>;
using MsrTable = FlexibleTable<kvm_msr_entry, 8>;
using MsrIndexTable = FlexibleTable<std::uint32_t, 4>;
using IrqRoutingTable = FlexibleTable<kvm_irq_routing_entry, 8>;

inline constexpr unsigned long kGetMsrIndexList = _IOC(_IOC_READ | _IOC_WRITE, KVMIO, 0x02, 4);
inline constexpr unsigned long kGetSupportedCpuid = _IOC(_IOC_READ | _IOC_WRITE, KVMIO, 0x05, 8);
inline constexpr unsigned long kSetGsiRouting = _IOC(_IOC_WRITE, KVMIO, 0x6a, 8);
inline constexpr unsigned long kGetMsrs = _IOC(_IOC_READ | _IOC_WRITE, KVMIO, 0x88, 8);
inline constexpr unsigned long kSetMsrs = _IOC(_IOC_WRITE, KVMIO, 0x89, 8);
inline constexpr unsigned long kSetCpuid2 = _IOC(_IOC_WRITE, KVMIO, 0x90, 8);

}  // namespace kvitest
