#include "native/boot/cpuid.h"

#include <doctest/doctest.h>

#include <algorithm>

namespace kvitest {
namespace {

const std::vector<CpuidEntry> kSupported{
    {0x0, 0, 0, 0x20, 0x6874'7541, 0x444d'4163, 0x6974'6e65},
    {0x1, 0, 0, 0x000a'20f1, 0x0702'0800, 0x0000'0001, 0x0000'0010},
    // Cache leaf: level 1 data, level 3 unified, the end.
    {0x4, 0, kCpuidSignificantIndex, 0xfc00'4121, 0x01c0'003f, 0x3f, 0},
    {0x4, 3, kCpuidSignificantIndex, 0xfc00'4163, 0x03c0'003f, 0xfff, 0},
    {0x4, 4, kCpuidSignificantIndex, 0, 0, 0, 0},
    {0x7, 0, kCpuidSignificantIndex, 0, 0x209c'01a9, 0, 0},
    {0xb, 0, kCpuidSignificantIndex, 1, 2, 0x100, 7},
    {0x8000'0001, 0, 0, 0, 0, 0x0040'0000, 0},
    {0x8000'0008, 0, 0, 0x3030, 0, 0xffff'ffff, 0},
    {0x8000'001d, 0, kCpuidSignificantIndex, 0x0000'4121, 0, 0, 0},
    {0x8000'001e, 0, 0, 0x55, 0x0101, 0x0303, 0},
};

CpuidEntry leaf(const std::vector<CpuidEntry>& table, std::uint32_t function,
                std::uint32_t index = 0) {
  return *std::ranges::find_if(table, [=](const CpuidEntry& entry) {
    return entry.function == function && entry.index == index;
  });
}

TEST_CASE("cpuid: leaf 1 carries the vCPU's APIC id, the hypervisor bit and the line size") {
  const CpuidEntry entry = leaf(vcpu_cpuid(kSupported, {2, 4, true}), 1);

  CHECK((entry.ebx >> 24) == 2);
  CHECK((entry.ebx >> 16 & 0xff) == 4);
  CHECK((entry.ebx >> 8 & 0xff) == 8);
  CHECK((entry.ecx & 1u << 31) != 0);
  CHECK((entry.edx & 1u << 28) != 0);
}

TEST_CASE("cpuid: one vCPU is no multi-processor") {
  const std::vector<CpuidEntry> table = vcpu_cpuid(kSupported, {0, 1, true});

  CHECK((leaf(table, 1).edx & 1u << 28) == 0);
  CHECK((leaf(table, 1).ebx >> 16 & 0xff) == 1);
  CHECK((leaf(table, 0x8000'0001).ecx & 2) == 0);
  CHECK((leaf(table, 0x8000'0008).ecx & 0xf0ff) == 0);
}

TEST_CASE("cpuid: the TSC deadline timer is offered only with a local APIC") {
  CHECK((leaf(vcpu_cpuid(kSupported, {0, 1, true}), 1).ecx & 1u << 24) != 0);
  CHECK((leaf(vcpu_cpuid(kSupported, {0, 1, false}), 1).ecx & 1u << 24) == 0);
}

TEST_CASE("cpuid: what KVM supports otherwise is passed on") {
  const std::vector<CpuidEntry> table = vcpu_cpuid(kSupported, {0, 2, true});

  CHECK((leaf(table, 1).ecx & 1) == 1);
  CHECK((leaf(table, 1).edx & 0x10) == 0x10);
  CHECK(leaf(table, 7).ebx == 0x209c'01a9);
  CHECK(leaf(table, 0x8000'0001).ecx == 0x0040'0002);
}

TEST_CASE("cpuid: the topology leaf has a thread level, a core level and an end") {
  const std::vector<CpuidEntry> table = vcpu_cpuid(kSupported, {2, 3, true});

  CHECK(leaf(table, 0xb, 0).eax == 0);
  CHECK(leaf(table, 0xb, 0).ebx == 1);
  CHECK(leaf(table, 0xb, 0).ecx == 0x100);
  CHECK(leaf(table, 0xb, 0).edx == 2);
  CHECK(leaf(table, 0xb, 1).eax == 2);
  CHECK(leaf(table, 0xb, 1).ebx == 3);
  CHECK(leaf(table, 0xb, 1).ecx == 0x201);
  CHECK(leaf(table, 0xb, 2).ecx == 2);
  CHECK(leaf(table, 0xb, 2).ebx == 0);
}

TEST_CASE("cpuid: a topology leaf that KVM does not list is not invented") {
  const std::vector<CpuidEntry> table = vcpu_cpuid(kSupported, {0, 2, true});

  CHECK(std::ranges::count(table, 0x1fu, &CpuidEntry::function) == 0);
}

TEST_CASE("cpuid: first-level caches belong to a core, the last level to all") {
  const std::vector<CpuidEntry> table = vcpu_cpuid(kSupported, {0, 3, true});

  CHECK((leaf(table, 4, 0).eax >> 14 & 0xfff) == 0);
  CHECK((leaf(table, 4, 0).eax >> 26) == 3);
  CHECK((leaf(table, 4, 3).eax >> 14 & 0xfff) == 3);
  CHECK(leaf(table, 4, 4).eax == 0);
  CHECK((leaf(table, 0x8000'001d).eax >> 14) == 0);
}

TEST_CASE("cpuid: AMD's leaves agree with the rest") {
  const std::vector<CpuidEntry> table = vcpu_cpuid(kSupported, {3, 4, true});

  CHECK((leaf(table, 0x8000'0008).ecx & 0xff) == 3);
  CHECK((leaf(table, 0x8000'0008).ecx >> 12 & 0xf) == 2);
  CHECK(leaf(table, 0x8000'001e).eax == 3);
  CHECK(leaf(table, 0x8000'001e).ebx == 3);
  CHECK(leaf(table, 0x8000'001e).ecx == 0);
}

}  // namespace
}  // namespace kvitest
