// One function's type-0 configuration header (PCI 3.0, 6.1): identity, BARs, capabilities and which
// bits software may write. Not locked: the function that owns it locks.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "native/state/archive.h"

namespace kvitest {

struct PciIdentity {
  std::uint16_t vendor;
  std::uint16_t device;
  std::uint8_t revision = 0;
  std::uint32_t class_code = 0;  // base class << 16 | sub-class << 8 | programming interface
  std::uint16_t subsystem_vendor = 0;
  std::uint16_t subsystem = 0;
  std::uint8_t interrupt_pin = 0;  // 0 none, 1 INTA#
  std::uint8_t interrupt_line = 0;
};

// Bits of the command register.
inline constexpr std::uint16_t kPciCommandMemory = 1 << 1;
inline constexpr std::uint16_t kPciCommandBusMaster = 1 << 2;
inline constexpr std::uint16_t kPciCommandIntxDisable = 1 << 10;

// Byte offsets of registers.
inline constexpr std::uint8_t kPciCommand = 0x04;
inline constexpr std::uint8_t kPciStatus = 0x06;
inline constexpr std::uint8_t kPciBar0 = 0x10;
inline constexpr std::uint8_t kPciCapabilityPointer = 0x34;

struct PciConfigState {
  static constexpr StateTag kTag{"pci-config", 1};
  std::array<std::byte, 256> bytes{};
  template <typename Archive>
  void fields(Archive& archive) {
    archive(bytes);
  }
};

class PciConfigSpace {
 public:
  explicit PciConfigSpace(const PciIdentity& identity);

  // A 64-bit memory BAR in registers index and index + 1 (index 0..4); size is a power of two of at
  // least 16. The size is found by writing all ones, as PCI 3.0, 6.2.5.1 says. Throws Error
  // (EINVAL).
  void add_memory_bar64(unsigned index, std::uint64_t size, std::uint64_t address);

  // Appends a capability and returns the offset of its first byte. body is what follows the id and
  // next-pointer bytes; writable, of the same length, has a one for each bit that software may
  // write. Throws Error (ENOSPC, EINVAL).
  std::uint8_t add_capability(std::uint8_t id, std::span<const std::byte> body,
                              std::span<const std::byte> writable);

  // From now on a one that software writes to the status register clears that bit, whichever it is
  // (PCI 3.0, 6.2.3: of the error bits only).
  void clear_any_status_bit() { clears_status_ = true; }

  // What software sees and does. offset + data.size() <= 256.
  void read(std::uint8_t offset, std::span<std::byte> data) const;
  void write(std::uint8_t offset, std::span<const std::byte> data);

  // The device's own side: ignores what is writable by software.
  void store(std::uint8_t offset, std::span<const std::byte> data);
  void set_command(std::uint16_t command);
  void set_interrupt_status(bool pending);  // status bit 3

  std::uint16_t command() const;
  std::uint64_t memory_bar64(unsigned index) const;

  void save(StateWriter& writer) const;
  // Throws Error (EBADMSG) for the space of another function: what software cannot write must be
  // the same, identity, BAR sizes and capabilities with it.
  void load(StateReader& reader);

 private:
  std::uint64_t value(std::uint8_t offset, std::size_t length) const;
  void define(std::uint8_t offset, std::size_t length, std::uint64_t value, std::uint64_t writable);

  PciConfigState state_;
  std::array<std::byte, 256> writable_{};
  std::size_t capability_link_ = kPciCapabilityPointer;  // where the next capability is linked from
  std::size_t capability_end_ = 0x40;
  bool clears_status_ = false;
};

// True when the access [offset, offset + length) touches [begin, begin + size).
constexpr bool overlaps(std::uint64_t offset, std::uint64_t length, std::uint64_t begin,
                        std::uint64_t size) {
  return offset < begin + size && begin < offset + length;
}

}  // namespace kvitest
