#include "native/boot/e820.h"

#include "native/boot/layout.h"

namespace kvitest {

std::vector<E820Entry> e820_map(const GuestMemory& memory) {
  std::vector<E820Entry> map{
      {0, kConventionalEnd, kE820Ram},
      {kConventionalEnd, kHighMemory - kConventionalEnd, kE820Reserved},
  };
  for (const RamRegion& region : memory.regions()) {
    const Gpa end = region.base + region.size;
    const Gpa base = region.base < kHighMemory ? kHighMemory : region.base;
    if (base < end) map.push_back({base, end - base, kE820Ram});
  }
  return map;
}

}  // namespace kvitest
