#include "native/bus/msix.h"

#include <algorithm>
#include <string>
#include <utility>

#include "native/error.h"
#include "native/little_endian.h"

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

Msix::Msix(std::uint16_t vectors, InterruptController& controller) : controller_(controller) {
  state_.table.resize(checked_count(vectors));
}

std::uint16_t Msix::control() const {
  const std::lock_guard lock(mutex_);
  const auto size = static_cast<std::uint16_t>(state_.table.size() - 1);
  return static_cast<std::uint16_t>(size | (state_.function_masked ? kControlFunctionMask : 0) |
                                    (state_.enabled ? kControlEnable : 0));
}

bool Msix::enabled() const {
  const std::lock_guard lock(mutex_);
  return state_.enabled;
}

bool Msix::may_send(const MsixEntry& entry) const {
  return state_.enabled && !state_.function_masked && !entry.masked();
}

bool Msix::take(MsixEntry& entry) {
  if (!may_send(entry) || !entry.pending) return false;
  entry.pending = false;
  return true;
}

void Msix::set_control(std::uint16_t control) {
  std::vector<MsiMessage> due;
  {
    const std::lock_guard lock(mutex_);
    state_.enabled = (control & kControlEnable) != 0;
    state_.function_masked = (control & kControlFunctionMask) != 0;
    for (MsixEntry& entry : state_.table) {
      // A message that was pending when the function stopped using MSI-X means nothing to the
      // driver that enables it next.
      if (!state_.enabled) entry.pending = false;
      if (take(entry)) due.push_back({entry.address, entry.data});
    }
    update_irqfds();
  }
  for (const MsiMessage& message : due) controller_.signal_msi(message);
}

std::uint32_t Msix::load(std::uint64_t offset) const {
  const std::uint64_t index = offset / kMsixEntrySize;
  if (index >= state_.table.size()) return 0;
  const MsixEntry& entry = state_.table[index];
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
  if (index >= state_.table.size()) return;
  MsixEntry& entry = state_.table[index];
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
    update_irqfds();
    const std::uint64_t index = offset / kMsixEntrySize;
    if (index >= state_.table.size() || !take(state_.table[index])) return;
    message = {state_.table[index].address, state_.table[index].data};
  }
  controller_.signal_msi(message);
}

void Msix::pending_read(std::uint64_t offset, std::span<std::byte> data) const {
  std::ranges::fill(data, std::byte{0});
  if (!is_table_access(offset, data.size())) return;
  const std::lock_guard lock(mutex_);
  for (std::size_t bit = 0; bit < data.size() * 8; ++bit) {
    const std::uint64_t vector = offset * 8 + bit;
    if (vector < state_.table.size() && state_.table[vector].pending) {
      data[bit / 8] |= static_cast<std::byte>(1u << (bit % 8));
    }
  }
}

void Msix::raise(std::uint16_t vector) {
  MsiMessage message{};
  {
    const std::lock_guard lock(mutex_);
    if (!state_.enabled || vector >= state_.table.size()) return;
    MsixEntry& entry = state_.table[vector];
    entry.pending = true;
    if (!take(entry)) return;
    message = {entry.address, entry.data};
  }
  controller_.signal_msi(message);
}

void Msix::add_irqfd(std::uint16_t vector, int eventfd) {
  const std::lock_guard lock(mutex_);
  if (vector >= state_.table.size()) return;
  irqfds_.push_back({eventfd, vector, false, {}});
  update_irqfds();
}

void Msix::remove_irqfd(int eventfd) {
  const std::lock_guard lock(mutex_);
  std::erase_if(irqfds_, [this, eventfd](const Irqfd& one) {
    if (one.eventfd == eventfd && one.on) controller_.remove_irqfd(eventfd);
    return one.eventfd == eventfd;
  });
}

void Msix::update_irqfds() {
  for (Irqfd& one : irqfds_) {
    const MsixEntry& entry = state_.table[one.vector];
    if (!may_send(entry)) {
      if (std::exchange(one.on, false)) controller_.remove_irqfd(one.eventfd);
      continue;
    }
    const MsiMessage message{entry.address, entry.data};
    if (one.on && one.message == message) continue;
    const bool was_on = one.on;
    one.message = message;
    one.on = controller_.add_irqfd(one.eventfd, message);
    // It would go on with the message from before.
    if (was_on && !one.on) controller_.remove_irqfd(one.eventfd);
  }
}

void Msix::save(StateWriter& writer) const {
  const std::lock_guard lock(mutex_);
  writer.save(state_);
}

void Msix::load(StateReader& reader) {
  MsixState state = reader.load<MsixState>();
  const std::lock_guard lock(mutex_);
  if (state.table.size() != state_.table.size()) {
    reader.fail(std::to_string(state.table.size()) + " vectors, this function has " +
                std::to_string(state_.table.size()));
  }
  for (const MsixEntry& entry : state.table) {
    // What no write to the table leaves behind.
    if ((entry.address & 3) != 0 || entry.control > 1) reader.fail("a vector that cannot be");
  }
  state_ = std::move(state);
  update_irqfds();
}

}  // namespace kvitest
