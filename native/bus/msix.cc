#include "native/bus/msix.h"

#include <algorithm>
#include <string>

#include "native/bus/little_endian.h"
#include "native/error.h"

namespace kvitest {
namespace {

constexpr std::uint16_t kControlFunctionMask = 1 << 14;
constexpr std::uint16_t kControlEnable = 1 << 15;

bool is_table_access(std::uint64_t offset, std::size_t length) {
  return (length == 4 || length == 8) && offset % length == 0;
}

std::uint16_t checked_count(std::uint16_t vectors) {
  if (vectors == 0 || vectors > kMsixMaxVectors) {
    throw Error("create MSI-X table", EINVAL, std::to_string(vectors) + " vectors is not 1..2048");
  }
  return vectors;
}

}  // namespace

Msix::Msix(std::uint16_t vectors, InterruptController& controller)
    : controller_(controller), table_(checked_count(vectors)) {}

std::uint16_t Msix::control() const {
  const std::lock_guard lock(mutex_);
  const auto size = static_cast<std::uint16_t>(table_.size() - 1);
  return static_cast<std::uint16_t>(size | (function_masked_ ? kControlFunctionMask : 0) |
                                    (enabled_ ? kControlEnable : 0));
}

bool Msix::enabled() const {
  const std::lock_guard lock(mutex_);
  return enabled_;
}

bool Msix::take(Entry& entry) {
  if (!enabled_ || function_masked_ || entry.masked() || !entry.pending) return false;
  entry.pending = false;
  return true;
}

void Msix::set_control(std::uint16_t control) {
  std::vector<MsiMessage> due;
  {
    const std::lock_guard lock(mutex_);
    enabled_ = (control & kControlEnable) != 0;
    function_masked_ = (control & kControlFunctionMask) != 0;
    for (Entry& entry : table_) {
      // A message that was pending when the function stopped using MSI-X means nothing to the
      // driver that enables it next.
      if (!enabled_) entry.pending = false;
      if (take(entry)) due.push_back({entry.address, entry.data});
    }
  }
  for (const MsiMessage& message : due) controller_.signal_msi(message);
}

std::uint32_t Msix::load(std::uint64_t offset) const {
  const std::uint64_t index = offset / kMsixEntrySize;
  if (index >= table_.size()) return 0;
  const Entry& entry = table_[index];
  switch (offset % kMsixEntrySize) {
    case 0:
      return static_cast<std::uint32_t>(entry.address);
    case 4:
      return static_cast<std::uint32_t>(entry.address >> 32);
    case 8:
      return entry.data;
    default:
      return entry.control;
  }
}

void Msix::store(std::uint64_t offset, std::uint32_t value) {
  const std::uint64_t index = offset / kMsixEntrySize;
  if (index >= table_.size()) return;
  Entry& entry = table_[index];
  switch (offset % kMsixEntrySize) {
    case 0:
      entry.address = (entry.address & ~std::uint64_t{0xffff'ffff}) | (value & ~std::uint32_t{3});
      break;
    case 4:
      entry.address = (entry.address & 0xffff'ffff) | (std::uint64_t{value} << 32);
      break;
    case 8:
      entry.data = value;
      break;
    default:
      entry.control = value & 1;
      break;
  }
}

void Msix::table_read(std::uint64_t offset, std::span<std::byte> data) const {
  std::ranges::fill(data, std::byte{0});
  if (!is_table_access(offset, data.size())) return;
  const std::lock_guard lock(mutex_);
  for (std::size_t i = 0; i < data.size(); i += 4) {
    write_le(data.subspan(i, 4), load(offset + i));
  }
}

void Msix::table_write(std::uint64_t offset, std::span<const std::byte> data) {
  if (!is_table_access(offset, data.size())) return;
  MsiMessage message{};
  {
    const std::lock_guard lock(mutex_);
    for (std::size_t i = 0; i < data.size(); i += 4) {
      store(offset + i, static_cast<std::uint32_t>(read_le(data.subspan(i, 4))));
    }
    const std::uint64_t index = offset / kMsixEntrySize;
    if (index >= table_.size() || !take(table_[index])) return;
    message = {table_[index].address, table_[index].data};
  }
  controller_.signal_msi(message);
}

void Msix::pending_read(std::uint64_t offset, std::span<std::byte> data) const {
  std::ranges::fill(data, std::byte{0});
  if (!is_table_access(offset, data.size())) return;
  const std::lock_guard lock(mutex_);
  for (std::size_t bit = 0; bit < data.size() * 8; ++bit) {
    const std::uint64_t vector = offset * 8 + bit;
    if (vector < table_.size() && table_[vector].pending) {
      data[bit / 8] |= static_cast<std::byte>(1u << (bit % 8));
    }
  }
}

void Msix::raise(std::uint16_t vector) {
  MsiMessage message{};
  {
    const std::lock_guard lock(mutex_);
    if (!enabled_ || vector >= table_.size()) return;
    Entry& entry = table_[vector];
    entry.pending = true;
    if (!take(entry)) return;
    message = {entry.address, entry.data};
  }
  controller_.signal_msi(message);
}

}  // namespace kvitest
