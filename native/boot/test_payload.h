// Payload files for tests: temporary files, a synthetic bzImage header, synthetic ELF images.
#pragma once

#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "native/error.h"
#include "native/little_endian.h"

namespace kvitest {

using FileBytes = std::vector<std::byte>;

// A file with the given content, gone with the object.
class TemporaryFile {
 public:
  explicit TemporaryFile(std::span<const std::byte> content) {
    const int fd = ::mkstemp(path_.data());
    if (fd < 0) throw std::runtime_error("mkstemp");
    const bool written =
        ::write(fd, content.data(), content.size()) == static_cast<ssize_t>(content.size());
    ::close(fd);
    if (!written) throw std::runtime_error("write");
  }
  ~TemporaryFile() { ::unlink(path_.c_str()); }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;

  const std::string& path() const { return path_; }

 private:
  std::string path_ = "/tmp/kvitest-boot-XXXXXX";
};

inline constexpr std::uint64_t kTestKernelBase = 0x20'0000;
inline constexpr std::uint64_t kTestKernelSize = 4096;
inline constexpr std::uint64_t kTestKernelInitSize = 0x10'0000;

// One setup sector, 4096 bytes of kernel filled with 0x90, loads at 2 MiB, needs 1 MiB.
inline FileBytes make_bzimage() {
  FileBytes image(1024 + kTestKernelSize, std::byte{0x90});
  const std::span<std::byte> bytes(image);
  std::fill(image.begin(), image.begin() + 1024, std::byte{0});
  store_le<std::uint8_t>(bytes, 0x1f1, 1);
  store_le<std::uint32_t>(bytes, 0x1f4, kTestKernelSize / 16);
  store_le<std::uint16_t>(bytes, 0x1fe, 0xaa55);
  store_le<std::uint8_t>(bytes, 0x201, 0x6a);  // the header ends at 0x26c
  store_le<std::uint32_t>(bytes, 0x202, 0x5372'6448);
  store_le<std::uint16_t>(bytes, 0x206, 0x20f);
  store_le<std::uint32_t>(bytes, 0x22c, 0x7fff'ffff);
  store_le<std::uint16_t>(bytes, 0x236, 0x7f);
  store_le<std::uint32_t>(bytes, 0x238, 2047);
  store_le<std::uint64_t>(bytes, 0x258, kTestKernelBase);
  store_le<std::uint32_t>(bytes, 0x260, kTestKernelInitSize);
  return image;
}

struct TestSegment {
  std::uint32_t type = 1;  // PT_LOAD
  std::uint64_t physical = 0x10'0000;
  FileBytes content{16, std::byte{0xcc}};
  std::uint64_t memory_size = 16;
};

inline constexpr std::size_t kElfHeaderSize = 64;
inline constexpr std::size_t kElfProgramHeaderSize = 56;

// ET_EXEC for x86-64; contents follow the program headers in order.
inline FileBytes make_elf(std::uint64_t entry, const std::vector<TestSegment>& segments) {
  FileBytes image(kElfHeaderSize + kElfProgramHeaderSize * segments.size());
  const auto put_header = [&image](std::size_t at, std::uint64_t value, std::size_t width) {
    std::memcpy(image.data() + at, &value, width);
  };
  put_header(0, 0x464c'457f, 4);
  put_header(4, 2, 1);   // ELFCLASS64
  put_header(5, 1, 1);   // little-endian
  put_header(6, 1, 1);   // version
  put_header(16, 2, 2);  // ET_EXEC
  put_header(18, 62, 2);
  put_header(24, entry, 8);
  put_header(32, kElfHeaderSize, 8);
  put_header(54, kElfProgramHeaderSize, 2);
  put_header(56, segments.size(), 2);
  std::size_t at = kElfHeaderSize;
  for (const TestSegment& segment : segments) {
    put_header(at, segment.type, 4);
    put_header(at + 8, image.size(), 8);
    put_header(at + 24, segment.physical, 8);
    put_header(at + 32, segment.content.size(), 8);
    put_header(at + 40, segment.memory_size, 8);
    image.insert(image.end(), segment.content.begin(), segment.content.end());
    at += kElfProgramHeaderSize;
  }
  return image;
}

// A PT_NOTE segment with the PVH note, its value of the given width.
inline TestSegment pvh_note(std::uint64_t entry, std::uint32_t width = 8) {
  TestSegment note;
  note.type = 4;
  note.content = FileBytes(16 + width);
  const std::span<std::byte> bytes(note.content);
  store_le<std::uint32_t>(bytes, 0, 4);
  store_le<std::uint32_t>(bytes, 4, width);
  store_le<std::uint32_t>(bytes, 8, 18);
  store_le<std::uint32_t>(bytes, 12, 0x006e'6558);  // "Xen"
  std::memcpy(note.content.data() + 16, &entry, width);
  note.memory_size = note.content.size();
  return note;
}

// The message of the Error that action throws; "" when it throws none.
inline std::string error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

}  // namespace kvitest
