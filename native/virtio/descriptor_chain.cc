#include <algorithm>
#include <utility>

#include "native/virtio/queue.h"

namespace kvitest {

DescriptorChain::DescriptorChain(GuestMemory& memory, std::uint16_t head,
                                 std::vector<Segment> segments, std::size_t first_writable,
                                 std::uint16_t slots)
    : memory_(&memory),
      head_(head),
      slots_(slots),
      segments_(std::move(segments)),
      first_writable_(static_cast<std::uint32_t>(first_writable)),
      read_{0, first_writable, 0},
      write_{first_writable, segments_.size(), 0} {
  for (std::size_t i = 0; i < segments_.size(); ++i) {
    (i < first_writable ? readable_ : writable_) += segments_[i].length;
  }
  request_ = readable_;
  answer_ = writable_;
}

ChainState DescriptorChain::state() const {
  ChainState state{.head = head_, .read = request_ - readable_, .segments = {}};
  if (slots_ == 0) return state;
  state.slots = slots_;
  state.first_writable = first_writable_;
  state.segments = segments_;
  return state;
}

Segment DescriptorChain::next(Cursor& cursor, std::size_t limit) {
  while (cursor.segment < cursor.end && cursor.offset == segments_[cursor.segment].length) {
    ++cursor.segment;
    cursor.offset = 0;
  }
  if (cursor.segment == cursor.end || limit == 0) return {0, 0};
  const Segment& segment = segments_[cursor.segment];
  const auto length =
      static_cast<std::uint32_t>(std::min<std::size_t>(limit, segment.length - cursor.offset));
  const Segment piece{segment.gpa + cursor.offset, length};
  cursor.offset += length;
  return piece;
}

std::size_t DescriptorChain::read(std::span<std::byte> out) {
  std::size_t done = 0;
  while (done < out.size()) {
    const Segment piece = next(read_, out.size() - done);
    if (piece.length == 0 || !memory_->read(piece.gpa, out.subspan(done, piece.length))) break;
    done += piece.length;
  }
  readable_ -= done;
  return done;
}

void DescriptorChain::skip(std::uint64_t bytes) {
  for (std::uint64_t left = std::min(bytes, readable_); left != 0;) {
    const Segment piece = next(read_, left);
    if (piece.length == 0) return;
    left -= piece.length;
    readable_ -= piece.length;
  }
}

std::size_t DescriptorChain::write(std::span<const std::byte> in) {
  std::size_t done = 0;
  while (done < in.size()) {
    const Segment piece = next(write_, in.size() - done);
    if (piece.length == 0 || !memory_->write(piece.gpa, in.subspan(done, piece.length))) break;
    done += piece.length;
  }
  writable_ -= done;
  if (!skipped_) written_ += static_cast<std::uint32_t>(done);
  return done;
}

void DescriptorChain::write_zeros(std::uint64_t bytes) {
  for (std::uint64_t left = std::min(bytes, writable_); left != 0;) {
    const Segment piece = next(write_, left);
    if (piece.length == 0 || !memory_->fill(piece.gpa, std::byte{0}, piece.length)) return;
    left -= piece.length;
    writable_ -= piece.length;
    if (!skipped_) written_ += piece.length;
  }
}

void DescriptorChain::skip_answer(std::uint64_t bytes) {
  for (std::uint64_t left = std::min(bytes, writable_); left != 0;) {
    const Segment piece = next(write_, left);
    if (piece.length == 0) return;
    left -= piece.length;
    writable_ -= piece.length;
    skipped_ = true;
  }
}

std::uint64_t DescriptorChain::lend(Cursor& cursor, std::uint64_t bytes,
                                    std::vector<iovec>& pieces) {
  std::uint64_t lent = 0;
  while (lent != bytes) {
    const Segment segment = next(cursor, bytes - lent);
    const auto piece = memory_->lend(segment.gpa, segment.length);
    if (segment.length == 0 || !piece) break;
    iovec* const last = pieces.empty() ? nullptr : &pieces.back();
    if (last != nullptr &&
        static_cast<std::byte*>(last->iov_base) + last->iov_len == piece->iov_base) {
      last->iov_len += piece->iov_len;
    } else {
      pieces.push_back(*piece);
    }
    lent += segment.length;
  }
  return lent;
}

std::uint64_t DescriptorChain::lend_request(std::uint64_t bytes, std::vector<iovec>& pieces) {
  const std::uint64_t lent = lend(read_, std::min(bytes, readable_), pieces);
  readable_ -= lent;
  return lent;
}

std::uint64_t DescriptorChain::lend_answer(std::uint64_t bytes, std::vector<iovec>& pieces) {
  const std::uint64_t lent = lend(write_, std::min(bytes, writable_), pieces);
  writable_ -= lent;
  if (!skipped_) written_ += static_cast<std::uint32_t>(lent);
  return lent;
}

std::uint64_t DescriptorChain::discard_answer() {
  std::uint64_t discarded = 0;
  while (writable_ != 0) {
    const Segment piece = next(write_, writable_);
    if (piece.length == 0) break;
    writable_ -= piece.length;
    skipped_ = true;
    const Gpa first = (piece.gpa + kPageSize - 1) & ~(kPageSize - 1);
    const Gpa end = (piece.gpa + piece.length) & ~(kPageSize - 1);
    if (first < end && memory_->discard(first, end - first)) discarded += end - first;
  }
  return discarded;
}

}  // namespace kvitest
