#include "native/bus/io_bus.h"

#include <limits>
#include <mutex>
#include <sstream>

#include "native/error.h"

namespace kvitest {
namespace {

std::string describe(std::uint64_t base, std::uint64_t length) {
  std::ostringstream text;
  text << "range 0x" << std::hex << base << " length 0x" << length;
  return text.str();
}

bool is_range(std::uint64_t base, std::uint64_t length) {
  return length != 0 && base <= std::numeric_limits<std::uint64_t>::max() - (length - 1);
}

}  // namespace

bool IoBus::try_insert(std::uint64_t base, std::uint64_t length, IoDevice& device) {
  if (!is_range(base, length)) return false;
  const std::uint64_t last = base + (length - 1);
  const std::unique_lock lock(mutex_);
  // The only candidate for an overlap is the range with the greatest base at or below our last
  // byte.
  const auto after = ranges_.upper_bound(last);
  if (after != ranges_.begin() && std::prev(after)->second.last >= base) return false;
  ranges_.emplace(base, Range{last, &device});
  return true;
}

void IoBus::insert(std::uint64_t base, std::uint64_t length, IoDevice& device) {
  if (!is_range(base, length)) {
    throw Error("insert on I/O bus", EINVAL, describe(base, length) + " is empty or wraps around");
  }
  if (!try_insert(base, length, device)) {
    throw Error("insert on I/O bus", EEXIST, describe(base, length) + " overlaps another device");
  }
}

void IoBus::remove(std::uint64_t base) {
  const std::unique_lock lock(mutex_);
  ranges_.erase(base);
}

std::optional<IoBus::Target> IoBus::find(std::uint64_t address, std::size_t length) const {
  if (!is_range(address, length)) return std::nullopt;
  const std::shared_lock lock(mutex_);
  const auto after = ranges_.upper_bound(address);
  if (after == ranges_.begin()) return std::nullopt;
  const auto& [base, range] = *std::prev(after);
  if (address + (length - 1) > range.last) return std::nullopt;
  return Target{range.device, address - base};
}

bool IoBus::read(std::uint64_t address, std::span<std::byte> data) {
  const auto target = find(address, data.size());
  if (!target) return false;
  target->device->io_read(target->offset, data);
  return true;
}

bool IoBus::write(std::uint64_t address, std::span<const std::byte> data) {
  const auto target = find(address, data.size());
  if (!target) return false;
  target->device->io_write(target->offset, data);
  return true;
}

}  // namespace kvitest
