// An ioctl made by a forked child of this process, which shares the fds and dies with the call.
#pragma once

#include <cstdint>
#include <span>

#include "native/kvm/raw/call.h"
#include "native/kvm/raw/thread.h"

namespace kvitest::raw {

struct ChildAnswer {
  std::int64_t value = 0;
  int code = 0;
};

// `bytes`: of the argument, changed as the call changes them; `value` where there are none, or
// where their address is not the argument's but the kernel must find them at the same place (no
// exec). Throws Error when the child could not get as far as the ioctl.
ChildAnswer ioctl_in_child(Job& job, const Child& child, int fd, std::uint64_t request,
                           std::uint64_t value, std::span<std::byte> bytes);

}  // namespace kvitest::raw
