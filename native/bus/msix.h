// MSI-X (PCI 3.0, 6.8.2): the capability's control word, the vector table and the pending bits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <span>
#include <vector>

#include "native/bus/interrupts.h"
#include "native/state/archive.h"

namespace kvitest {

inline constexpr std::uint8_t kMsixCapabilityId = 0x11;
inline constexpr std::uint16_t kMsixMaxVectors = 2048;
inline constexpr std::uint64_t kMsixEntrySize = 16;

struct MsixEntry {
  std::uint64_t address = 0;
  std::uint32_t data = 0;
  std::uint32_t control = 1;  // bit 0: masked, set at reset
  bool pending = false;
  template <typename Archive>
  void fields(Archive& archive) {
    archive(address, data, control, pending);
  }
  bool masked() const { return (control & 1) != 0; }
};

struct MsixState {
  static constexpr StateTag kTag{"msix", 1};
  std::vector<MsixEntry> table;
  bool enabled = false;
  bool function_masked = false;
  template <typename Archive>
  void fields(Archive& archive) {
    archive(table, enabled, function_masked);
  }
};

// Locks itself. Messages leave with no lock held, so a controller may call back; not from
// add_irqfd() and remove_irqfd().
class Msix {
 public:
  // vectors: 1..2048. Throws Error (EINVAL). controller must outlive this.
  Msix(std::uint16_t vectors, InterruptController& controller);

  std::uint16_t vectors() const { return static_cast<std::uint16_t>(state_.table.size()); }

  // The message control word: bits 10-0 are the table size - 1, bit 14 masks the function, bit 15
  // enables. Writing keeps only the upper two. Unmasking sends what was pending.
  std::uint16_t control() const;
  void set_control(std::uint16_t control);
  bool enabled() const;

  // Accesses to the table and to the pending bit array, relative to their start. Only aligned 4-
  // and 8-byte accesses exist (6.8.2): others read as 0 and write nothing, as do entries beyond the
  // table.
  void table_read(std::uint64_t offset, std::span<std::byte> data) const;
  void table_write(std::uint64_t offset, std::span<const std::byte> data);
  void pending_read(std::uint64_t offset, std::span<std::byte> data) const;

  // Sends a vector's message, or sets its pending bit while it or the function is masked. Nothing
  // happens for a vector out of range or while MSI-X is disabled.
  void raise(std::uint16_t vector);

  // While the vector's message may be sent, and the controller can, whatever signals the eventfd
  // sends it without us; else who reads the eventfd is to raise() the vector. Until remove_irqfd(),
  // which comes before the eventfd is closed. Nothing happens for a vector out of range.
  void add_irqfd(std::uint16_t vector, int eventfd);
  void remove_irqfd(int eventfd);

  void save(StateWriter& writer) const;
  // Sends nothing. Throws Error (EBADMSG).
  void load(StateReader& reader);

 private:
  std::uint32_t load(std::uint64_t offset) const;
  void store(std::uint64_t offset, std::uint32_t value);
  bool take(MsixEntry& entry);
  bool may_send(const MsixEntry& entry) const;
  void update_irqfds();

  struct Irqfd {
    int eventfd;
    std::uint16_t vector;
    bool on;  // the controller has it, with this message
    MsiMessage message;
  };

  mutable std::mutex mutex_;
  InterruptController& controller_;
  MsixState state_;
  std::vector<Irqfd> irqfds_;
};

}  // namespace kvitest
