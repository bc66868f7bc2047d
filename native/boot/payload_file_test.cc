#include "native/boot/payload_file.h"

#include <doctest/doctest.h>
#include <sys/stat.h>

#include "native/boot/test_payload.h"

namespace kvitest {
namespace {

TEST_CASE("payload file: a missing file is named with its errno") {
  const std::string message = error_of([] { PayloadFile("load kernel", "/nonexistent/bzImage"); });

  CHECK(message ==
        "load kernel: /nonexistent/bzImage (No such file or directory); check the path and its "
        "permissions");
}

TEST_CASE("payload file: a directory is refused") {
  const std::string message = error_of([] { PayloadFile("load kernel", "/tmp"); });

  CHECK(message.starts_with("load kernel: /tmp: not a regular file (Is a directory)"));
}

TEST_CASE("payload file: a FIFO without a writer is refused at once") {
  const TemporaryFile placeholder(FileBytes{});
  const std::string path = placeholder.path() + ".fifo";
  REQUIRE(::mkfifo(path.c_str(), 0600) == 0);

  const std::string message = error_of([&path] { PayloadFile("load initramfs", path); });
  ::unlink(path.c_str());

  CHECK(message.find("not a regular file") != std::string::npos);
}

TEST_CASE("payload file: reading past the end gives what there is") {
  const TemporaryFile file(FileBytes(10, std::byte{7}));
  const PayloadFile payload("load kernel", file.path());

  CHECK(payload.size() == 10);
  CHECK(payload.read(8, 100) == FileBytes(2, std::byte{7}));
  CHECK(payload.read(10, 1).empty());
}

TEST_CASE("payload file: sizes read well in messages") {
  CHECK(format_bytes(12) == "12 bytes");
  CHECK(format_bytes(3 * 1024) == "3 KiB");
  CHECK(format_bytes(64ull << 20) == "64 MiB");
  CHECK(format_bytes((8ull << 20) + (1 << 19)) == "8.5 MiB");
  CHECK(format_needed(66ull << 20) == "66 MiB");
  CHECK(format_needed((66ull << 20) + 1) == "67 MiB");
}

}  // namespace
}  // namespace kvitest
