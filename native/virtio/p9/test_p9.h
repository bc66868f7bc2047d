// A client of 9P2000.L for tests, and a directory that goes with it.
#pragma once

#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "native/little_endian.h"
#include "native/virtio/p9/message.h"
#include "native/virtio/p9/server.h"

namespace kvitest {

using Bytes = std::vector<std::byte>;

// A scratch directory with `inside`, which is served, and `outside`, which no guest may see.
struct TestTree {
  TestTree() {
    std::string pattern = (std::filesystem::temp_directory_path() / "kvitest-9p-XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) throw std::logic_error("mkdtemp");
    root = pattern;
    std::filesystem::create_directories(root / "inside/sub");
    std::filesystem::create_directories(root / "outside");
    put("inside/hello", "hello from the host");
    put("inside/sub/deep", "deep");
    put("outside/secret", "secret");
  }
  ~TestTree() { std::filesystem::remove_all(root); }

  void put(const std::string& path, std::string_view text) const {
    std::ofstream(root / path, std::ios::binary) << text;
  }
  std::string get(const std::string& path) const {
    std::ifstream file(root / path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  std::string inside() const { return (root / "inside").string(); }

  std::filesystem::path root;
};

// Fields of a request, one after the other.
class P9Request {
 public:
  explicit P9Request(P9Type type, std::uint16_t tag = 1) {
    u32(0).u8(static_cast<std::uint8_t>(type)).u16(tag);
  }
  P9Request& u8(std::uint8_t value) { return number(value, 1); }
  P9Request& u16(std::uint16_t value) { return number(value, 2); }
  P9Request& u32(std::uint32_t value) { return number(value, 4); }
  P9Request& u64(std::uint64_t value) { return number(value, 8); }
  P9Request& string(std::string_view text) {
    u16(static_cast<std::uint16_t>(text.size()));
    return raw(text);
  }
  P9Request& raw(std::string_view text) {
    const auto bytes = std::as_bytes(std::span(text));
    bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
    return *this;
  }
  Bytes take() {
    store_le<std::uint32_t>(bytes_, 0, static_cast<std::uint32_t>(bytes_.size()));
    return bytes_;
  }

 private:
  P9Request& number(std::uint64_t value, std::size_t width) {
    bytes_.resize(bytes_.size() + width);
    write_le(std::span(bytes_).last(width), value);
    return *this;
  }
  Bytes bytes_;
};

// Talks to a server; answers are errno values, 0 when it did what it was asked for.
struct P9Client {
  explicit P9Client(P9Server& server) : server(server) {}

  Errno ask(P9Request& request) {
    const Bytes bytes = server.answer(request.take(), room);
    if (bytes.size() < kP9HeaderBytes) return -1;
    answer.assign(bytes.begin() + kP9HeaderBytes, bytes.end());
    const bool failed = std::to_integer<int>(bytes[4]) == 7;
    return failed ? static_cast<Errno>(load_le<std::uint32_t>(answer, 0)) : 0;
  }

  Errno version(std::uint32_t size = 8192, std::string_view name = "9P2000.L") {
    return ask(P9Request(P9Type::kVersion).u32(size).string(name));
  }
  Errno attach(std::uint32_t fid = 0) {
    return ask(
        P9Request(P9Type::kAttach).u32(fid).u32(0xffff'ffff).string("root").string("").u32(0));
  }
  Errno start() {
    const Errno code = version();
    return code == 0 ? attach() : code;
  }
  // Succeeds only when it comes to the end.
  Errno walk(std::uint32_t from, std::uint32_t to, const std::vector<std::string>& names) {
    P9Request request(P9Type::kWalk);
    request.u32(from).u32(to).u16(static_cast<std::uint16_t>(names.size()));
    for (const std::string& name : names) request.string(name);
    if (const Errno code = ask(request); code != 0) return code;
    return load_le<std::uint16_t>(answer, 0) == names.size() ? 0 : ENOENT;
  }
  Errno open(std::uint32_t fid, std::uint32_t flags = 0) {
    return ask(P9Request(P9Type::kOpen).u32(fid).u32(flags));
  }
  Errno create(std::uint32_t fid, std::string_view name, std::uint32_t flags = 2,
               std::uint32_t mode = 0644) {
    return ask(P9Request(P9Type::kCreate).u32(fid).string(name).u32(flags).u32(mode).u32(0));
  }
  Errno read(std::uint32_t fid, std::uint64_t offset = 0, std::uint32_t count = 4096) {
    const Errno code = ask(P9Request(P9Type::kRead).u32(fid).u64(offset).u32(count));
    data.clear();
    if (code == 0) {
      data.assign(reinterpret_cast<const char*>(answer.data()) + 4,
                  load_le<std::uint32_t>(answer, 0));
    }
    return code;
  }
  Errno write(std::uint32_t fid, std::uint64_t offset, std::string_view text) {
    return ask(P9Request(P9Type::kWrite)
                   .u32(fid)
                   .u64(offset)
                   .u32(static_cast<std::uint32_t>(text.size()))
                   .raw(text));
  }
  Errno clunk(std::uint32_t fid) { return ask(P9Request(P9Type::kClunk).u32(fid)); }

  // The content of a file, walked to and opened with a fid of its own; the errno in text otherwise.
  std::string content(const std::vector<std::string>& names) {
    constexpr std::uint32_t kFid = 1000;
    Errno code = walk(0, kFid, names);
    if (code == 0) {
      code = open(kFid);
      if (code == 0) code = read(kFid);
      const std::string found = data;
      clunk(kFid);
      if (code == 0) return found;
    }
    return "errno " + std::to_string(code);
  }

  P9Server& server;
  std::size_t room = 8192;
  Bytes answer;
  std::string data;
};

}  // namespace kvitest
