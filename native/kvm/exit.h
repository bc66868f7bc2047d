// Why KVM_RUN returned, as plain data.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <variant>

namespace kvitest {

// A signal or immediate_exit; also EAGAIN of an application processor that just got its SIPI.
struct Interrupted {};

// `count` accesses of `size` bytes each to one port (string I/O gives more than one). data is size
// * count bytes of the kvm_run area: for IN it is filled before the next run().
struct IoExit {
  bool out;
  std::uint16_t port;
  std::size_t size;
  std::span<std::byte> data;
};

struct MmioExit {
  bool write;
  std::uint64_t address;
  std::span<std::byte> data;
};

struct HaltExit {};      // HLT without in-kernel irqchip
struct ShutdownExit {};  // triple fault

struct InternalErrorExit {
  std::uint32_t suberror;
  std::string detail;
};

struct FailEntryExit {
  std::uint64_t reason;
};

// KVM_EXIT_SYSTEM_EVENT and reasons a guest of ours cannot cause.
struct UnexpectedExit {
  std::uint32_t reason;
};

// Nothing for us to do: run again.
struct IgnoredExit {};

using Exit = std::variant<Interrupted, IoExit, MmioExit, HaltExit, ShutdownExit, InternalErrorExit,
                          FailEntryExit, UnexpectedExit, IgnoredExit>;

// `io`, `mmio`, `hlt`... for KVM_EXIT_IO...; `exit-NN` for reasons this program does not know.
std::string exit_name(std::uint32_t reason);

// Index of Interrupted in exit counts; larger than any KVM_EXIT_ number in use.
inline constexpr std::uint32_t kExitReasons = 64;

}  // namespace kvitest
