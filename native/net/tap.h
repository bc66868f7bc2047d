// A tap interface of the host: what the guest sends the host's network stack receives, and back
// (Documentation/networking/tuntap.rst, linux/if_tun.h).
#pragma once

#include <memory>
#include <string>

#include "native/net/link.h"
#include "native/unique_fd.h"

namespace kvitest {

// Opens the interface, which is made if it is not there and the process may (CAP_NET_ADMIN in its
// network namespace); one that was made persistent for the process's user needs no privilege. It
// is down until somebody of the host sets it up. Throws Error: ENOENT without the tun module,
// EPERM, EBUSY while another has it, EINVAL for a name that no interface has.
std::unique_ptr<Link> open_tap(const std::string& interface, FramesWaiting frames_waiting);

// The interface alone, for who moves its frames himself; each with the 12 bytes of a header before
// it. Throws Error, as open_tap().
UniqueFd open_tap_file(const std::string& interface);

// What the reader of its frames takes: checksums that are left to do, TCP segments of so many
// frames.
struct TapOffloads {
  bool checksum = true;
  bool tcp4 = true;
  bool tcp6 = true;
};
// Throws Error.
void set_tap_offloads(int fd, const std::string& interface, const TapOffloads& offloads);
// Takes the frames that wait in it, for nobody.
void discard_waiting(int fd);

// Throws Error (EINVAL).
void check_interface_name(const std::string& operation, const std::string& interface);

}  // namespace kvitest
