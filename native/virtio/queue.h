// A virtqueue as its device sees it. Guest bytes are copied once, checked, then used; a driver that
// breaks the rules of the ring breaks its queue, never the host.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "native/memory/guest_memory.h"
#include "native/state/archive.h"
#include "native/virtio/device.h"

namespace kvitest {

// Where the driver put a queue (virtio 1.3, 2.7, 2.8 and 4.1.4.3).
struct QueueLayout {
  std::uint16_t size = 0;
  Gpa descriptors = 0;  // descriptor table, or descriptor ring
  Gpa driver = 0;       // available ring, or driver event suppression
  Gpa device = 0;       // used ring, or device event suppression
  template <typename Archive>
  void fields(Archive& archive) {
    archive(size, descriptors, driver, device);
  }
};

struct QueueFeatures {
  bool indirect = false;     // VIRTIO_F_INDIRECT_DESC
  bool event_index = false;  // VIRTIO_F_EVENT_IDX
  bool packed = false;       // VIRTIO_F_RING_PACKED
  bool in_order = false;     // VIRTIO_F_IN_ORDER
};

// Why a queue is not processed any more.
enum class QueueFault : std::uint8_t {
  kNone,
  kSizeInvalid,
  kMisaligned,
  kRingOutsideMemory,
  kAvailableIndexJumped,
  kHeadOutOfRange,
  kNextOutOfRange,
  kChainTooLong,
  kIndirectNotNegotiated,
  kIndirectNested,
  kIndirectLengthInvalid,
  kReadableAfterWritable,
  kBufferOutsideMemory,
  kBufferTooLarge,
  kListNotAvailable,
  kAvailableTwice,  // the last one
};

std::string_view to_string(QueueFault fault);

// What a queue remembers beside its layout. Positions of a split ring are indices modulo 2^16, as
// the driver sees them; of a packed ring an offset with the wrap counter in bit 15, as the event
// suppression structures have it (2.8.10).
struct QueueState {
  std::uint16_t next = 0;       // to pop
  std::uint16_t used = 0;       // to use
  std::uint16_t announced = 0;  // `used` at the last needs_interrupt()
  bool lapped = false;          // packed: more was used since than positions can tell
  QueueFault fault = QueueFault::kNone;
  template <typename Archive>
  void fields(Archive& archive) {
    archive(next, used, announced, lapped, fault);
  }
};

// Of a queue that was just enabled.
QueueState fresh_queue_state(const QueueFeatures& features);
// Whether a queue of this size can be in it; for what a checkpoint says.
bool possible(const QueueState& state, std::uint16_t size, const QueueFeatures& features);

struct Segment {
  Gpa gpa = 0;
  std::uint32_t length = 0;
  template <typename Archive>
  void fields(Archive& archive) {
    archive(gpa, length);
  }
};

// A request that was popped and not yet given back.
struct ChainState {
  std::uint16_t head = 0;  // its buffer ID, in a packed ring
  std::uint64_t read = 0;  // bytes that the device has read of it
  // Of a packed ring only: a used descriptor may have taken the place of the request's own, so that
  // they cannot be read again.
  std::uint16_t slots = 0;
  std::uint32_t first_writable = 0;
  std::vector<Segment> segments;
  template <typename Archive>
  void fields(Archive& archive) {
    archive(head, read, slots, first_writable, segments);
  }
};

// kNone when a device may use the layout. Split: size a power of two in 1..max_size, tables aligned
// to 16, 2 and 4 bytes and wholly in RAM (2.7, 2.7.10). Packed: any size in 1..max_size, aligned to
// 16, 4 and 4 bytes (2.8, 2.8.10.1).
QueueFault check_layout(const GuestMemory& memory, const QueueLayout& layout,
                        std::uint16_t max_size, bool packed);
QueueFault check_split_layout(const GuestMemory& memory, const QueueLayout& layout,
                              std::uint16_t max_size);
QueueFault check_packed_layout(const GuestMemory& memory, const QueueLayout& layout,
                               std::uint16_t max_size);

// One request: a copied, checked list of buffers, readable ones first. Every segment was RAM when
// the chain was popped, at most 4 GiB in all. Only read() and write() touch guest bytes, and the
// host's kernel those that were lent.
class DescriptorChain {
 public:
  // slots: of a packed ring, how many of its descriptors the request took.
  DescriptorChain(GuestMemory& memory, std::uint16_t head, std::vector<Segment> segments,
                  std::size_t first_writable, std::uint16_t slots = 0);

  // What the used ring names it by.
  std::uint16_t head() const { return head_; }
  std::uint16_t slots() const { return slots_; }
  // Bytes that read() and write() still have to offer.
  std::uint64_t readable() const { return readable_; }
  std::uint64_t writable() const { return writable_; }
  // Bytes written so far: the length to put into the used ring.
  std::uint32_t written() const { return written_; }
  // Nothing of the answer is left to write: so a driver takes buffers that a batch skips (2.7.9).
  bool used_completely() const { return writable_ == 0 && !skipped_; }
  // Bytes of the request and of its answer, used or not.
  std::uint64_t request_bytes() const { return request_; }
  std::uint64_t answer_bytes() const { return answer_; }

  // Copies the next bytes of the driver's request; returns how many there were, at most out.size().
  std::size_t read(std::span<std::byte> out);
  // Moves past the next bytes of the request, at most what is left of it.
  void skip(std::uint64_t bytes);
  // What VirtQueue::retake() needs to find this request again. Not for one with written() bytes:
  // an answer that was begun is begun anew.
  ChainState state() const;
  // Copies the next bytes of the answer; returns how many fitted.
  std::size_t write(std::span<const std::byte> in);
  // Writes zeros, at most what is left of the answer.
  void write_zeros(std::uint64_t bytes);
  // Moves past the next bytes of the answer, which stay as they are, and which written() counts
  // no more than what follows: a used length covers the bytes from the start only.
  void skip_answer(std::uint64_t bytes);
  // Moves past the next bytes of the request, or of the answer, which then count as read or
  // written, and appends where they lie, for a system call that copies them (GuestMemory::lend).
  // Buffers that follow one another are one. Returns their bytes, fewer at the end of the buffers.
  [[nodiscard]] std::uint64_t lend_request(std::uint64_t bytes, std::vector<iovec>& pieces);
  [[nodiscard]] std::uint64_t lend_answer(std::uint64_t bytes, std::vector<iovec>& pieces);
  // Gives the whole pages that the rest of the answer's buffers cover back to the host
  // (GuestMemory::discard); returns their bytes. written() does not count them. Throws Error.
  std::uint64_t discard_answer();
  // Gives RAM that the request names by its address back; false when it is no RAM. Throws Error.
  bool discard(Gpa gpa, std::uint64_t length) { return memory_->discard(gpa, length); }

 private:
  struct Cursor {
    std::size_t segment;
    std::size_t end;
    std::uint32_t offset;
  };
  // The piece at the cursor, at most `limit` bytes; the cursor moves past it.
  Segment next(Cursor& cursor, std::size_t limit);
  // Returns how many bytes it moved past.
  std::uint64_t lend(Cursor& cursor, std::uint64_t bytes, std::vector<iovec>& pieces);

  GuestMemory* memory_;
  std::uint16_t head_;
  std::uint16_t slots_;
  std::vector<Segment> segments_;
  std::uint32_t first_writable_;
  Cursor read_;
  Cursor write_;
  std::uint64_t request_ = 0;  // bytes of it, read or not
  std::uint64_t answer_ = 0;   // bytes that there is room for, written or not
  std::uint64_t readable_ = 0;
  std::uint64_t writable_ = 0;
  std::uint32_t written_ = 0;
  bool skipped_ = false;
};

struct UsedBuffer {
  const DescriptorChain* chain;
  std::uint32_t length;
};

// Not locked: the device that was given it locks. Ends with the reset() of the device.
class VirtQueue {
 public:
  virtual ~VirtQueue() = default;

  virtual std::uint16_t size() const = 0;
  virtual const QueueLayout& layout() const = 0;
  // The next request. None when the driver offers none (it is then asked to notify about the next
  // one) or when the queue is broken. A fault found here breaks the queue and reports needs_reset()
  // once.
  virtual std::optional<DescriptorChain> pop() = 0;
  // How many requests wait to be popped, for ordering against other queues; 0 when broken.
  virtual std::uint16_t available() = 0;
  // Gives a popped request back, with `length` bytes written from its start. Call needs_interrupt()
  // after the last one of a batch: with IN_ORDER the driver sees none of them before, and one used
  // element for all that were used completely and the one behind them (2.7.9, 2.8.8).
  void push_used(const DescriptorChain& chain, std::uint32_t length) {
    const UsedBuffer one{&chain, length};
    push_used(std::span(&one, 1));
  }
  // Several that make up one request: the driver sees all of them or none (2.8.9).
  virtual void push_used(std::span<const UsedBuffer> together) = 0;
  // True when the driver wants a used buffer notification for what was pushed since the last call.
  virtual bool needs_interrupt() = 0;
  // For a device that stops before pop() found the queue empty: the driver's next request will
  // notify.
  virtual void request_notification() = 0;
  virtual QueueFault fault() const = 0;

  virtual QueueState state() const = 0;
  // Somebody else has used the ring meanwhile (vhost): it goes on from there.
  virtual void move_to(const QueueState& state) = 0;
  // In a fork: a request that was popped before the checkpoint, read as far as it was: of a split
  // ring as the guest's memory has it now. None, and the queue broken as by pop(), when it is no
  // request (any more).
  virtual std::optional<DescriptorChain> retake(const ChainState& chain) = 0;
};

// layout must have passed check_layout(). memory and interrupts outlive the queue. state: where a
// saved queue goes on; guest memory is not touched.
std::unique_ptr<VirtQueue> make_queue(GuestMemory& memory, const QueueLayout& layout,
                                      const QueueFeatures& features, VirtioInterrupts& interrupts,
                                      const QueueState& state);
std::unique_ptr<VirtQueue> make_split_queue(GuestMemory& memory, const QueueLayout& layout,
                                            const QueueFeatures& features,
                                            VirtioInterrupts& interrupts,
                                            const QueueState& state = {});
std::unique_ptr<VirtQueue> make_packed_queue(GuestMemory& memory, const QueueLayout& layout,
                                             const QueueFeatures& features,
                                             VirtioInterrupts& interrupts, const QueueState& state);

// How many requests one doorbell may make a device handle. A driver that points one queue's used
// ring at another's available ring would else keep its vCPU thread in the device for ever.
inline std::size_t request_budget(const VirtQueue& queue) {
  return std::size_t{4} * queue.size();
}

}  // namespace kvitest
