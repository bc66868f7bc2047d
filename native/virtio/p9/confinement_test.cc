// Ways out of the directory, each tried.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#include <atomic>
#include <thread>

#include "native/virtio/p9/p9.h"
#include "native/virtio/p9/test_p9.h"

namespace kvitest {
namespace {

struct Served {
  Served() { REQUIRE(client.start() == 0); }
  TestTree tree;
  P9Server server{tree.inside(), false};
  P9Client client{server};
};

const std::vector<std::string> kBadNames{
    "", ".", "..", "a/b", "/", "../outside", "/etc", std::string("a\0b", 3), std::string(256, 'n')};

TEST_CASE("9p confinement: upwards from the root is the root") {
  Served one;
  CHECK(one.client.content({"..", "..", "hello"}) == "hello from the host");
  CHECK(one.client.content({"..", "outside", "secret"}) == "errno 2");
  CHECK(one.client.content({"sub", "..", "..", "..", "hello"}) == "hello from the host");
}

TEST_CASE("9p confinement: names that are paths are refused wherever a name is") {
  Served one;
  REQUIRE(one.client.walk(0, 1, {"hello"}) == 0);
  for (const std::string& name : kBadNames) {
    CAPTURE(name);
    if (name != "..") CHECK(one.client.walk(0, 9, {name}) == EINVAL);
    CHECK(one.client.create(0, name) == EINVAL);
    CHECK(one.client.ask(P9Request(P9Type::kMkdir).u32(0).string(name).u32(0755).u32(0)) == EINVAL);
    CHECK(one.client.ask(P9Request(P9Type::kSymlink).u32(0).string(name).string("x").u32(0)) ==
          EINVAL);
    CHECK(one.client.ask(P9Request(P9Type::kLink).u32(0).u32(1).string(name)) == EINVAL);
    CHECK(one.client.ask(P9Request(P9Type::kRename).u32(1).u32(0).string(name)) == EINVAL);
    CHECK(one.client.ask(P9Request(P9Type::kRenameat).u32(0).string("hello").u32(0).string(name)) ==
          EINVAL);
    CHECK(one.client.ask(P9Request(P9Type::kRenameat).u32(0).string(name).u32(0).string("x")) ==
          EINVAL);
    CHECK(one.client.ask(P9Request(P9Type::kUnlinkat).u32(0).string(name).u32(0)) == EINVAL);
  }
  CHECK(one.tree.get("outside/secret") == "secret");
  CHECK(one.tree.get("inside/hello") == "hello from the host");
}

TEST_CASE("9p confinement: a link of the guest's leads nowhere, whatever it says") {
  Served one;
  const std::string secret = (one.tree.root / "outside/secret").string();
  const std::string outside = (one.tree.root / "outside").string();
  const auto link = [&](std::string_view name, std::string_view target) {
    return one.client.ask(P9Request(P9Type::kSymlink).u32(0).string(name).string(target).u32(0));
  };
  REQUIRE(link("absolute", secret) == 0);
  REQUIRE(link("relative", "../outside/secret") == 0);
  REQUIRE(link("directory", outside) == 0);
  REQUIRE(link("magic", "/proc/self/root") == 0);
  CHECK(one.client.content({"absolute"}) == "errno 40");
  CHECK(one.client.content({"relative"}) == "errno 40");
  CHECK(one.client.content({"directory", "secret"}) == "errno 2");
  CHECK(one.client.content({"magic", "etc", "passwd"}) == "errno 2");
  // It is a link for the guest, which reads it.
  REQUIRE(one.client.walk(0, 1, {"relative"}) == 0);
  REQUIRE(one.client.ask(P9Request(P9Type::kReadlink).u32(1)) == 0);
  P9Reader reader(one.client.answer);
  CHECK(reader.string() == "../outside/secret");

  // Neither its attributes nor what is made under it reach what it leads to.
  REQUIRE(one.client.walk(0, 2, {"directory"}) == 0);
  CHECK(one.client.create(2, "new") == ENOTDIR);
  CHECK(one.client.ask(P9Request(P9Type::kMkdir).u32(2).string("new").u32(0755).u32(0)) == ENOTDIR);
  CHECK(one.client.ask(P9Request(P9Type::kUnlinkat).u32(2).string("secret").u32(0)) == ENOTDIR);
  CHECK(one.client.ask(
            P9Request(P9Type::kRenameat).u32(2).string("secret").u32(0).string("mine")) == ENOTDIR);
  CHECK(
      one.client.ask(P9Request(P9Type::kRenameat).u32(0).string("hello").u32(2).string("theirs")) ==
      ENOTDIR);
  REQUIRE(one.client.walk(0, 3, {"absolute"}) == 0);
  P9Request truncate(P9Type::kSetattr);
  truncate.u32(3).u32(0x8).u32(0).u32(0).u32(0).u64(0).u64(0).u64(0).u64(0).u64(0);
  CHECK(one.client.ask(truncate) == EINVAL);
  P9Request mode(P9Type::kSetattr);
  mode.u32(3).u32(0x1).u32(0).u32(0).u32(0).u64(0).u64(0).u64(0).u64(0).u64(0);
  CHECK(one.client.ask(mode) == EOPNOTSUPP);
  // A hard link to a link is one more link.
  REQUIRE(one.client.ask(P9Request(P9Type::kLink).u32(0).u32(3).string("hard")) == 0);
  CHECK(one.client.content({"hard"}) == "errno 40");
  // A file in place of a link: the link goes, not what it leads to.
  CHECK(one.client.create(0, "absolute") == EEXIST);
  CHECK(one.tree.get("outside/secret") == "secret");
  CHECK(std::distance(std::filesystem::directory_iterator(outside), {}) == 1);
}

TEST_CASE("9p confinement: devices, FIFOs and sockets are seen, not opened") {
  Served one;
  REQUIRE(::mkfifo((one.tree.root / "inside/fifo").c_str(), 0644) == 0);
  REQUIRE(one.client.walk(0, 1, {"fifo"}) == 0);
  CHECK(one.client.ask(P9Request(P9Type::kGetattr).u32(1).u64(0x7ff)) == 0);
  // A read end would wait for ever, or fail with ENXIO.
  CHECK(one.client.open(1) == EACCES);
  CHECK(one.client.open(1, O_WRONLY) == EACCES);
  if (::mknod((one.tree.root / "inside/zero").c_str(), S_IFCHR | 0666, 0x105) == 0) {
    CHECK(one.client.content({"zero"}) == "errno 13");
  }
}

// The host swaps a directory with a link that leads outside while the guest reads and writes below
// it: each answer is the directory's, or an error, never what is outside.
TEST_CASE("9p confinement: a directory that turns into a link under way lets nobody out") {
  Served one;
  const std::string swapped = (one.tree.root / "inside/swapped").string();
  const std::string spare = (one.tree.root / "inside/spare").string();
  std::filesystem::create_directory(swapped);
  std::filesystem::create_directory_symlink(one.tree.root / "outside", spare);
  one.tree.put("inside/swapped/secret", "inside");
  std::atomic<bool> done = false;
  std::thread host([&] {
    while (!done) {
      // Both names exist all the time.
      ::renameat2(AT_FDCWD, swapped.c_str(), AT_FDCWD, spare.c_str(), RENAME_EXCHANGE);
    }
  });
  bool read_outside = false, wrote_outside = false;
  int read = 0, refused = 0, attempts = 0;
  for (; attempts < 200'000 && (read < 1000 || refused < 1000); ++attempts) {
    const std::string found = one.client.content({"swapped", "secret"});
    if (found == "inside") {
      ++read;
    } else {
      ++refused;
    }
    read_outside = read_outside || found == "secret";
    if (one.client.walk(0, 1, {"swapped"}) != 0) continue;
    if (one.client.create(1, "new") == 0) {
      wrote_outside = wrote_outside || std::filesystem::exists(one.tree.root / "outside/new");
      one.client.clunk(1);
      std::filesystem::remove(swapped + "/new");
      std::filesystem::remove(spare + "/new");
    } else {
      one.client.clunk(1);
    }
    wrote_outside = wrote_outside || std::filesystem::exists(one.tree.root / "outside/new");
  }
  done = true;
  host.join();
  CHECK(!read_outside);
  CHECK(!wrote_outside);
  // It was a race: both states were met.
  CHECK(read >= 100);
  CHECK(refused >= 100);
}

TEST_CASE("9p confinement: a directory moved outside by the host takes no fid along") {
  Served one;
  REQUIRE(one.client.walk(0, 1, {"sub"}) == 0);
  std::filesystem::rename(one.tree.root / "inside/sub", one.tree.root / "outside/sub");
  CHECK(one.client.walk(1, 2, {"deep"}) == ENOENT);
  CHECK(one.client.open(1) == ENOENT);
}

TEST_CASE("9p: a directory that is not there, or no directory, is refused") {
  TestTree tree;
  CHECK_THROWS_WITH(make_p9({.tag = "t", .path = (tree.root / "none").string()}),
                    doctest::Contains("open the directory"));
  CHECK_THROWS_WITH(make_p9({.tag = "t", .path = (tree.root / "inside/hello").string()}),
                    doctest::Contains("Not a directory"));
  CHECK_THROWS_WITH(make_p9({.tag = "", .path = tree.inside()}), doctest::Contains("a tag of 0"));
}

}  // namespace
}  // namespace kvitest
