// A tap interface of the host: what the guest sends the host's network stack receives, and back
// (Documentation/networking/tuntap.rst, linux/if_tun.h).
#pragma once

#include <memory>
#include <string>

#include "native/net/link.h"

namespace kvitest {

// Opens the interface, which is made if it is not there and the process may (CAP_NET_ADMIN in its
// network namespace); one that was made persistent for the process's user needs no privilege. It
// is down until somebody of the host sets it up. Throws Error: ENOENT without the tun module,
// EPERM, EBUSY while another has it, EINVAL for a name that no interface has.
std::unique_ptr<Link> open_tap(const std::string& interface, FramesWaiting frames_waiting);

// Throws Error (EINVAL).
void check_interface_name(const std::string& operation, const std::string& interface);

}  // namespace kvitest
