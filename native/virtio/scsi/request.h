// How virtio-scsi's requests and their answers are laid out (virtio 1.3, 5.6.6).
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "native/little_endian.h"
#include "native/virtio/queue.h"
#include "native/virtio/scsi/sense.h"
#include "native/virtio/scsi/target.h"

namespace kvitest {

// Parts of a request (5.6.6.1).
inline constexpr std::size_t kRequestBytes = 19;   // ahead of the CDB
inline constexpr std::size_t kResponseBytes = 12;  // ahead of the sense data

// The control queue (5.6.6.2).
inline constexpr std::uint32_t kTaskManagement = 0;
inline constexpr std::uint32_t kNotificationQuery = 1;
inline constexpr std::uint32_t kNotificationSubscribe = 2;
enum class ScsiTask : std::uint32_t {
  kAbortTask = 0,
  kAbortTaskSet = 1,
  kClearAca = 2,
  kClearTaskSet = 3,
  kNexusReset = 4,
  kUnitReset = 5,
  kQueryTask = 6,
  kQueryTaskSet = 7,
};
inline constexpr std::uint8_t kFunctionComplete = 0;
inline constexpr std::uint8_t kBadTarget = 3;
inline constexpr std::uint8_t kFailure = 9;
inline constexpr std::uint8_t kFunctionSucceeded = 10;
inline constexpr std::uint8_t kFunctionRejected = 11;
inline constexpr std::uint8_t kIncorrectLun = 12;

// Writes the answer's header and its sense data; returns their length.
inline std::uint32_t respond(DescriptorChain& chain, const ScsiResult& result,
                             std::uint32_t sense_size, std::uint64_t residual) {
  std::vector<std::byte> bytes(kResponseBytes + sense_size);
  if (result.status == kStatusCheckCondition) {
    const auto sense = fixed_sense(result.sense);
    const std::size_t length = std::min<std::size_t>(sense.size(), sense_size);
    store_le<std::uint32_t>(bytes, 0, static_cast<std::uint32_t>(length));
    std::copy_n(sense.begin(), length, bytes.begin() + kResponseBytes);
  }
  store_le<std::uint32_t>(bytes, 4, static_cast<std::uint32_t>(residual));
  bytes[10] = std::byte{result.status};
  bytes[11] = static_cast<std::byte>(result.response);
  return static_cast<std::uint32_t>(chain.write(bytes));
}

}  // namespace kvitest
