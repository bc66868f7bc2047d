// The logical units that a device has, by target and number.
#pragma once

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <memory>
#include <string>
#include <utility>

#include "native/virtio/scsi/target.h"

namespace kvitest {

// Not locked.
class UnitList {
 public:
  void add(std::shared_ptr<LogicalUnit> unit) {
    units_.push_back(std::move(unit));
    std::ranges::sort(units_, {},
                      [](const auto& one) { return std::pair(one->spec.target, one->spec.lun); });
  }
  void remove(const std::shared_ptr<LogicalUnit>& unit) { std::erase(units_, unit); }

  // Null where there is none.
  std::shared_ptr<LogicalUnit> named(const std::string& name) const {
    return first([&](const ScsiLunSpec& spec) { return spec.name == name; });
  }
  std::shared_ptr<LogicalUnit> at(std::uint8_t target, std::uint16_t lun) const {
    return first([&](const ScsiLunSpec& spec) { return spec.target == target && spec.lun == lun; });
  }
  LogicalUnits on_target(std::uint8_t target) const {
    LogicalUnits found;
    std::ranges::copy_if(units_, std::back_inserter(found),
                         [&](const auto& unit) { return unit->spec.target == target; });
    return found;
  }

  LogicalUnits::const_iterator begin() const { return units_.begin(); }
  LogicalUnits::const_iterator end() const { return units_.end(); }

 private:
  template <typename Is>
  std::shared_ptr<LogicalUnit> first(Is is) const {
    const auto found =
        std::ranges::find_if(units_, [&](const auto& unit) { return is(unit->spec); });
    return found == units_.end() ? nullptr : *found;
  }

  LogicalUnits units_;
};

}  // namespace kvitest
