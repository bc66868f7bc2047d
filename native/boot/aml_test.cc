#include "native/boot/aml.h"

#include <doctest/doctest.h>

#include <stdexcept>

namespace kvitest::aml {
namespace {

TEST_CASE("aml: integers take their shortest form") {
  CHECK(integer(0) == Bytes{0x00});
  CHECK(integer(1) == Bytes{0x01});
  CHECK(integer(2) == Bytes{0x0a, 0x02});
  CHECK(integer(0x1234) == Bytes{0x0b, 0x34, 0x12});
  CHECK(integer(0x1234'5678) == Bytes{0x0c, 0x78, 0x56, 0x34, 0x12});
  CHECK(integer(1ull << 32) == Bytes{0x0e, 0, 0, 0, 0, 1, 0, 0, 0});
}

TEST_CASE("aml: an EISA id is packed as the specification's example") {
  CHECK(eisa_id("PNP0A03") == Bytes{0x0c, 0x41, 0xd0, 0x0a, 0x03});
}

TEST_CASE("aml: names are padded, and paths carry their prefixes") {
  CHECK(name_path("GED") == Bytes{'G', 'E', 'D', '_'});
  CHECK(name_path("\\_SB") == Bytes{'\\', '_', 'S', 'B', '_'});
  CHECK(name_path("\\_SB.PCI0") == Bytes{'\\', 0x2e, '_', 'S', 'B', '_', 'P', 'C', 'I', '0'});
  CHECK(name_path("A.B.C") ==
        Bytes{0x2f, 3, 'A', '_', '_', '_', 'B', '_', '_', '_', 'C', '_', '_', '_'});
}

TEST_CASE("aml: malformed names and ids are refused") {
  CHECK_THROWS_AS(name_path("TOOLONG"), std::invalid_argument);
  CHECK_THROWS_AS(name_path(""), std::invalid_argument);
  CHECK_THROWS_AS(name_path("1ABC"), std::invalid_argument);
  CHECK_THROWS_AS(name_path("abc"), std::invalid_argument);
  CHECK_THROWS_AS(eisa_id("PNP0A0"), std::invalid_argument);
  CHECK_THROWS_AS(eisa_id("pnp0A03"), std::invalid_argument);
  CHECK_THROWS_AS(string("\xc3\xa9"), std::invalid_argument);
}

TEST_CASE("aml: a package length counts itself, in one byte up to 63") {
  const Bytes small = package({integer(1)});
  CHECK(small == Bytes{0x12, 0x03, 0x01, 0x01});

  // 62 bytes of body and one of length are the most that one byte can say.
  const Bytes largest = scope("ABCD", {Bytes(58, 0x00)});
  CHECK(largest[1] == 63);
  CHECK(largest.size() == 64);
}

TEST_CASE("aml: longer package lengths take two and three bytes, low nibble first") {
  const Bytes two = scope("ABCD", {Bytes(59, 0x00)});
  CHECK(two[1] == (0x40 | (65 & 0xf)));
  CHECK(two[2] == 65 >> 4);
  CHECK(two.size() == 1 + 65);

  const Bytes three = scope("ABCD", {Bytes(5000, 0x00)});
  CHECK(three[1] == (0x80 | (5007 & 0xf)));
  CHECK(three[2] == (5007 >> 4 & 0xff));
  CHECK(three[3] == 5007 >> 12);
}

TEST_CASE("aml: a resource template is a buffer that ends with the end tag") {
  const Bytes buffer = resources({io_ports(0x3f8, 8)});

  CHECK(buffer == Bytes{0x11, 0x0d, 0x0a, 10, 0x47, 1, 0xf8, 0x03, 0xf8, 0x03, 1, 8, 0x79, 0});
}

TEST_CASE("aml: an interrupt descriptor says edge or level") {
  CHECK(interrupt(5, Trigger::Edge) == Bytes{0x89, 6, 0, 0x03, 1, 5, 0, 0, 0});
  CHECK(interrupt(5, Trigger::Level) == Bytes{0x89, 6, 0, 0x01, 1, 5, 0, 0, 0});
}

TEST_CASE(
    "aml: an interrupt as PCI's is level, active low and shared; a fixed range is read-write") {
  CHECK(aml::interrupt(17, aml::Trigger::Pci) == aml::Bytes{0x89, 6, 0, 0x0d, 1, 17, 0, 0, 0});
  CHECK(aml::memory32(0xe000'0000, 0x1000) ==
        aml::Bytes{0x86, 9, 0, 1, 0, 0, 0, 0xe0, 0, 0x10, 0, 0});
}

TEST_CASE("aml: windows give minimum, maximum and length") {
  CHECK(bus_window(0, 0) == Bytes{0x88, 13, 0, 2, 0x0c, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0});
  CHECK(io_window(0x1000, 0xf000) ==
        Bytes{0x88, 13, 0, 1, 0x0c, 3, 0, 0, 0, 0x10, 0xff, 0xff, 0, 0, 0, 0xf0});
}

TEST_CASE("aml: a method with a condition encodes its arguments") {
  const Bytes term =
      method("_EVT", 1, {if_equal(argument(0), integer(5), {notify("\\_SB.VGEN", 0x80)})});

  CHECK(term == Bytes{0x14, 0x19, '_',  'E', 'V', 'T', 0x09, 0xa0, 0x12, 0x93, 0x68, 0x0a, 0x05,
                      0x86, '\\', 0x2e, '_', 'S', 'B', '_',  'V',  'G',  'E',  'N',  0x0a, 0x80});
}

}  // namespace
}  // namespace kvitest::aml
