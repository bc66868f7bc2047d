// Messages of 9P2000.L: size[4] type[1] tag[2] and little-endian fields, strings with a length of
// two bytes before them (Linux, include/net/9p/9p.h; the diod project's protocol.md).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace kvitest {

// Of requests; the answer's is one more.
enum class P9Type : std::uint8_t {
  kError = 6,  // only as an answer, 7
  kStatfs = 8,
  kOpen = 12,
  kCreate = 14,
  kSymlink = 16,
  kMknod = 18,
  kRename = 20,
  kReadlink = 22,
  kGetattr = 24,
  kSetattr = 26,
  kXattrwalk = 30,
  kXattrcreate = 32,
  kReaddir = 40,
  kFsync = 50,
  kLock = 52,
  kGetlock = 54,
  kLink = 70,
  kMkdir = 72,
  kRenameat = 74,
  kUnlinkat = 76,
  kVersion = 100,
  kAuth = 102,
  kAttach = 104,
  kFlush = 108,
  kWalk = 110,
  kRead = 116,
  kWrite = 118,
  kClunk = 120,
  kRemove = 122,
};

inline constexpr std::size_t kP9HeaderBytes = 7;
inline constexpr std::size_t kP9ErrorBytes = kP9HeaderBytes + 4;
// size[4] type[1] tag[2] count[4] ahead of what was read.
inline constexpr std::size_t kP9ReadBytes = kP9HeaderBytes + 4;

// What a file is to 9P: type, version, inode.
struct P9Qid {
  std::uint8_t type = 0;  // 0x80 a directory, 0x02 a symbolic link
  std::uint32_t version = 0;
  std::uint64_t path = 0;
};

// Reads fields one after the other. One that is not wholly there reads as 0 or empty and makes
// good() false for good.
class P9Reader {
 public:
  explicit P9Reader(std::span<const std::byte> bytes) : bytes_(bytes) {}

  std::uint8_t u8() { return static_cast<std::uint8_t>(number(1)); }
  std::uint16_t u16() { return static_cast<std::uint16_t>(number(2)); }
  std::uint32_t u32() { return static_cast<std::uint32_t>(number(4)); }
  std::uint64_t u64() { return number(8); }
  std::string string();
  std::span<const std::byte> bytes(std::size_t count);
  bool good() const { return good_; }

 private:
  std::uint64_t number(std::size_t width);

  std::span<const std::byte> bytes_;
  bool good_ = true;
};

// Makes an answer. The size is put in by take().
class P9Writer {
 public:
  P9Writer(P9Type request, std::uint16_t tag);

  P9Writer& u8(std::uint8_t value) { return number(value, 1); }
  P9Writer& u16(std::uint16_t value) { return number(value, 2); }
  P9Writer& u32(std::uint32_t value) { return number(value, 4); }
  P9Writer& u64(std::uint64_t value) { return number(value, 8); }
  P9Writer& string(std::string_view text);
  P9Writer& qid(const P9Qid& qid);
  // Room for `count` bytes, which the caller fills.
  std::span<std::byte> room(std::size_t count);
  std::size_t size() const { return bytes_.size(); }
  std::vector<std::byte> take();

 private:
  P9Writer& number(std::uint64_t value, std::size_t width);

  std::vector<std::byte> bytes_;
};

std::vector<std::byte> p9_error(std::uint16_t tag, int code);

}  // namespace kvitest
