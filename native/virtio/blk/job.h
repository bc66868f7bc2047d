// A request that the device has taken from a queue.
#pragma once

#include <cstddef>
#include <cstdint>

#include "native/virtio/blk/request.h"
#include "native/virtio/queue.h"

namespace kvitest {

struct BlkJob {
  std::size_t queue;
  std::uint64_t number;  // of the queue's requests, with IN_ORDER
  DescriptorChain chain;
  BlkContext context;
};

}  // namespace kvitest
