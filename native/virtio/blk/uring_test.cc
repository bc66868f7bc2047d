// A disk that is a file, by io_uring and by threads.
#include "native/disk/uring.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <string>
#include <thread>
#include <vector>

#include "native/error.h"
#include "native/virtio/blk/test_blk.h"

namespace kvitest {
namespace {

constexpr std::size_t kBytes = 2 << 20;

bool no_uring() {
  std::string why;
  return Uring::make(4, why) == nullptr;
}

struct File {
  File() {
    const UniqueFd fd(::mkstemp(path.data()));
    REQUIRE(::ftruncate(fd.get(), kBytes) == 0);
  }
  ~File() { ::unlink(path.c_str()); }
  std::string path = "/tmp/kvitest-uring-XXXXXX";
};

BlkSpec spec_of(const File& file, FileEngine engine) {
  BlkSpec spec = memory_disk(kBytes);
  spec.backing = FileBacking{file.path, engine};
  spec.queue_size = 64;
  spec.queues = 2;
  return spec;
}

TEST_CASE(
    "blk file: the same answers by io_uring and by threads, many "
    "requests at once") {
  for (const FileEngine engine : {FileEngine::kThreads, FileEngine::kAuto}) {
    const File file;
    TestBlk blk(spec_of(file, engine));
    REQUIRE(blk.driver.start(TestBlk::kAll | kBlkMultiqueue) == 0x0f);
    std::vector<TestBlk::Pending> pending;
    for (unsigned i = 0; i < 16; ++i) {
      pending.push_back(blk.offer(TestBlk::kOut, 100 * i, pattern(512 * (1 + 5 * i), i), 0));
    }
    blk.driver.notify(0);
    for (const auto& one : pending) CHECK(blk.wait_for(one).status == TestBlk::kOk);
    pending.clear();
    blk.device->pause();
    blk.device->unpause();
    for (unsigned i = 0; i < 10; ++i) {
      pending.push_back(blk.offer(TestBlk::kIn, 100 * i, {}, 512 * (1 + 5 * i)));
    }
    // Among them what moves no sectors, and what is an error.
    const auto flush = blk.offer(TestBlk::kFlush, 0, {}, 0);
    const auto beyond = blk.offer(TestBlk::kIn, kBytes / 512, {}, 512);
    const auto odd = blk.offer(TestBlk::kIn, 0, {}, 100);
    const auto id = blk.offer(TestBlk::kGetId, 0, {}, 20);
    blk.driver.notify(0);
    for (unsigned i = 0; i < 10; ++i) {
      const auto answer = blk.wait_for(pending[i]);
      CHECK(answer.status == TestBlk::kOk);
      CHECK(answer.data == pattern(512 * (1 + 5 * i), i));
    }
    CHECK(blk.wait_for(flush).status == TestBlk::kOk);
    CHECK(blk.wait_for(beyond).status == TestBlk::kIoError);
    CHECK(blk.wait_for(odd).status == TestBlk::kIoError);
    CHECK(blk.wait_for(id).status == TestBlk::kOk);
    blk.device->pause();
    CHECK(blk.driver.queue(0).used_index() == 16 + 14);
    // Who did them is to be seen: reads that are none and writes are for threads everywhere.
    const bool by_uring = engine == FileEngine::kAuto && !no_uring();
    const RequestQueues& requests = blk.device->requests();
    CHECK(requests.server() ==
          (by_uring ? RequestQueues::Server::kEngine : RequestQueues::Server::kThreads));
    CHECK(requests.served().engine == (by_uring ? 10 : 0));
    CHECK(requests.served().threads == (by_uring ? 20 : 30));
    CHECK(requests.served().vcpu == 0);
    CHECK(blk.board.interrupts.take_messages(1) >= 1);
  }
}

TEST_CASE(
    "blk file: writes, write zeroes and a cache that is off go beside "
    "io_uring") {
  const File file;
  TestBlk blk(spec_of(file, FileEngine::kAuto));
  REQUIRE(blk.driver.start(TestBlk::kAll) == 0x0f);
  blk.driver.board.set_mmio(TestBoard::kDevice + 32, 1, 0);
  const auto out = blk.offer(TestBlk::kOut, 8, pattern(8192, 4), 0);
  blk.driver.notify(0);
  CHECK(blk.wait_for(out).status == TestBlk::kOk);
  CHECK(blk.on_disk(4096, 8192) == pattern(8192, 4));
  const auto zero = blk.offer(TestBlk::kWriteZeroes, 0, range(8, 16), 0);
  blk.driver.notify(0);
  CHECK(blk.wait_for(zero).status == TestBlk::kOk);
  CHECK(blk.on_disk(4096, 8192) == Bytes(8192));
  blk.device->pause();
}

TEST_CASE(
    "blk file: a reset waits for what io_uring has, and the disk works "
    "after it") {
  const File file;
  TestBlk blk(spec_of(file, FileEngine::kAuto));
  blk.device->disk().write(0, pattern(kBytes, 5));
  for (unsigned round = 0; round < 20; ++round) {
    blk.next_.clear();
    REQUIRE(blk.driver.start(TestBlk::kAll) == 0x0f);
    std::vector<TestBlk::Pending> pending;
    for (unsigned i = 0; i < 10; ++i) {
      pending.push_back(blk.offer(TestBlk::kIn, 200 * i, {}, 65536));
    }
    blk.driver.notify(0);
    blk.driver.reset();
    const std::uint16_t used = blk.driver.queue(0).used_index();
    // All were taken by the doorbell, so each is done.
    for (const auto& one : pending) CHECK(blk.wait_for(one).status == TestBlk::kOk);
    CHECK(blk.driver.queue(0).used_index() == used);
    CHECK(used == 10);
  }
}

TEST_CASE("blk file: sectors that a smaller disk has no more are an error") {
  const File file;
  TestBlk blk(spec_of(file, FileEngine::kAuto));
  REQUIRE(blk.driver.start(TestBlk::kAll) == 0x0f);
  std::vector<TestBlk::Pending> pending;
  for (unsigned i = 0; i < 8; ++i) {
    pending.push_back(blk.offer(TestBlk::kIn, kBytes / 512 - 128, {}, 65536));
  }
  blk.driver.notify(0);
  blk.device->resize(kBytes / 2);
  for (const auto& one : pending) CHECK(blk.wait_for(one).status != TestBlk::kUntouched);
  const auto late = blk.offer(TestBlk::kIn, kBytes / 512 - 128, {}, 512);
  blk.driver.notify(0);
  CHECK(blk.wait_for(late).status == TestBlk::kIoError);
  blk.device->pause();
}

TEST_CASE("blk file: answers outlive the thread that asked") {
  const File file;
  TestBlk blk(spec_of(file, FileEngine::kAuto));
  blk.device->disk().write(0, pattern(kBytes, 6));
  // Out of the page cache, as far as the host does that: then they are under
  // way for a while.
  const UniqueFd fd(::open(file.path.c_str(), O_RDWR | O_CLOEXEC));
  REQUIRE(::fsync(fd.get()) == 0);
  REQUIRE(::posix_fadvise(fd.get(), 0, 0, POSIX_FADV_DONTNEED) == 0);
  REQUIRE(blk.driver.start(TestBlk::kAll) == 0x0f);
  std::vector<TestBlk::Pending> pending;
  for (unsigned i = 0; i < 12; ++i) {
    pending.push_back(blk.offer(TestBlk::kIn, 300 * i, {}, 65536));
  }
  // As a vCPU's thread that ends: the kernel cancels what such a thread began.
  std::thread([&] { blk.driver.notify(0); }).join();
  const Bytes whole = pattern(kBytes, 6);
  for (unsigned i = 0; i < 12; ++i) {
    const auto answer = blk.wait_for(pending[i]);
    CHECK(answer.status == TestBlk::kOk);
    const auto from = whole.begin() + 300 * 512 * static_cast<std::ptrdiff_t>(i);
    CHECK(std::equal(answer.data.begin(), answer.data.end(), from));
  }
  blk.device->pause();
}

// On this thread io_uring_setup(2) is refused, as a container's seccomp profile
// does.
void forbid_uring() {
  std::array<sock_filter, 4> filter{{BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
                                     BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
                                     BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
                                     BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)}};
  const sock_fprog program{filter.size(), filter.data()};
  REQUIRE(::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
  REQUIRE(::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
}

TEST_CASE(
    "blk file: where io_uring is forbidden threads do it; who insists is "
    "told why") {
  std::thread([] {
    forbid_uring();
    const File file;
    {
      TestBlk blk(spec_of(file, FileEngine::kAuto));
      REQUIRE(blk.driver.start(TestBlk::kAll) == 0x0f);
      const auto in = blk.offer(TestBlk::kIn, 8, {}, 4096);
      blk.driver.notify(0);
      CHECK(blk.wait_for(in).status == TestBlk::kOk);
      blk.device->pause();
    }
    CHECK_THROWS_WITH_AS(TestBlk(spec_of(file, FileEngine::kUring)),
                         doctest::Contains("disk disk0: io_uring_setup: Operation not permitted; "
                                           "sysctl kernel.io_uring_disabled"),
                         Error);
  }).join();
}

// A request whose data lies in buffers of odd lengths, with guest bytes between them.
struct Scattered {
  static constexpr std::size_t kPieces = 12;
  static constexpr std::size_t kGap = 3;
  static constexpr std::size_t kSectors = 9;

  Scattered(TestBlk& blk, std::uint32_t type, std::uint64_t sector, std::uint16_t first)
      : blk(blk), at(blk.driver.allocate(2 * kSectors * 512)), status(blk.driver.allocate(1)) {
    blk.write(at, Bytes(2 * kSectors * 512, std::byte{0x77}));
    Bytes header(16);
    store_le<std::uint32_t>(header, 0, type);
    store_le<std::uint64_t>(header, 8, sector);
    TestQueue& ring = blk.driver.queue(0);
    std::uint16_t index = first;
    const auto add = [&](Gpa gpa, std::size_t length, std::uint16_t flags) {
      ring.set_descriptor(index, gpa, static_cast<std::uint32_t>(length), flags,
                          static_cast<std::uint16_t>(index + 1));
      ++index;
    };
    add(blk.put(header), 16, TestQueue::kNext);
    Gpa next = at;
    std::size_t left = kSectors * 512;
    for (std::size_t i = 0; i < kPieces; ++i) {
      const std::size_t length = i + 1 == kPieces ? left : 1 + 97 * i % 700;
      add(next, length,
          TestQueue::kNext | (type == TestBlk::kIn ? TestQueue::kWrite : std::uint16_t{0}));
      pieces.emplace_back(next, length);
      // Every third lies right behind the one before.
      next += length + (i % 3 == 0 ? 0 : kGap);
      left -= length;
    }
    add(status, 1, TestQueue::kWrite);
    ring.set_available(first);
  }

  Bytes data() const {
    Bytes all;
    for (const auto& [gpa, length] : pieces) {
      Bytes piece(length);
      REQUIRE(blk.board.memory.read(gpa, piece));
      all.insert(all.end(), piece.begin(), piece.end());
    }
    return all;
  }
  std::uint32_t used_length() const {
    while (true) {
      if (const auto used = blk.driver.queue(0).take_used()) return used->length;
      std::this_thread::yield();
    }
  }
  // Of the guest's bytes those that are in no piece.
  std::size_t untouched() const {
    Bytes all(2 * kSectors * 512);
    REQUIRE(blk.board.memory.read(at, all));
    for (const auto& [gpa, length] : pieces) {
      std::ranges::fill(std::span(all).subspan(gpa - at, length), std::byte{0});
    }
    return static_cast<std::size_t>(std::ranges::count(all, std::byte{0x77}));
  }

  TestBlk& blk;
  Gpa at;
  Gpa status;
  std::vector<std::pair<Gpa, std::size_t>> pieces;
};

TEST_CASE(
    "blk file: data in buffers of any cut goes there and nowhere else, by "
    "io_uring and by threads") {
  for (const FileEngine engine : {FileEngine::kThreads, FileEngine::kAuto}) {
    CAPTURE(static_cast<int>(engine));
    const File file;
    TestBlk blk(spec_of(file, engine));
    REQUIRE(blk.driver.start(TestBlk::kAll) == 0x0f);
    constexpr std::size_t kLength = Scattered::kSectors * 512;
    blk.device->disk().write(512, pattern(kLength, 7));

    const Scattered in(blk, TestBlk::kIn, 1, 0);
    blk.driver.notify(0);
    CHECK(in.used_length() == kLength + 1);
    CHECK(blk.board.memory.load<std::uint8_t>(in.status) == TestBlk::kOk);
    CHECK(in.data() == pattern(kLength, 7));
    CHECK(in.untouched() == kLength);

    const Scattered out(blk, TestBlk::kOut, 100, 20);
    for (std::size_t i = 0; const auto& [gpa, length] : out.pieces) {
      blk.write(gpa, std::span<const std::byte>(pattern(kLength, 8)).subspan(i, length));
      i += length;
    }
    blk.driver.notify(0);
    CHECK(out.used_length() == 1);
    CHECK(blk.board.memory.load<std::uint8_t>(out.status) == TestBlk::kOk);
    CHECK(blk.on_disk(512 * 100, kLength) == pattern(kLength, 8));
    CHECK(blk.on_disk(512 * 100 + kLength, 512) == Bytes(512));
    blk.device->pause();
  }
}

TEST_CASE("blk file: of a read that the file cut short nothing but zeros is answered") {
  for (const FileEngine engine : {FileEngine::kThreads, FileEngine::kAuto}) {
    CAPTURE(static_cast<int>(engine));
    const File file;
    TestBlk blk(spec_of(file, engine));
    REQUIRE(blk.driver.start(TestBlk::kAll) == 0x0f);
    blk.device->disk().write(0, pattern(4096, 3));
    REQUIRE(::truncate(file.path.c_str(), 1000) == 0);
    const auto in = blk.offer(TestBlk::kIn, 0, {}, 4096);
    blk.driver.notify(0);
    const auto answer = blk.wait_for(in);
    CHECK(answer.status == TestBlk::kIoError);
    CHECK(answer.used == 4097);
    CHECK(answer.data == Bytes(4096));
    blk.device->pause();
  }
}

TEST_CASE(
    "uring: operations come back by their tags, errors as errnos, and no "
    "more than fit" *
    doctest::skip(no_uring())) {
  const File file;
  const UniqueFd fd(::open(file.path.c_str(), O_RDWR | O_CLOEXEC));
  std::string why;
  const auto ring = Uring::make(4, why);
  const Bytes bytes = pattern(512, 1);
  REQUIRE(::pwrite(fd.get(), bytes.data(), bytes.size(), 1024) == 512);
  Bytes back(512);
  Bytes end(512);
  // One piece, and several.
  const std::array<iovec, 2> halves{iovec{back.data(), 100}, iovec{&back[100], 412}};
  const iovec rest{end.data(), end.size()};
  REQUIRE(ring->read(fd.get(), 1024, halves, 1));
  REQUIRE(ring->read(-1, 0, std::span(&rest, 1), 2));
  REQUIRE(ring->read(fd.get(), kBytes - 100, std::span(&rest, 1), 3));
  REQUIRE(ring->nothing(4));
  CHECK_FALSE(ring->nothing(5));
  REQUIRE(ring->submit());
  std::array<std::int32_t, 5> results{};
  for (int i = 0; i < 4; ++i) {
    ring->wait();
    const auto done = ring->take();
    REQUIRE(done.has_value());
    results.at(done->tag) = done->result;
  }
  CHECK(results == std::array<std::int32_t, 5>{0, 512, -EBADF, 100, 0});
  CHECK(back == bytes);
  CHECK_FALSE(ring->take().has_value());
  // There is room again.
  REQUIRE(ring->nothing(6));
  REQUIRE(ring->submit());
  ring->wait();
  CHECK(ring->take()->tag == 6);
}

}  // namespace
}  // namespace kvitest
