#include "native/boot/cpuid.h"

#include <algorithm>
#include <bit>
#include <cstdint>

namespace kvitest {
namespace {

constexpr std::uint32_t kEcxTscDeadline = 1u << 24;
constexpr std::uint32_t kEcxHypervisor = 1u << 31;
constexpr std::uint32_t kEdxHtt = 1u << 28;
constexpr std::uint32_t kExtEcxCmpLegacy = 1u << 1;
constexpr std::uint32_t kClflushLineQuadwords = 8;  // 64 bytes

std::uint32_t set_bits(std::uint32_t value, unsigned low, unsigned width, std::uint32_t field) {
  const std::uint32_t mask = ((width == 32 ? 0 : 1u << width) - 1) << low;
  return (value & ~mask) | (field << low & mask);
}

std::uint32_t set_flag(std::uint32_t value, std::uint32_t flag, bool on) {
  return on ? value | flag : value & ~flag;
}

// Bits an APIC id needs so that every core of the socket has its own.
unsigned core_bits(unsigned count) {
  return static_cast<unsigned>(std::bit_width(count - 1));
}

void shape_leaf_1(CpuidEntry& leaf, const CpuTopology& topology) {
  leaf.ebx = set_bits(leaf.ebx, 24, 8, topology.index);
  // "Addressable ids" is a power of two (Intel SDM 2A, CPUID leaf 1).
  leaf.ebx = set_bits(leaf.ebx, 16, 8, 1u << core_bits(topology.count));
  leaf.ebx = set_bits(leaf.ebx, 8, 8, kClflushLineQuadwords);
  leaf.ecx = set_flag(leaf.ecx | kEcxHypervisor, kEcxTscDeadline, topology.local_apic);
  leaf.edx = set_flag(leaf.edx, kEdxHtt, topology.count > 1);
}

bool is_cache_leaf(std::uint32_t function) {
  return function == 4 || function == 0x8000'001d;
}

// Deterministic cache parameters: levels 1 and 2 belong to a core, deeper ones to the socket.
void shape_cache_leaf(CpuidEntry& leaf, const CpuTopology& topology) {
  const std::uint32_t type = leaf.eax & 0x1f;
  if (type == 0) return;
  const std::uint32_t level = leaf.eax >> 5 & 7;
  const std::uint32_t most_ids = (1u << core_bits(topology.count)) - 1;
  leaf.eax = set_bits(leaf.eax, 14, 12, level >= 3 ? most_ids : 0);
  // Only Intel's leaf counts cores here; AMD reserves the bits.
  leaf.eax = set_bits(leaf.eax, 26, 6, leaf.function == 4 ? most_ids : 0);
}

void shape_amd_extended_apic(CpuidEntry& leaf, const CpuTopology& topology) {
  leaf.eax = topology.index;
  leaf.ebx = topology.index & 0xff;  // core id; one thread a core
  leaf.ecx = 0;                      // node 0 of one node
}

void shape(CpuidEntry& leaf, const CpuTopology& topology) {
  if (is_cache_leaf(leaf.function)) {
    shape_cache_leaf(leaf, topology);
    return;
  }
  switch (leaf.function) {
    case 1:
      shape_leaf_1(leaf, topology);
      break;
    case 0x8000'0001:
      // Set: the logical processors of leaf 1 are cores, not threads (AMD APM 3, E.4.2).
      leaf.ecx = set_flag(leaf.ecx, kExtEcxCmpLegacy, topology.count > 1);
      break;
    case 0x8000'0008:
      leaf.ecx = set_bits(leaf.ecx, 0, 8, topology.count - 1);
      leaf.ecx = set_bits(leaf.ecx, 12, 4, core_bits(topology.count));
      break;
    case 0x8000'001e:
      shape_amd_extended_apic(leaf, topology);
      break;
    default:
      break;
  }
}

bool is_topology_leaf(std::uint32_t function) {
  return function == 0xb || function == 0x1f;
}

// Extended topology (Intel SDM 2A, CPUID leaf 0xb): a thread level, a core level, the end.
void append_topology(std::vector<CpuidEntry>& table, std::uint32_t function,
                     const CpuTopology& topology) {
  constexpr std::uint32_t kLevelThread = 1u << 8;
  constexpr std::uint32_t kLevelCore = 2u << 8;
  const std::uint32_t id = topology.index;
  table.push_back({function, 0, kCpuidSignificantIndex, 0, 1, kLevelThread | 0, id});
  table.push_back({function, 1, kCpuidSignificantIndex, core_bits(topology.count), topology.count,
                   kLevelCore | 1, id});
  table.push_back({function, 2, kCpuidSignificantIndex, 0, 0, 2, id});
}

}  // namespace

std::vector<CpuidEntry> vcpu_cpuid(std::span<const CpuidEntry> supported,
                                   const CpuTopology& topology) {
  std::vector<CpuidEntry> table;
  for (const CpuidEntry& entry : supported) {
    if (is_topology_leaf(entry.function)) continue;
    table.push_back(entry);
    shape(table.back(), topology);
  }
  for (const std::uint32_t function : {0xbu, 0x1fu}) {
    const bool wanted = std::ranges::any_of(
        supported, [function](const CpuidEntry& entry) { return entry.function == function; });
    if (wanted) append_topology(table, function, topology);
  }
  return table;
}

}  // namespace kvitest
