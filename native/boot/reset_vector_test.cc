#include "native/boot/reset_vector.h"

#include <doctest/doctest.h>

#include <array>
#include <cstdint>

#include "native/boot/layout.h"
#include "native/boot/test_payload.h"

namespace kvitest {
namespace {

TEST_CASE("reset vector: F000:FFF0 writes the reset value to the reset port, then halts") {
  GuestMemory memory(1 << 20);
  AcpiPlatform platform;
  platform.reset_port = 0x602;
  platform.reset_value = 7;

  write_reset_vector(memory, platform);

  std::array<std::byte, 9> code{};
  REQUIRE(memory.read(0xf'fff0, code));
  const std::array<std::uint8_t, 9> wanted{0xba, 0x02, 0x06, 0xb0, 0x07, 0xee, 0xf4, 0xeb, 0xfd};
  CHECK(std::ranges::equal(code, std::as_bytes(std::span(wanted))));
}

TEST_CASE("reset vector: it shares no page with the tables and the generation id") {
  CHECK(kVmGenIdPage + kPageSize <= kResetVector);
}

TEST_CASE("reset vector: a guest without its first MiB is refused") {
  GuestMemory memory(4096);

  CHECK(error_of([&] { write_reset_vector(memory, {}); }).find("less than 1 MiB") !=
        std::string::npos);
}

}  // namespace
}  // namespace kvitest
