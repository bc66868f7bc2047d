// Writes that the hypervisor turns into a signal, without an exit to us; implemented over
// KVM_IOEVENTFD.
#pragma once

#include <cstdint>

namespace kvitest {

class Doorbells {
 public:
  virtual ~Doorbells() = default;
  // A write of any size to this address signals the eventfd. A host that cannot leaves the write to
  // the bus, where it does the same.
  virtual void add(std::uint64_t address, int eventfd) = 0;
  virtual void remove(std::uint64_t address, int eventfd) = 0;
};

}  // namespace kvitest
