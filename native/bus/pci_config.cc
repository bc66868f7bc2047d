#include "native/bus/pci_config.h"

#include <algorithm>
#include <bit>
#include <string>

#include "native/error.h"
#include "native/little_endian.h"

namespace kvitest {
namespace {

constexpr std::uint16_t kStatusInterrupt = 1 << 3;
constexpr std::uint16_t kStatusCapabilities = 1 << 4;
constexpr std::uint16_t kCommandParity = 1 << 6;
constexpr std::uint16_t kCommandSerr = 1 << 8;
constexpr std::uint64_t kBarMemory64 = 0b100;  // memory, 64-bit, not prefetchable
constexpr std::uint64_t kBarFlags = 0xf;

}  // namespace

PciConfigSpace::PciConfigSpace(const PciIdentity& identity) {
  define(0x00, 2, identity.vendor, 0);
  define(0x02, 2, identity.device, 0);
  define(kPciCommand, 2, 0, kCommandParity | kCommandSerr);
  define(0x08, 1, identity.revision, 0);
  define(0x09, 3, identity.class_code, 0);
  define(0x0c, 1, 0, 0xff);  // cache line size: no effect on us, but software expects a register
  define(0x2c, 2, identity.subsystem_vendor, 0);
  define(0x2e, 2, identity.subsystem, 0);
  define(0x3c, 1, identity.interrupt_line, 0xff);
  define(0x3d, 1, identity.interrupt_pin, 0);
  if (identity.interrupt_pin != 0) {
    write_le(std::span(writable_).subspan(kPciCommand, 2),
             kCommandParity | kCommandSerr | kPciCommandIntxDisable);
  }
}

std::uint64_t PciConfigSpace::value(std::uint8_t offset, std::size_t length) const {
  return read_le(std::span(state_.bytes).subspan(offset, length));
}

void PciConfigSpace::define(std::uint8_t offset, std::size_t length, std::uint64_t value,
                            std::uint64_t writable) {
  write_le(std::span(state_.bytes).subspan(offset, length), value);
  write_le(std::span(writable_).subspan(offset, length), writable);
}

void PciConfigSpace::add_memory_bar64(unsigned index, std::uint64_t size, std::uint64_t address) {
  if (index > 4 || size < 16 || !std::has_single_bit(size) || address % size != 0) {
    throw Error("add PCI BAR", EINVAL,
                "BAR " + std::to_string(index) + " size " + std::to_string(size) + " address " +
                    std::to_string(address));
  }
  const std::uint8_t offset = static_cast<std::uint8_t>(kPciBar0 + 4 * index);
  define(offset, 8, address | kBarMemory64, ~(size - 1) & ~kBarFlags);
  const std::uint64_t writable = read_le(std::span(writable_).subspan(kPciCommand, 2));
  write_le(std::span(writable_).subspan(kPciCommand, 2),
           writable | kPciCommandMemory | kPciCommandBusMaster);
}

std::uint8_t PciConfigSpace::add_capability(std::uint8_t id, std::span<const std::byte> body,
                                            std::span<const std::byte> writable) {
  const std::size_t offset = capability_end_;
  if (body.size() != writable.size()) {
    throw Error("add PCI capability", EINVAL, "body and writable mask differ in length");
  }
  if (offset + 2 + body.size() > state_.bytes.size()) {
    throw Error("add PCI capability", ENOSPC, "configuration space is full");
  }
  state_.bytes[offset] = std::byte{id};
  std::ranges::copy(body, state_.bytes.begin() + static_cast<std::ptrdiff_t>(offset + 2));
  std::ranges::copy(writable, writable_.begin() + static_cast<std::ptrdiff_t>(offset + 2));
  state_.bytes[capability_link_] = static_cast<std::byte>(offset);
  capability_link_ = offset + 1;
  capability_end_ = (offset + 2 + body.size() + 3) & ~std::size_t{3};
  state_.bytes[kPciStatus] |= std::byte{kStatusCapabilities};
  return static_cast<std::uint8_t>(offset);
}

void PciConfigSpace::read(std::uint8_t offset, std::span<std::byte> data) const {
  std::ranges::copy(std::span(state_.bytes).subspan(offset, data.size()), data.begin());
}

void PciConfigSpace::write(std::uint8_t offset, std::span<const std::byte> data) {
  for (std::size_t i = 0; i < data.size(); ++i) {
    const std::byte mask = writable_[offset + i];
    state_.bytes[offset + i] = (state_.bytes[offset + i] & ~mask) | (data[i] & mask);
    if (clears_status_ && overlaps(offset + i, 1, kPciStatus, 2)) {
      state_.bytes[offset + i] &= ~data[i];
    }
  }
}

void PciConfigSpace::store(std::uint8_t offset, std::span<const std::byte> data) {
  std::ranges::copy(data, state_.bytes.begin() + offset);
}

void PciConfigSpace::set_command(std::uint16_t command) {
  write_le(std::span(state_.bytes).subspan(kPciCommand, 2), command);
}

void PciConfigSpace::set_interrupt_status(bool pending) {
  const std::uint64_t others = value(kPciStatus, 2) & ~std::uint64_t{kStatusInterrupt};
  write_le(std::span(state_.bytes).subspan(kPciStatus, 2),
           others | (pending ? kStatusInterrupt : 0));
}

std::uint16_t PciConfigSpace::command() const {
  return static_cast<std::uint16_t>(value(kPciCommand, 2));
}

std::uint64_t PciConfigSpace::memory_bar64(unsigned index) const {
  return value(static_cast<std::uint8_t>(kPciBar0 + 4 * index), 8) & ~kBarFlags;
}

void PciConfigSpace::save(StateWriter& writer) const {
  writer.save(state_);
}

void PciConfigSpace::load(StateReader& reader) {
  const auto state = reader.load<PciConfigState>();
  for (std::size_t i = 0; i < state.bytes.size(); ++i) {
    std::byte fixed = ~writable_[i];
    // The device's own, set anew whenever software reads it.
    if (i == kPciStatus) fixed &= ~std::byte{kStatusInterrupt};
    if (clears_status_ && overlaps(i, 1, kPciStatus, 2)) fixed = std::byte{0};
    if (((state.bytes[i] ^ state_.bytes[i]) & fixed) != std::byte{0}) {
      reader.fail("another function than this machine's: byte " + std::to_string(i) + " differs");
    }
  }
  state_ = state;
}

}  // namespace kvitest
