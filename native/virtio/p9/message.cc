#include "native/virtio/p9/message.h"

#include <algorithm>
#include <utility>

#include "native/little_endian.h"

namespace kvitest {

std::uint64_t P9Reader::number(std::size_t width) {
  return read_le(bytes(width));
}

std::span<const std::byte> P9Reader::bytes(std::size_t count) {
  if (!good_ || count > bytes_.size()) {
    good_ = false;
    return {};
  }
  const auto found = bytes_.first(count);
  bytes_ = bytes_.subspan(count);
  return found;
}

std::string P9Reader::string() {
  const auto found = bytes(u16());
  return {reinterpret_cast<const char*>(found.data()), found.size()};
}

P9Writer::P9Writer(P9Type request, std::uint16_t tag) {
  u32(0).u8(static_cast<std::uint8_t>(static_cast<std::uint8_t>(request) + 1)).u16(tag);
}

P9Writer& P9Writer::string(std::string_view text) {
  u16(static_cast<std::uint16_t>(text.size()));
  std::ranges::copy(std::as_bytes(std::span(text)), room(text.size()).begin());
  return *this;
}

P9Writer& P9Writer::qid(const P9Qid& qid) {
  return u8(qid.type).u32(qid.version).u64(qid.path);
}

std::span<std::byte> P9Writer::room(std::size_t count) {
  bytes_.resize(bytes_.size() + count);
  return std::span(bytes_).last(count);
}

std::vector<std::byte> P9Writer::take() {
  store_le<std::uint32_t>(bytes_, 0, static_cast<std::uint32_t>(bytes_.size()));
  return std::move(bytes_);
}

P9Writer& P9Writer::number(std::uint64_t value, std::size_t width) {
  write_le(room(width), value);
  return *this;
}

std::vector<std::byte> p9_error(std::uint16_t tag, int code) {
  P9Writer answer(P9Type::kError, tag);
  answer.u32(static_cast<std::uint32_t>(code));
  return answer.take();
}

}  // namespace kvitest
