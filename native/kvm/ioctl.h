// ioctl(2) on KVM file descriptors, with errors that name the request.
#pragma once

#include <string>

namespace kvitest {

// Returns the ioctl's nonnegative answer. Retries EINTR: none of the requests made through here
// blocks for long (KVM_RUN is not one of them). Throws Error with `name`, the errno and `object`.
long kvm_ioctl(int fd, unsigned long request, const char* name, unsigned long argument,
               const std::string& object = {});

template <typename T>
long kvm_ioctl(int fd, unsigned long request, const char* name, T* argument,
               const std::string& object = {}) {
  return kvm_ioctl(fd, request, name, reinterpret_cast<unsigned long>(argument), object);
}

}  // namespace kvitest
