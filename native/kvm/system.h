// /dev/kvm itself.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "native/kvm/registers.h"
#include "native/unique_fd.h"

namespace kvitest {

class System {
 public:
  // Throws Error: ENOENT (no KVM here), EACCES (no permission), or a version that is not 12.
  explicit System(const std::string& path = "/dev/kvm");

  int fd() const { return fd_.get(); }
  int api_version() const { return api_version_; }
  // KVM_CAP_MAX_VCPUS, with the fall-backs of api.rst 4.4.
  unsigned max_vcpus() const;
  // KVM_GET_VCPU_MMAP_SIZE
  std::size_t vcpu_mmap_size() const;
  // KVM_GET_SUPPORTED_CPUID
  std::vector<CpuidEntry> supported_cpuid() const;
  // KVM_GET_MSR_INDEX_LIST: MSRs that KVM_SET_MSRS knows here.
  std::vector<std::uint32_t> msr_indices() const;

 private:
  UniqueFd fd_;
  int api_version_ = 0;
};

}  // namespace kvitest
