// A bounded first-in first-out queue of bytes.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <type_traits>
#include <vector>

#include "native/state/archive.h"

namespace kvitest {

// Takes no memory until the first byte comes.
class ByteFifo {
 public:
  explicit ByteFifo(std::size_t capacity) : capacity_(capacity) {}

  std::size_t size() const { return size_; }
  std::size_t room() const { return capacity_ - size_; }
  bool empty() const { return size_ == 0; }

  // Returns how many bytes fitted.
  std::size_t push(std::span<const std::byte> data) {
    const std::size_t count = std::min(data.size(), room());
    if (count != 0 && bytes_.empty()) bytes_.resize(capacity_);
    for (std::size_t done = 0; done < count;) {
      const std::size_t at = (begin_ + size_) % capacity_;
      const std::size_t piece = std::min(count - done, capacity_ - at);
      std::copy_n(data.begin() + static_cast<std::ptrdiff_t>(done), piece,
                  bytes_.begin() + static_cast<std::ptrdiff_t>(at));
      size_ += piece;
      done += piece;
    }
    return count;
  }

  // The oldest bytes that lie in one piece; empty only when the queue is. Valid until the next
  // call.
  std::span<const std::byte> front() const {
    return std::span(bytes_).subspan(begin_, std::min(size_, bytes_.size() - begin_));
  }

  std::vector<std::byte> contents() const {
    std::vector<std::byte> bytes(size_);
    for (std::size_t i = 0; i < size_; ++i) bytes[i] = bytes_[(begin_ + i) % capacity_];
    return bytes;
  }

  template <typename Archive>
  void fields(Archive& archive) {
    if constexpr (std::is_same_v<Archive, StateReader>) {
      std::vector<std::byte> bytes;
      archive(bytes);
      if (bytes.size() > capacity_) archive.fail("more bytes wait than there is room for");
      *this = ByteFifo(capacity_);
      push(bytes);
    } else {
      archive(contents());
    }
  }

  // count <= size()
  void drop(std::size_t count) {
    begin_ = size_ == count ? 0 : (begin_ + count) % capacity_;
    size_ -= count;
  }

 private:
  std::size_t capacity_;
  std::vector<std::byte> bytes_;
  std::size_t begin_ = 0;
  std::size_t size_ = 0;
};

}  // namespace kvitest
