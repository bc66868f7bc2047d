#include "native/fuzz/target.h"

#include <array>

namespace kvitest {

std::span<const FuzzTarget> fuzz_targets() {
  static constexpr std::array<FuzzTarget, 15> kTargets{{
      {"queue", fuzz_queue},
      {"blk", fuzz_blk},
      {"net", fuzz_net},
      {"console", fuzz_console},
      {"vsock", fuzz_vsock},
      {"9p", fuzz_9p},
      {"rng", fuzz_rng},
      {"balloon", fuzz_balloon},
      {"scsi", fuzz_scsi},
      {"pci", fuzz_pci},
      {"mmio", fuzz_mmio},
      {"boot", fuzz_boot},
      {"state", fuzz_state},
      {"checkpoint", fuzz_checkpoint},
      {"agent", fuzz_agent},
  }};
  return kTargets;
}

}  // namespace kvitest
