#include "native/kvm/system.h"

#include <fcntl.h>
#include <linux/kvm.h>

#include <algorithm>
#include <cerrno>
#include <string>
#include <vector>

#include "native/error.h"
#include "native/kvm/flexible_table.h"
#include "native/kvm/ioctl.h"

namespace kvitest {
namespace {

std::string hint_for(int code) {
  switch (code) {
    case ENOENT:
    case ENODEV:
    case ENXIO:
      return "this machine offers no KVM: use a lab, or load kvm-amd or kvm-intel";
    case EACCES:
    case EPERM:
      return "join the group that owns it: usermod -aG kvm $USER, then log in again";
    default:
      return {};
  }
}

}  // namespace

System::System(const std::string& path) : fd_(::open(path.c_str(), O_RDWR | O_CLOEXEC)) {
  if (!fd_) {
    const int code = errno;
    throw Error("open", code, path, hint_for(code));
  }
  api_version_ = static_cast<int>(kvm_ioctl(fd(), KVM_GET_API_VERSION, "KVM_GET_API_VERSION", 0UL));
  // api.rst 4.1: applications should refuse to run on any other version.
  if (api_version_ != 12) {
    throw Error("KVM_GET_API_VERSION", 0,
                path + " speaks version " + std::to_string(api_version_) + ", this program 12");
  }
}

unsigned System::max_vcpus() const {
  for (const unsigned long capability : {KVM_CAP_MAX_VCPUS, KVM_CAP_NR_VCPUS}) {
    const long answer = kvm_ioctl(fd(), KVM_CHECK_EXTENSION, "KVM_CHECK_EXTENSION", capability);
    if (answer > 0) return static_cast<unsigned>(answer);
  }
  return 4;  // what api.rst says to assume when neither is known
}

std::size_t System::vcpu_mmap_size() const {
  return static_cast<std::size_t>(
      kvm_ioctl(fd(), KVM_GET_VCPU_MMAP_SIZE, "KVM_GET_VCPU_MMAP_SIZE", 0UL));
}

std::vector<CpuidEntry> System::supported_cpuid() const {
  // KVM answers E2BIG while the table is too small; 5.9 raised its own limit from 80 to 256.
  for (std::size_t capacity = 128;; capacity *= 2) {
    CpuidTable table(capacity);
    try {
      kvm_ioctl(fd(), kGetSupportedCpuid, "KVM_GET_SUPPORTED_CPUID", table.data());
    } catch (const Error& error) {
      if (error.code() == E2BIG && capacity < 4096) continue;
      throw;
    }
    std::vector<CpuidEntry> entries;
    for (std::size_t i = 0; i < std::min<std::size_t>(table.count(), capacity); ++i) {
      const kvm_cpuid_entry2 e = table.get(i);
      entries.push_back({e.function, e.index, e.flags, e.eax, e.ebx, e.ecx, e.edx});
    }
    return entries;
  }
}

std::vector<std::uint32_t> System::msr_indices() const {
  for (std::size_t capacity = 256;; capacity *= 2) {
    MsrIndexTable table(capacity);
    try {
      kvm_ioctl(fd(), kGetMsrIndexList, "KVM_GET_MSR_INDEX_LIST", table.data());
    } catch (const Error& error) {
      if (error.code() == E2BIG && capacity < 65536) continue;
      throw;
    }
    std::vector<std::uint32_t> indices;
    for (std::size_t i = 0; i < std::min<std::size_t>(table.count(), capacity); ++i) {
      indices.push_back(table.get(i));
    }
    return indices;
  }
}

}  // namespace kvitest
