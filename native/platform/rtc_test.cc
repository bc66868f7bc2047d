#include "native/platform/rtc.h"

#include <doctest/doctest.h>

#include "native/platform/test_access.h"
#include "native/state/test_checkpoint.h"

namespace kvitest {
namespace {

constexpr std::time_t kNoon = 1'718'453'096;      // 2024-06-15 12:04:56 UTC, a Saturday
constexpr std::time_t kMidnight = 1'718'409'896;  // 2024-06-15 00:04:56 UTC

std::uint8_t cmos_read(Rtc& rtc, std::uint8_t index) {
  port_out(rtc, 0, index);
  return port_in(rtc, 1);
}

void cmos_write(Rtc& rtc, std::uint8_t index, std::uint8_t value) {
  port_out(rtc, 0, index);
  port_out(rtc, 1, value);
}

TEST_CASE("rtc: date and time are BCD in 24 hours") {
  Rtc rtc([] { return kNoon; });

  CHECK(cmos_read(rtc, 0x00) == 0x56);
  CHECK(cmos_read(rtc, 0x02) == 0x04);
  CHECK(cmos_read(rtc, 0x04) == 0x12);
  CHECK(cmos_read(rtc, 0x06) == 0x07);
  CHECK(cmos_read(rtc, 0x07) == 0x15);
  CHECK(cmos_read(rtc, 0x08) == 0x06);
  CHECK(cmos_read(rtc, 0x09) == 0x24);
  CHECK(cmos_read(rtc, 0x32) == 0x20);
}

TEST_CASE("rtc: the guest may choose binary and 12 hours") {
  Rtc noon([] { return kNoon; });
  Rtc midnight([] { return kMidnight; });

  cmos_write(noon, 0x0b, 0x04);
  cmos_write(midnight, 0x0b, 0x04);

  CHECK(cmos_read(noon, 0x00) == 56);
  CHECK(cmos_read(noon, 0x04) == (0x80 | 12));
  CHECK(cmos_read(midnight, 0x04) == 12);
}

TEST_CASE("rtc: it is valid, running and never updating") {
  Rtc rtc([] { return kNoon; });

  CHECK(cmos_read(rtc, 0x0a) == 0x20);
  CHECK(cmos_read(rtc, 0x0b) == 0x02);
  CHECK(cmos_read(rtc, 0x0c) == 0);
  CHECK(cmos_read(rtc, 0x0d) == 0x80);
}

TEST_CASE("rtc: the NMI mask bit of the index is ignored") {
  Rtc rtc([] { return kNoon; });

  CHECK(cmos_read(rtc, 0x80 | 0x00) == 0x56);
}

TEST_CASE("rtc: the guest cannot set the time") {
  Rtc rtc([] { return kNoon; });

  cmos_write(rtc, 0x09, 0x99);

  CHECK(cmos_read(rtc, 0x09) == 0x24);
}

TEST_CASE("rtc: by default it is the host's clock") {
  Rtc rtc;
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  ::gmtime_r(&now, &utc);

  cmos_write(rtc, 0x0b, 0x06);

  CHECK(cmos_read(rtc, 0x09) == utc.tm_year % 100);
}

TEST_CASE("rtc checkpoint: the index and the format that the guest chose are kept") {
  Rtc rtc([] { return kNoon; });
  cmos_write(rtc, 0x0b, 0x06);
  port_out(rtc, 0, 0x02);

  Rtc fork([] { return kMidnight; });
  load(fork, saved(rtc));

  CHECK(port_in(fork, 1) == 4);
  CHECK(cmos_read(fork, 0x0b) == 0x06);
  CHECK(cmos_read(fork, 0x09) == 24);
}

TEST_CASE("rtc checkpoint: another version and impossible registers are refused") {
  Rtc rtc;
  std::vector<std::byte> bytes = saved(rtc);
  CHECK(refusal(rtc, with_version(bytes, "rtc", 2)).find("version 2") != std::string::npos);
  bytes.back() = std::byte{0xff};
  CHECK(refusal(rtc, bytes).find("a register that cannot be") != std::string::npos);
}

}  // namespace
}  // namespace kvitest
