// What a virtio-vsock remembers. Connections are no part of it: a fork's other end is not there,
// and the guest is told so (VIRTIO_VSOCK_EVENT_TRANSPORT_RESET).
#pragma once

#include <cstdint>

#include "native/state/archive.h"

namespace kvitest {

struct VsockState {
  static constexpr StateTag kTag{"virtio-vsock", 1};
  std::uint32_t cid = 0;
  bool reset_due = false;  // the event waits for a buffer
  template <typename Archive>
  void fields(Archive& archive) {
    archive(cid, reset_due);
  }
};

}  // namespace kvitest
