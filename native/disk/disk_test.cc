#include "native/disk/disk.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "native/error.h"

namespace kvitest {
namespace {

using Bytes = std::vector<std::byte>;

Bytes pattern(std::size_t length, unsigned seed) {
  Bytes bytes(length);
  for (std::size_t i = 0; i < length; ++i) {
    bytes[i] = static_cast<std::byte>((i * 2654435761u + seed * 97 + (i >> 9)) >> 3);
  }
  return bytes;
}

Bytes read(Disk& disk, std::uint64_t offset, std::size_t length) {
  Bytes bytes(length, std::byte{0xee});
  disk.read(offset, bytes);
  return bytes;
}

std::string error_of(auto action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

// A file that is gone with its test.
struct TestFile {
  explicit TestFile(const Bytes& content) {
    std::string name = (std::filesystem::temp_directory_path() / "kvitest-disk-XXXXXX").string();
    const int fd = ::mkstemp(name.data());
    REQUIRE(fd >= 0);
    REQUIRE(::write(fd, content.data(), content.size()) == static_cast<ssize_t>(content.size()));
    ::close(fd);
    path = name;
  }
  ~TestFile() { ::unlink(path.c_str()); }
  Bytes content() const {
    std::ifstream in(path, std::ios::binary);
    const std::string text((std::istreambuf_iterator<char>(in)), {});
    Bytes bytes(text.size());
    std::ranges::copy(std::as_bytes(std::span(text)), bytes.begin());
    return bytes;
  }
  std::string path;
};

std::unique_ptr<Disk> in_memory(std::uint64_t bytes) {
  return open_disk(MemoryBacking{bytes}, false);
}

TEST_CASE("disk file: more pieces than a system call takes are moved as one range") {
  TestFile file(Bytes(64 * 1024));
  const auto disk = open_disk(FileBacking{file.path}, false);
  constexpr std::size_t kPieces = 3000;
  Bytes memory = pattern(7 * kPieces, 1);
  std::vector<iovec> pieces;
  // In an order of their own, with every seventh byte left out.
  for (std::size_t i = 0; i < kPieces; ++i) {
    pieces.push_back({&memory[7 * (i * 7919 % kPieces)], 6});
  }
  const auto bytes_of = [&pieces] {
    Bytes all;
    for (const iovec& piece : pieces) {
      const auto* at = static_cast<const std::byte*>(piece.iov_base);
      all.insert(all.end(), at, at + piece.iov_len);
    }
    return all;
  };

  disk->write_pieces(100, pieces);
  const Bytes written = bytes_of();
  CHECK(read(*disk, 100, written.size()) == written);
  CHECK(read(*disk, 0, 100) == Bytes(100));
  CHECK(read(*disk, 100 + written.size(), 100) == Bytes(100));

  std::ranges::fill(memory, std::byte{0x11});
  disk->read_pieces(100, pieces);
  CHECK(bytes_of() == written);
  CHECK(std::ranges::count(memory, std::byte{0x11}) >= static_cast<std::ptrdiff_t>(kPieces));
}

TEST_CASE(
    "disk file: pieces beyond the end or of no memory are errors, and other disks take none") {
  TestFile file(Bytes(4096));
  const auto disk = open_disk(FileBacking{file.path}, false);
  Bytes memory(512);
  const std::vector<iovec> good{{memory.data(), 512}};
  const std::vector<iovec> bad{{memory.data(), 512}, {nullptr, 512}};
  CHECK(error_of([&] { disk->write_pieces(3585, good); }) ==
        "write disk: 512 bytes at 3585 of a disk of 4096 (Invalid argument)");
  CHECK(error_of([&] { disk->read_pieces(3585, good); }) ==
        "read disk: 512 bytes at 3585 of a disk of 4096 (Invalid argument)");
  CHECK(error_of([&] { disk->write_pieces(0, bad); }).ends_with("(Bad address)"));
  CHECK(error_of([&] { disk->read_pieces(0, bad); }).ends_with("(Bad address)"));
  CHECK(file.content().size() == 4096);
  const auto other = in_memory(4096);
  CHECK(error_of([&] { other->read_pieces(0, good); }).ends_with("(Operation not supported)"));
  CHECK(error_of([&] { other->write_pieces(0, good); }).ends_with("(Operation not supported)"));
}

TEST_CASE("disk: memory is zeros until it is written, and keeps what was written at any offset") {
  const auto disk = in_memory(64 * 1024);
  Bytes model(64 * 1024);
  CHECK(read(*disk, 0, model.size()) == model);
  unsigned seed = 1;
  for (const auto& [offset, length] : std::vector<std::pair<std::size_t, std::size_t>>{
           {0, 1}, {4095, 2}, {8192, 4096}, {12'000, 9000}, {65'535, 1}, {4096, 0}, {1, 40'000}}) {
    const Bytes bytes = pattern(length, ++seed);
    disk->write(offset, bytes);
    std::ranges::copy(bytes, model.begin() + static_cast<std::ptrdiff_t>(offset));
  }
  CHECK(read(*disk, 0, model.size()) == model);
  CHECK(read(*disk, 4000, 5000) == Bytes(model.begin() + 4000, model.begin() + 9000));
}

TEST_CASE("disk: a range that is not inside is refused") {
  const auto disk = in_memory(4096);
  Bytes bytes(512);
  CHECK(error_of([&] { disk->read(4096, std::span(bytes).first(1)); }) ==
        "read disk: 1 bytes at 4096 of a disk of 4096 (Invalid argument)");
  CHECK(error_of([&] { disk->write(~0ull, bytes); }) != "");
  CHECK(error_of([&] { disk->zero(4000, 97, true); }) != "");
  disk->read(4096, std::span(bytes).first(0));
}

TEST_CASE("disk: sizes that no disk has are refused") {
  CHECK(error_of([] { in_memory(0); }) != "");
  CHECK(error_of([] { in_memory(513); }) != "");
  CHECK(error_of([] { in_memory(kMaxDiskBytes + 512); }) != "");
  const auto disk = in_memory(512);
  CHECK(error_of([&] { disk->resize(0); }) != "");
}

TEST_CASE("disk: an overlay reads its file and never writes to it") {
  const Bytes content = pattern(20'000, 3);
  const TestFile file(content);
  const auto disk = open_disk(OverlayBacking{file.path}, false);
  // Rounded up to a sector, with zeros.
  Bytes model = content;
  model.resize(20'480);
  CHECK(disk->size() == 20'480);
  CHECK(read(*disk, 0, model.size()) == model);

  disk->write(5000, pattern(100, 4));
  std::ranges::copy(pattern(100, 4), model.begin() + 5000);
  disk->zero(8192, 4096, true);
  std::fill_n(model.begin() + 8192, 4096, std::byte{0});
  disk->zero(100, 50, false);
  std::fill_n(model.begin() + 100, 50, std::byte{0});
  CHECK(read(*disk, 0, model.size()) == model);
  CHECK(read(*disk, 4097, 9000) == Bytes(model.begin() + 4097, model.begin() + 13'097));
  CHECK(file.content() == content);
}

TEST_CASE("disk: what a shrink took away reads as zeros when the disk grows again") {
  const Bytes content = pattern(16'384, 5);
  const TestFile file(content);
  const auto disk = open_disk(OverlayBacking{file.path}, false);
  disk->write(4096, pattern(8192, 6));
  disk->resize(5120);
  CHECK(error_of([&] { read(*disk, 5120, 1); }) != "");
  disk->resize(32'768);

  Bytes model(32'768);
  std::copy_n(content.begin(), 4096, model.begin());
  const Bytes over = pattern(8192, 6);
  std::copy_n(over.begin(), 1024, model.begin() + 4096);
  CHECK(read(*disk, 0, model.size()) == model);
  // And in what is forked from it.
  const auto fork = make_overlay(disk->image());
  CHECK(read(*fork, 0, model.size()) == model);
}

TEST_CASE(
    "disk: forks of an image do not see each other's writes, nor does the one it was taken of") {
  const auto parent = in_memory(16'384);
  parent->write(0, pattern(8192, 1));
  const auto image = parent->image();
  const auto left = make_overlay(image);
  const auto right = make_overlay(image);

  parent->write(100, pattern(10, 2));
  left->write(4096, pattern(4096, 3));
  right->zero(0, 16'384, true);
  const auto grandchild = make_overlay(left->image());
  left->write(0, pattern(16'384, 4));

  Bytes begun(16'384);
  std::ranges::copy(pattern(8192, 1), begun.begin());
  Bytes of_parent = begun;
  std::ranges::copy(pattern(10, 2), of_parent.begin() + 100);
  Bytes of_grandchild = begun;
  std::ranges::copy(pattern(4096, 3), of_grandchild.begin() + 4096);
  CHECK(read(*parent, 0, 16'384) == of_parent);
  CHECK(read(*left, 0, 16'384) == pattern(16'384, 4));
  CHECK(read(*right, 0, 16'384) == Bytes(16'384));
  CHECK(read(*grandchild, 0, 16'384) == of_grandchild);
  CHECK(read(*make_overlay(image), 0, 16'384) == begun);
}

TEST_CASE("disk: an image holds what was written and no more") {
  const auto disk = in_memory(std::uint64_t{1} << 40);
  disk->write(std::uint64_t{1} << 39, pattern(4096, 1));
  disk->write(0, pattern(8192, 1));
  disk->zero(0, 8192, true);
  CHECK(disk->image()->bytes_held() == 4096);
}

TEST_CASE("disk: a file is written to, grows and keeps zeros") {
  const TestFile file(pattern(8192, 1));
  {
    const auto disk = open_disk(FileBacking{file.path}, false);
    disk->write(512, pattern(512, 2));
    disk->zero(4096, 512, false);
    disk->zero(0, 512, true);
    disk->flush();
    disk->resize(12'288);
    CHECK(read(*disk, 8192, 4096) == Bytes(4096));
  }
  Bytes model = pattern(8192, 1);
  std::fill_n(model.begin(), 512, std::byte{0});
  std::ranges::copy(pattern(512, 2), model.begin() + 512);
  std::fill_n(model.begin() + 4096, 512, std::byte{0});
  model.resize(12'288);
  CHECK(file.content() == model);
}

TEST_CASE("disk: a fork of a disk in a file has its content and leaves the file alone") {
  const TestFile file(pattern(9 * 512, 1));
  const auto disk = open_disk(FileBacking{file.path}, false);
  const auto fork = make_overlay(disk->image());
  disk->write(0, pattern(512, 2));
  fork->write(512, pattern(512, 3));
  Bytes model = pattern(9 * 512, 1);
  std::ranges::copy(pattern(512, 3), model.begin() + 512);
  CHECK(read(*fork, 0, model.size()) == model);
  Bytes of_file = pattern(9 * 512, 1);
  std::ranges::copy(pattern(512, 2), of_file.begin());
  CHECK(file.content() == of_file);
}

TEST_CASE("disk: a file that a machine writes to is nobody else's") {
  const TestFile file(pattern(4096, 1));
  {
    const auto writer = open_disk(FileBacking{file.path}, false);
    CHECK(error_of([&] {
            open_disk(FileBacking{file.path}, false);
          }).find("another machine uses it") != std::string::npos);
    CHECK(error_of([&] { open_disk(OverlayBacking{file.path}, false); }) != "");
    CHECK(error_of([&] { open_disk(FileBacking{file.path}, true); }) != "");
  }
  const auto reader = open_disk(FileBacking{file.path}, true);
  const auto overlay = open_disk(OverlayBacking{file.path}, false);
  CHECK(error_of([&] { open_disk(FileBacking{file.path}, false); }) != "");
}

TEST_CASE("disk: what is no file of a disk's bytes is refused by name") {
  CHECK(error_of([] { open_disk(OverlayBacking{"/nonexistent"}, false); }) ==
        "open disk: /nonexistent (No such file or directory)");
  CHECK(error_of([] { open_disk(OverlayBacking{"/dev"}, false); }).find("not a regular file") !=
        std::string::npos);
  const TestFile odd(pattern(1000, 1));
  CHECK(error_of([&] { open_disk(FileBacking{odd.path}, false); }).find("1000 bytes") !=
        std::string::npos);
  const TestFile empty({});
  CHECK(error_of([&] { open_disk(OverlayBacking{empty.path}, false); }) != "");
}

TEST_CASE("disk: an image is described and made again, cluster by cluster") {
  const TestFile file(pattern(40'960, 1));
  const auto disk = open_disk(OverlayBacking{file.path}, false);
  disk->write(5000, pattern(9000, 2));
  disk->zero(20'480, 4096, true);
  const auto image = disk->image();
  const DiskImageState state = describe(*image);
  CHECK(state.data == std::vector<std::uint64_t>{1, 2, 3});
  CHECK(state.zeros == std::vector<std::uint64_t>{5});
  auto cluster = image->clusters.begin();
  const auto next = [&](std::span<std::byte> out) {
    while (!cluster->second) ++cluster;
    std::ranges::copy(*(cluster++)->second, out.begin());
  };
  const auto again = make_overlay(make_image(state, next));
  CHECK(read(*again, 0, 40'960) == read(*disk, 0, 40'960));
}

TEST_CASE("disk: an image over a file that was changed since is refused") {
  const TestFile file(pattern(8192, 1));
  const DiskImageState state = describe(*open_disk(OverlayBacking{file.path}, false)->image());
  const auto image = open_disk(OverlayBacking{file.path}, false)->image();
  const auto none = [](std::span<std::byte>) {};
  make_image(state, none);
  // Other content of the same size, at another time.
  std::ofstream(file.path, std::ios::binary) << std::string(8192, 'x');
  const std::array<timespec, 2> times{{{.tv_sec = 1, .tv_nsec = 0}, {.tv_sec = 1, .tv_nsec = 0}}};
  REQUIRE(::utimensat(AT_FDCWD, file.path.c_str(), times.data(), 0) == 0);
  CHECK(error_of([&] { make_image(state, none); }).find("the file was changed since") !=
        std::string::npos);
  CHECK(error_of([&] { make_overlay(image); }).find("the file was changed since") !=
        std::string::npos);
}

TEST_CASE("disk: a description that no image has is refused") {
  const auto refusal = [](DiskImageState state) {
    return error_of([&] { make_image(state, [](std::span<std::byte>) {}); });
  };
  const DiskImageState good{.size = 16'384, .base = {}, .data = {0, 2}, .zeros = {1}};
  CHECK(refusal(good) == "");
  CHECK(refusal({.size = 100, .base = {}, .data = {}, .zeros = {}}) != "");
  CHECK(refusal({.size = 0, .base = {}, .data = {}, .zeros = {}}) != "");
  CHECK(refusal({.size = 8192, .base = {}, .data = {2}, .zeros = {}}) != "");
  CHECK(refusal({.size = 8192, .base = {}, .data = {1, 0}, .zeros = {}}) != "");
  CHECK(refusal({.size = 8192, .base = {}, .data = {1}, .zeros = {1}}) != "");
}

TEST_CASE("disk: four threads at once each find what they wrote") {
  const auto disk = in_memory(1 << 20);
  std::array<bool, 4> good{};
  std::vector<std::thread> threads;
  for (unsigned n = 0; n < 4; ++n) {
    threads.emplace_back([&, n] {
      // Neighbours share clusters.
      const std::uint64_t offset = n * 100'000;
      bool same = true;
      for (unsigned round = 0; round < 50; ++round) {
        const Bytes bytes = pattern(100'000, n * 100 + round);
        disk->write(offset, bytes);
        same = same && read(*disk, offset, bytes.size()) == bytes;
      }
      good[n] = same;
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(good == std::array<bool, 4>{true, true, true, true});
}

}  // namespace
}  // namespace kvitest
