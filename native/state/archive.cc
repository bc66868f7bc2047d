#include "native/state/archive.h"

#include <algorithm>
#include <cerrno>
#include <string>

#include "native/error.h"

namespace kvitest {
namespace {

constexpr std::size_t kMaxNameLength = 64;
constexpr std::size_t kLengthWidth = 8;

}  // namespace

void StateWriter::number(std::uint64_t value, std::size_t width) {
  for (std::size_t i = 0; i < width; ++i) {
    bytes_.push_back(static_cast<std::byte>(value >> (8 * i)));
  }
}

void StateWriter::raw(std::span<const std::byte> bytes) {
  bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
}

std::size_t StateWriter::begin_section(const StateTag& tag) {
  put(std::string(tag.name));
  number(tag.version, 4);
  number(0, kLengthWidth);
  return bytes_.size();
}

void StateWriter::end_section(std::size_t start) {
  const std::uint64_t length = bytes_.size() - start;
  for (std::size_t i = 0; i < kLengthWidth; ++i) {
    bytes_[start - kLengthWidth + i] = static_cast<std::byte>(length >> (8 * i));
  }
}

void StateReader::fail(const std::string& why) const {
  throw Error("load checkpoint", EBADMSG, "section " + section_ + ": " + why,
              "take the checkpoint again");
}

std::uint64_t StateReader::number(std::size_t width) {
  if (rest_.size() < width) fail("it ends early");
  std::uint64_t value = 0;
  for (std::size_t i = 0; i < width; ++i) {
    value |= std::to_integer<std::uint64_t>(rest_[i]) << (8 * i);
  }
  rest_ = rest_.subspan(width);
  return value;
}

std::size_t StateReader::count(std::size_t least) {
  const std::uint64_t elements = number(8);
  if (elements > rest_.size() / least) {
    fail(std::to_string(elements) + " elements do not fit into what is left");
  }
  return static_cast<std::size_t>(elements);
}

void StateReader::raw(std::span<std::byte> out) {
  if (rest_.size() < out.size()) fail("it ends early");
  std::ranges::copy(rest_.first(out.size()), out.begin());
  rest_ = rest_.subspan(out.size());
}

void StateReader::begin_section(const StateTag& tag) {
  section_ = tag.name;
  std::string name(std::min(count(1), kMaxNameLength), '\0');
  raw(std::as_writable_bytes(std::span(name)));
  if (name != tag.name) fail("section " + name + " is in its place");
  const std::uint64_t version = number(4);
  if (version != tag.version) {
    fail("it has version " + std::to_string(version) + ", this program knows version " +
         std::to_string(tag.version));
  }
  const std::uint64_t length = number(kLengthWidth);
  if (length > rest_.size()) fail("it ends early");
  outside_ = rest_.subspan(length);
  rest_ = rest_.first(length);
}

void StateReader::end_section() {
  if (!rest_.empty()) fail(std::to_string(rest_.size()) + " bytes too many");
  rest_ = outside_;
}

void StateReader::finish() const {
  if (!rest_.empty()) fail(std::to_string(rest_.size()) + " bytes follow it");
}

}  // namespace kvitest
