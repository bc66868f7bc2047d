#include "native/bus/pci.h"

#include <algorithm>
#include <string>

#include "native/bus/pci_config.h"
#include "native/error.h"
#include "native/little_endian.h"

namespace kvitest {
namespace {

constexpr std::uint64_t kPortCount = 8;  // 0xcf8..0xcff
constexpr std::uint64_t kDataOffset = 4;
constexpr std::uint32_t kEnable = 1u << 31;
// Bits 30-24 and 1-0 are reserved and read as 0 (PCI 3.0, 3.2.2.3.2).
constexpr std::uint32_t kAddressWritable = 0x80ff'fffc;

// A host bridge without registers of its own: Linux accepts mechanism 1 only when some function on
// bus 0 has the class of a host bridge (or Intel's or Compaq's vendor id).
class HostBridge : public PciFunction {
 public:
  void config_read(std::uint8_t offset, std::span<std::byte> data) override {
    const std::lock_guard lock(mutex_);
    config_.read(offset, data);
  }
  void config_write(std::uint8_t offset, std::span<const std::byte> data) override {
    const std::lock_guard lock(mutex_);
    config_.write(offset, data);
  }
  void save(StateWriter& writer) const override {
    const std::lock_guard lock(mutex_);
    config_.save(writer);
  }
  void load(StateReader& reader) override {
    const std::lock_guard lock(mutex_);
    config_.load(reader);
  }

 private:
  mutable std::mutex mutex_;
  PciConfigSpace config_{PciIdentity{.vendor = 0x1b36, .device = 0x0008, .class_code = 0x06'0000}};
};

// Which function and register an access to 0xcfc..0xcff means; slot 32 when none.
struct ConfigAddress {
  std::uint8_t slot;
  std::uint8_t offset;
};
constexpr std::uint8_t kNoSlot = 32;

ConfigAddress decode(std::uint32_t address, std::uint64_t port_offset) {
  const auto offset = static_cast<std::uint8_t>((address & 0xfc) + (port_offset - kDataOffset));
  const bool bus0_function0 = (address & 0x00ff'0700) == 0;
  const auto slot = static_cast<std::uint8_t>((address >> 11) & 31);
  return {(address & kEnable) != 0 && bus0_function0 ? slot : kNoSlot, offset};
}

// Mechanism 1 moves a byte, a word or a dword that lies within one register.
bool is_data_access(std::uint64_t offset, std::size_t length) {
  return offset >= kDataOffset && offset + length <= kPortCount &&
         (length == 1 || length == 2 || length == 4);
}

}  // namespace

PciBus::PciBus(IoBus& pio) : pio_(pio), bridge_(std::make_unique<HostBridge>()) {
  slots_[0] = bridge_.get();
  pio_.insert(kPciConfigAddressPort, kPortCount, *this);
}

PciBus::~PciBus() {
  pio_.remove(kPciConfigAddressPort);
}

void PciBus::attach(std::uint8_t slot, PciFunction& function) {
  if (slot == 0 || slot >= slots_.size()) {
    throw Error("attach PCI function", EINVAL, "slot " + std::to_string(slot) + " is not 1..31");
  }
  const std::lock_guard lock(mutex_);
  if (slots_[slot] != nullptr) {
    throw Error("attach PCI function", EEXIST, "slot " + std::to_string(slot) + " is taken");
  }
  slots_[slot] = &function;
}

void PciBus::detach(std::uint8_t slot) {
  const std::lock_guard lock(mutex_);
  if (slot != 0 && slot < slots_.size()) slots_[slot] = nullptr;
}

PciFunction* PciBus::select(std::uint64_t port_offset, std::uint8_t& register_offset) {
  const std::lock_guard lock(mutex_);
  const ConfigAddress target = decode(address_, port_offset);
  register_offset = target.offset;
  return target.slot == kNoSlot ? nullptr : slots_[target.slot];
}

void PciBus::io_read(std::uint64_t offset, std::span<std::byte> data) {
  std::ranges::fill(data, std::byte{0xff});
  if (offset == 0 && data.size() == 4) {
    const std::lock_guard lock(mutex_);
    write_le(data, address_);
    return;
  }
  if (!is_data_access(offset, data.size())) return;
  std::uint8_t register_offset = 0;
  PciFunction* function = select(offset, register_offset);
  if (function != nullptr) function->config_read(register_offset, data);
}

void PciBus::io_write(std::uint64_t offset, std::span<const std::byte> data) {
  if (offset == 0 && data.size() == 4) {
    const std::lock_guard lock(mutex_);
    address_ = static_cast<std::uint32_t>(read_le(data)) & kAddressWritable;
    return;
  }
  if (!is_data_access(offset, data.size())) return;
  std::uint8_t register_offset = 0;
  PciFunction* function = select(offset, register_offset);
  if (function != nullptr) function->config_write(register_offset, data);
}

std::vector<std::uint8_t> PciBus::taken_slots() const {
  const std::lock_guard lock(mutex_);
  std::vector<std::uint8_t> taken;
  for (std::size_t slot = 0; slot < slots_.size(); ++slot) {
    if (slots_[slot] != nullptr) taken.push_back(static_cast<std::uint8_t>(slot));
  }
  return taken;
}

void PciBus::save(StateWriter& writer) const {
  PciBusState state{.address = 0, .slots = taken_slots()};
  {
    const std::lock_guard lock(mutex_);
    state.address = address_;
  }
  writer.save(state);
  for (const std::uint8_t slot : state.slots) slots_[slot]->save(writer);
}

void PciBus::load(StateReader& reader) {
  const auto state = reader.load<PciBusState>();
  if (state.slots != taken_slots()) reader.fail("other slots are taken than in this machine");
  {
    const std::lock_guard lock(mutex_);
    address_ = state.address & kAddressWritable;
  }
  for (const std::uint8_t slot : state.slots) slots_[slot]->load(reader);
  for (const std::uint8_t slot : state.slots) slots_[slot]->place();
}

void PciBus::resume() {
  for (const std::uint8_t slot : taken_slots()) slots_[slot]->resume();
}

}  // namespace kvitest
