#include <doctest/doctest.h>
#include <fcntl.h>

#include <set>

#include "native/virtio/p9/test_p9.h"

namespace kvitest {
namespace {

struct Served {
  explicit Served(bool read_only = false) : server(tree.inside(), read_only) {
    REQUIRE(client.start() == 0);
  }
  TestTree tree;
  P9Server server;
  P9Client client{server};
};

std::set<std::string> names_of(P9Client& client, std::uint32_t fid, std::uint32_t count) {
  std::set<std::string> names;
  std::uint64_t offset = 0;
  while (true) {
    REQUIRE(client.ask(P9Request(P9Type::kReaddir).u32(fid).u64(offset).u32(count)) == 0);
    P9Reader reader(client.answer);
    std::uint32_t left = reader.u32();
    if (left == 0) return names;
    while (left != 0) {
      reader.bytes(13);
      offset = reader.u64();
      reader.u8();
      const std::string name = reader.string();
      REQUIRE(reader.good());
      CHECK(names.insert(name).second);
      left -= static_cast<std::uint32_t>(24 + name.size());
    }
  }
}

TEST_CASE("9p: a file of the host is read, in pieces and past its end") {
  Served one;
  REQUIRE(one.client.walk(0, 1, {"hello"}) == 0);
  CHECK(one.client.read(1) == EBADF);
  REQUIRE(one.client.open(1) == 0);
  REQUIRE(one.client.read(1, 0, 5) == 0);
  CHECK(one.client.data == "hello");
  REQUIRE(one.client.read(1, 11, 100) == 0);
  CHECK(one.client.data == "the host");
  REQUIRE(one.client.read(1, 1000, 100) == 0);
  CHECK(one.client.data.empty());
  CHECK(one.client.clunk(1) == 0);
  CHECK(one.client.clunk(1) == EBADF);
}

TEST_CASE("9p: an answer is no longer than the room for it and the agreed size") {
  Served one;
  one.tree.put("inside/long", std::string(20000, 'x'));
  REQUIRE(one.client.walk(0, 1, {"long"}) == 0);
  REQUIRE(one.client.open(1) == 0);
  REQUIRE(one.client.read(1, 0, 0xffff'ffff) == 0);
  CHECK(one.client.data.size() == 8192 - kP9ReadBytes);
  one.client.room = 100;
  REQUIRE(one.client.read(1, 0, 0xffff'ffff) == 0);
  CHECK(one.client.data.size() == 100 - kP9ReadBytes);
  CHECK(one.client.ask(P9Request(P9Type::kGetattr).u32(1).u64(0x7ff)) == EMSGSIZE);
  CHECK(one.server.answer(P9Request(P9Type::kClunk).u32(1).take(), 10).empty());
}

TEST_CASE("9p: what is made, written, renamed and removed is so on the host") {
  Served one;
  REQUIRE(one.client.ask(P9Request(P9Type::kMkdir).u32(0).string("new").u32(0755).u32(0)) == 0);
  REQUIRE(one.client.walk(0, 1, {"new"}) == 0);
  REQUIRE(one.client.create(1, "file") == 0);
  REQUIRE(one.client.write(1, 3, "written") == 0);
  CHECK(one.client.ask(P9Request(P9Type::kFsync).u32(1).u32(0)) == 0);
  CHECK(one.tree.get("inside/new/file") == std::string("\0\0\0written", 10));
  REQUIRE(one.client.walk(0, 2, {"new"}) == 0);
  REQUIRE(one.client.ask(
              P9Request(P9Type::kRenameat).u32(0).string("new").u32(0).string("moved")) == 0);
  // Fids go with what they stand for.
  REQUIRE(one.client.walk(2, 3, {"file"}) == 0);
  REQUIRE(one.client.ask(P9Request(P9Type::kLink).u32(0).u32(3).string("linked")) == 0);
  CHECK(one.tree.get("inside/linked").size() == 10);
  REQUIRE(one.client.ask(P9Request(P9Type::kUnlinkat).u32(2).string("file").u32(0)) == 0);
  CHECK(one.client.ask(P9Request(P9Type::kUnlinkat).u32(0).string("moved").u32(0)) == EISDIR);
  REQUIRE(one.client.ask(P9Request(P9Type::kUnlinkat).u32(0).string("moved").u32(AT_REMOVEDIR)) ==
          0);
  CHECK(!std::filesystem::exists(one.tree.root / "inside/moved"));
  // Still open, though it has no path any more.
  CHECK(one.client.ask(P9Request(P9Type::kGetattr).u32(1).u64(0x7ff)) == 0);
}

TEST_CASE("9p: attributes are set, but for owners and set-user-ID") {
  Served one;
  const auto set = [&](std::uint32_t valid, std::uint32_t mode, std::uint32_t uid,
                       std::uint64_t size) {
    P9Request request(P9Type::kSetattr);
    request.u32(1).u32(valid).u32(mode).u32(uid).u32(0).u64(size);
    return one.client.ask(request.u64(7).u64(8).u64(1000).u64(5));
  };
  REQUIRE(one.client.walk(0, 1, {"hello"}) == 0);
  REQUIRE(set(0x1 | 0x8, 06750, 0, 5) == 0);
  CHECK(one.tree.get("inside/hello") == "hello");
  CHECK(std::filesystem::status(one.tree.root / "inside/hello").permissions() ==
        std::filesystem::perms(0750));
  CHECK(set(0x2, 0, ::getuid() + 1, 0) == EPERM);
  CHECK(set(0x2, 0, ::getuid(), 0) == 0);
  REQUIRE(set(0x20 | 0x100, 0, 0, 0) == 0);
  struct stat status {};
  REQUIRE(::stat((one.tree.root / "inside/hello").c_str(), &status) == 0);
  CHECK(status.st_mtim.tv_sec == 1000);
  CHECK(status.st_mtim.tv_nsec == 5);
  REQUIRE(one.client.create(0, "suid", 2, 06755) == 0);
  REQUIRE(::stat((one.tree.root / "inside/suid").c_str(), &status) == 0);
  CHECK((status.st_mode & 07000) == 0);
}

TEST_CASE("9p: a directory is listed whole, however little fits into an answer") {
  Served one;
  std::set<std::string> expected{".", "..", "hello", "sub"};
  for (int i = 0; i < 300; ++i) {
    expected.insert("file-" + std::to_string(i));
    one.tree.put("inside/file-" + std::to_string(i), "");
  }
  REQUIRE(one.client.walk(0, 1, {}) == 0);
  REQUIRE(one.client.open(1) == 0);
  CHECK(names_of(one.client, 1, 200) == expected);
  CHECK(names_of(one.client, 1, 8000) == expected);
  CHECK(one.client.ask(P9Request(P9Type::kReaddir).u32(1).u64(0).u32(10)) == EINVAL);
}

TEST_CASE("9p: a directory that is read only stays as it is") {
  Served one(true);
  CHECK(one.client.content({"hello"}) == "hello from the host");
  REQUIRE(one.client.walk(0, 1, {"hello"}) == 0);
  CHECK(one.client.open(1, O_RDWR) == EROFS);
  CHECK(one.client.open(1, O_TRUNC) == EROFS);
  CHECK(one.client.create(0, "new") == EROFS);
  CHECK(one.client.ask(P9Request(P9Type::kMkdir).u32(0).string("new").u32(0755).u32(0)) == EROFS);
  CHECK(one.client.ask(P9Request(P9Type::kSymlink).u32(0).string("new").string("x").u32(0)) ==
        EROFS);
  CHECK(one.client.ask(P9Request(P9Type::kLink).u32(0).u32(1).string("new")) == EROFS);
  CHECK(one.client.ask(P9Request(P9Type::kUnlinkat).u32(0).string("hello").u32(0)) == EROFS);
  CHECK(one.client.ask(P9Request(P9Type::kRenameat).u32(0).string("hello").u32(0).string("x")) ==
        EROFS);
  CHECK(one.client.ask(P9Request(P9Type::kRemove).u32(1)) == EROFS);
  CHECK(one.tree.get("inside/hello") == "hello from the host");
}

TEST_CASE("9p: messages that are none, and fids that are none, are refused") {
  Served one;
  const auto refused = [&](P9Request& request) { return one.client.ask(request); };
  CHECK(refused(P9Request(P9Type::kWalk).u32(0)) == EPROTO);
  CHECK(refused(P9Request(P9Type::kWrite).u32(0).u64(0).u32(0xffff'fff0).raw("x")) == EPROTO);
  CHECK(refused(P9Request(P9Type::kMkdir).u32(0).u16(60000).raw("short")) == EPROTO);
  CHECK(refused(P9Request(P9Type::kGetattr).u32(77).u64(0)) == EBADF);
  CHECK(refused(P9Request(P9Type::kAuth).u32(1)) == EOPNOTSUPP);
  CHECK(refused(P9Request(P9Type::kXattrwalk).u32(0).u32(1).string("user.x")) == EOPNOTSUPP);
  CHECK(refused(P9Request(P9Type::kMknod).u32(0).string("null").u32(020666).u32(1).u32(3).u32(0)) ==
        EPERM);
  CHECK(refused(P9Request(static_cast<P9Type>(255)).u8(0)) == EOPNOTSUPP);
  CHECK(one.client.walk(0, 0xffff'ffff, {}) == EINVAL);
  CHECK(one.client.walk(0, 5, std::vector<std::string>(17, "..")) == EINVAL);
  // A size that says more, or less, than there is.
  Bytes lying = P9Request(P9Type::kClunk).u32(0).take();
  store_le<std::uint32_t>(lying, 0, 1000);
  CHECK(load_le<std::uint32_t>(one.server.answer(lying, 100), 7) == EPROTO);
  store_le<std::uint32_t>(lying, 0, 3);
  CHECK(load_le<std::uint32_t>(one.server.answer(lying, 100), 7) == EPROTO);
  CHECK(load_le<std::uint32_t>(one.server.answer({}, 100), 7) == EPROTO);
}

TEST_CASE("9p: versions, and nothing before one was agreed on") {
  TestTree tree;
  P9Server server(tree.inside(), false);
  P9Client client(server);
  CHECK(client.attach() == EPROTO);
  CHECK(client.version(100) == EMSGSIZE);
  REQUIRE(client.version(8192, "9P2000.u") == 0);
  CHECK(client.attach() == EPROTO);
  REQUIRE(client.version(0xffff'ffff) == 0);
  CHECK(load_le<std::uint32_t>(client.answer, 0) == kP9MaxMessage);
  REQUIRE(client.attach() == 0);
  CHECK(client.attach() == EBADF);
  // A new version begins anew.
  REQUIRE(client.version() == 0);
  CHECK(client.walk(0, 1, {}) == EBADF);
}

TEST_CASE("9p: fids and open files have an upper limit") {
  Served one;
  for (std::uint32_t i = 1; i < kP9MaxFids; ++i) REQUIRE(one.client.walk(0, i, {"hello"}) == 0);
  CHECK(one.client.walk(0, kP9MaxFids, {"hello"}) == EMFILE);
  for (std::uint32_t i = 1; i <= kP9MaxOpen; ++i) REQUIRE(one.client.open(i) == 0);
  CHECK(one.client.open(kP9MaxOpen + 1) == EMFILE);
  REQUIRE(one.client.clunk(1) == 0);
  CHECK(one.client.open(kP9MaxOpen + 1) == 0);
}

TEST_CASE("9p: a fork goes on with its fids, and what is gone is stale") {
  Served one;
  one.tree.put("inside/other", "other");
  REQUIRE(one.client.walk(0, 1, {"hello"}) == 0);
  REQUIRE(one.client.open(1, O_RDWR) == 0);
  REQUIRE(one.client.walk(0, 2, {"sub"}) == 0);
  REQUIRE(one.client.walk(0, 3, {"other"}) == 0);
  const P9State state = one.server.state();
  // Another file of that name.
  std::filesystem::rename(one.tree.root / "inside/other", one.tree.root / "inside/kept");
  one.tree.put("inside/other", "replaced");
  P9Server fork(one.tree.inside(), false);
  REQUIRE(fork.load(state));
  P9Client client(fork);
  REQUIRE(client.read(1) == 0);
  CHECK(client.data == "hello from the host");
  CHECK(client.write(1, 0, "H") == 0);
  CHECK(client.walk(2, 4, {"deep"}) == 0);
  CHECK(client.open(3) == ESTALE);
  CHECK(client.clunk(3) == 0);

  P9State wrong = state;
  wrong.message_size = 17;
  CHECK(!fork.load(wrong));
  wrong = state;
  wrong.fids.push_back(wrong.fids.front());
  CHECK(!fork.load(wrong));
  // What a read-only directory never opened.
  P9Server reader(one.tree.inside(), true);
  CHECK(!reader.load(state));
}

}  // namespace
}  // namespace kvitest
