// Deliberate oddities of a device: what old, buggy and hostile devices have done to drivers.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace kvitest {

class VirtQueue;

// How long a device says that a used buffer is (virtio 1.3, 2.7.8.1, 2.7.8.2).
enum class UsedLength : std::uint8_t {
  kHonest,
  // All bytes of the request, those that the driver wrote too, whatever the device has written:
  // "many devices set len incorrectly" (2.7.8.1). Drivers that check it were reverted for devices
  // like this one (f124034faa91).
  kWholeChain,
  // More than the driver offered room for.
  kTooLong,
  // None, whatever was written.
  kZero,
};

struct Personality {
  UsedLength used_length = UsedLength::kHonest;
  // The queue size is no power of two, as a split ring's must be (2.7): one less than it is.
  bool odd_queue_size = false;
  // The queue size cannot be written, as a legacy device's (4.1.4.3, 4.1.5.1.3): a driver that
  // makes its ring smaller and does not look again has another ring than the device (762faee5a267).
  bool fixed_queue_size = false;
  // Ones written to the PCI status register clear its bits, all of them: the one with it that says
  // that there are capabilities. Kernels with 6cd514e58f12 write all ones there.
  bool status_clears_capabilities = false;
};

// The names that a machine spec uses: "used-length-whole-chain", ... Throws Error (EINVAL) for
// another one, naming those there are, and for two that cannot both be.
Personality personality_of(std::span<const std::string> names);

// What a device of this type would have as the most of each queue.
std::vector<std::uint16_t> odd_queue_sizes(std::vector<std::uint16_t> sizes,
                                           const Personality& personality);

// The queue as a device with this personality uses it.
std::unique_ptr<VirtQueue> odd_queue(std::unique_ptr<VirtQueue> queue,
                                     const Personality& personality);

}  // namespace kvitest
