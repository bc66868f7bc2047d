// The buffers of one request while they are collected, for both kinds of rings.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "native/memory/guest_memory.h"
#include "native/virtio/queue.h"

namespace kvitest {

inline constexpr std::uint64_t kDescriptorSize = 16;
inline constexpr std::uint16_t kDescriptorNext = 1;
inline constexpr std::uint16_t kDescriptorWrite = 2;
inline constexpr std::uint16_t kDescriptorIndirect = 4;

class SegmentList {
 public:
  explicit SegmentList(const GuestMemory& memory) : memory_(memory) {}

  QueueFault add(Gpa address, std::uint32_t length, bool writable);
  // Of a table of indirect descriptors that says to be so many bytes long; `count` is set when it
  // is one that can be.
  QueueFault check_table(Gpa address, std::uint32_t length, std::uint32_t& count) const;

  std::vector<Segment> take() { return std::move(segments_); }
  std::size_t first_writable() const { return readable_count_; }

 private:
  const GuestMemory& memory_;
  std::vector<Segment> segments_;
  std::size_t readable_count_ = 0;
  std::uint64_t bytes_ = 0;
};

}  // namespace kvitest
