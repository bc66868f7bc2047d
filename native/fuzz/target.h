// What can be fuzzed. A target takes any bytes; what it must never do is crash, hang or touch what
// is not its own, which sanitizers watch for.
#pragma once

#include <cstddef>
#include <span>
#include <string_view>

namespace kvitest {

struct FuzzTarget {
  std::string_view name;  // its seeds are in native/fuzz/corpus/NAME
  void (*run)(std::span<const std::byte> input);
};

std::span<const FuzzTarget> fuzz_targets();

void fuzz_queue(std::span<const std::byte> input);
void fuzz_blk(std::span<const std::byte> input);
void fuzz_net(std::span<const std::byte> input);
void fuzz_console(std::span<const std::byte> input);
void fuzz_vsock(std::span<const std::byte> input);
void fuzz_9p(std::span<const std::byte> input);
void fuzz_rng(std::span<const std::byte> input);
void fuzz_scsi(std::span<const std::byte> input);
void fuzz_balloon(std::span<const std::byte> input);
void fuzz_pci(std::span<const std::byte> input);
void fuzz_mmio(std::span<const std::byte> input);
void fuzz_boot(std::span<const std::byte> input);
void fuzz_state(std::span<const std::byte> input);
void fuzz_checkpoint(std::span<const std::byte> input);
void fuzz_agent(std::span<const std::byte> input);

}  // namespace kvitest
