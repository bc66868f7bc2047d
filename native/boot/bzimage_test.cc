#include "native/boot/bzimage.h"

#include <doctest/doctest.h>

#include "native/boot/test_payload.h"

namespace kvitest {
namespace {

constexpr std::uint64_t kMiB = 1 << 20;

BzImage parse(const FileBytes& bytes) {
  const TemporaryFile file(bytes);
  return parse_bzimage(PayloadFile("load kernel", file.path()));
}

std::string parse_error(const FileBytes& bytes) {
  return error_of([&bytes] { parse(bytes); });
}

bool mentions(const std::string& message, const std::string& part) {
  return message.starts_with("load kernel: /tmp/") && message.find(part) != std::string::npos;
}

TEST_CASE("bzimage: the setup header is read") {
  const BzImage image = parse(make_bzimage());

  CHECK(image.version == 0x20f);
  CHECK(image.kernel_offset == 1024);
  CHECK(image.kernel_size == kTestKernelSize);
  CHECK(image.load_address == kTestKernelBase);
  CHECK(image.init_size == kTestKernelInitSize);
  CHECK(image.initramfs_limit == 0x8000'0000);
  CHECK(image.cmdline_limit == 2047);
}

TEST_CASE("bzimage: only the setup header is copied, up to its own end") {
  FileBytes bytes = make_bzimage();
  store_le<std::uint32_t>(bytes, 0x264, 0x1234'5678);  // handover_offset, inside
  store_le<std::uint32_t>(bytes, 0x26c, 0x1234'5678);  // behind the header's end

  const BzImage image = parse(bytes);

  CHECK(load_le<std::uint32_t>(image.setup_header, 0x264 - 0x1f1) == 0x1234'5678);
  CHECK(load_le<std::uint32_t>(image.setup_header, 0x26c - 0x1f1) == 0);
}

TEST_CASE("bzimage: a setup_sects of 0 means 4") {
  FileBytes bytes = make_bzimage();
  store_le<std::uint8_t>(bytes, 0x1f1, 0);
  bytes.resize(5 * 512 + kTestKernelSize);

  CHECK(parse(bytes).kernel_offset == 5 * 512);
}

TEST_CASE("bzimage: a file that is something else is not a kernel") {
  CHECK(mentions(parse_error(FileBytes(100'000)), "not a kernel"));
  CHECK(mentions(parse_error(FileBytes{}), "not a kernel"));
  CHECK(mentions(parse_error(FileBytes(0x204)), "not a kernel"));
}

TEST_CASE("bzimage: a truncated file says how many bytes are missing") {
  FileBytes bytes = make_bzimage();
  bytes.pop_back();

  CHECK(mentions(parse_error(bytes), "truncated: header says 5120 bytes, file has 5119"));
}

TEST_CASE("bzimage: an old boot protocol is refused") {
  FileBytes bytes = make_bzimage();
  store_le<std::uint16_t>(bytes, 0x206, 0x20b);

  CHECK(mentions(parse_error(bytes), "boot protocol 2.11 is too old"));
}

TEST_CASE("bzimage: a 32-bit kernel is refused") {
  FileBytes bytes = make_bzimage();
  store_le<std::uint16_t>(bytes, 0x236, 0);

  CHECK(mentions(parse_error(bytes), "no 64-bit entry point"));
}

TEST_CASE("bzimage: impossible addresses and sizes are refused") {
  FileBytes low = make_bzimage();
  store_le<std::uint64_t>(low, 0x258, 0x1000);
  FileBytes empty = make_bzimage();
  store_le<std::uint32_t>(empty, 0x1f4, 0);
  FileBytes no_init_size = make_bzimage();
  store_le<std::uint32_t>(no_init_size, 0x260, 0);

  CHECK(mentions(parse_error(low), "damaged"));
  CHECK(mentions(parse_error(empty), "damaged"));
  CHECK(mentions(parse_error(no_init_size), "damaged"));
}

TEST_CASE("bzimage: the protected-mode kernel is copied to its address") {
  const TemporaryFile file(make_bzimage());
  const PayloadFile payload("load kernel", file.path());
  GuestMemory memory(4 * kMiB);

  load_bzimage(payload, parse_bzimage(payload), memory);

  CHECK(memory.load<std::uint8_t>(kTestKernelBase) == 0x90);
  CHECK(memory.load<std::uint8_t>(kTestKernelBase + kTestKernelSize - 1) == 0x90);
  CHECK(memory.load<std::uint8_t>(kTestKernelBase + kTestKernelSize) == 0);
}

TEST_CASE("bzimage: a guest too small for init_size is told how much is needed") {
  const TemporaryFile file(make_bzimage());
  const PayloadFile payload("load kernel", file.path());
  GuestMemory memory(3 * kMiB - kPageSize);

  const std::string message =
      error_of([&] { load_bzimage(payload, parse_bzimage(payload), memory); });

  CHECK(mentions(message,
                 "needs 3 MiB of memory to start, beside its initramfs, the guest has 2.9 MiB"));
}

TEST_CASE("bzimage: an address at the end of the address space does not wrap around") {
  FileBytes bytes = make_bzimage();
  store_le<std::uint64_t>(bytes, 0x258, 0xffff'ffff'ffff'f000);
  const TemporaryFile file(bytes);
  const PayloadFile payload("load kernel", file.path());
  GuestMemory memory(4 * kMiB);

  CHECK(mentions(error_of([&] { load_bzimage(payload, parse_bzimage(payload), memory); }),
                 "give the guest more memory"));
}

}  // namespace
}  // namespace kvitest
