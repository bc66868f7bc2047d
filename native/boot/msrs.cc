#include "native/boot/msrs.h"

namespace kvitest {

std::vector<MsrEntry> boot_msrs() {
  // Intel SDM 4, table 2-2; AMD APM 2, appendix A.
  constexpr std::uint32_t kTsc = 0x10;
  constexpr std::uint32_t kSysenterCs = 0x174;
  constexpr std::uint32_t kSysenterEsp = 0x175;
  constexpr std::uint32_t kSysenterEip = 0x176;
  constexpr std::uint32_t kMiscEnable = 0x1a0;
  constexpr std::uint32_t kMtrrDefType = 0x2ff;
  constexpr std::uint32_t kStar = 0xc000'0081;
  constexpr std::uint32_t kLstar = 0xc000'0082;
  constexpr std::uint32_t kCstar = 0xc000'0083;
  constexpr std::uint32_t kSyscallMask = 0xc000'0084;
  constexpr std::uint32_t kKernelGsBase = 0xc000'0102;
  constexpr std::uint64_t kFastString = 1u << 0;
  constexpr std::uint64_t kMtrrEnabledWriteBack = 1u << 11 | 6;
  return {
      {kSysenterCs, 0},
      {kSysenterEsp, 0},
      {kSysenterEip, 0},
      {kStar, 0},
      {kCstar, 0},
      {kKernelGsBase, 0},
      {kSyscallMask, 0},
      {kLstar, 0},
      {kTsc, 0},
      {kMiscEnable, kFastString},
      // Without this Linux takes all memory as uncacheable, which real KVM hosts may honour.
      {kMtrrDefType, kMtrrEnabledWriteBack},
  };
}

}  // namespace kvitest
