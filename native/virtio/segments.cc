#include "native/virtio/segments.h"

namespace kvitest {
namespace {

// No driver in the field sends longer ones, and a request's list of segments is memory of ours.
constexpr std::uint32_t kMaxIndirectDescriptors = 1024;
constexpr std::uint64_t kMaxChainBytes = std::uint64_t{1} << 32;

}  // namespace

QueueFault SegmentList::add(Gpa address, std::uint32_t length, bool writable) {
  if (!writable && segments_.size() > readable_count_) return QueueFault::kReadableAfterWritable;
  // An empty buffer names no byte: its address is nothing to check.
  if (length != 0 && !memory_.contains(address, length)) return QueueFault::kBufferOutsideMemory;
  bytes_ += length;
  if (bytes_ > kMaxChainBytes) return QueueFault::kBufferTooLarge;
  segments_.push_back({address, length});
  if (!writable) ++readable_count_;
  return QueueFault::kNone;
}

QueueFault SegmentList::check_table(Gpa address, std::uint32_t length, std::uint32_t& count) const {
  if (length == 0 || length % kDescriptorSize != 0) return QueueFault::kIndirectLengthInvalid;
  if (length / kDescriptorSize > kMaxIndirectDescriptors) return QueueFault::kChainTooLong;
  if (!memory_.contains(address, length)) return QueueFault::kBufferOutsideMemory;
  count = static_cast<std::uint32_t>(length / kDescriptorSize);
  return QueueFault::kNone;
}

}  // namespace kvitest
