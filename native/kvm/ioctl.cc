#include "native/kvm/ioctl.h"

#include <sys/ioctl.h>

#include <cerrno>

#include "native/error.h"

namespace kvitest {

long kvm_ioctl(int fd, unsigned long request, const char* name, unsigned long argument,
               const std::string& object) {
  for (;;) {
    const int answer = ::ioctl(fd, request, argument);
    if (answer >= 0) return answer;
    if (errno == EINTR) continue;
    throw Error(name, errno, object.empty() ? "refused by this host's KVM" : object);
  }
}

}  // namespace kvitest
