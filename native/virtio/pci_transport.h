// virtio over PCI, modern only (virtio 1.3, 4.1): one 64-bit BAR0 of 512 KiB with common, ISR,
// device and notify structures and the MSI-X table and PBA.
#pragma once

#include <cstdint>
#include <memory>

#include "native/bus/interrupts.h"
#include "native/bus/io_bus.h"
#include "native/bus/pci.h"
#include "native/memory/guest_memory.h"
#include "native/virtio/device.h"

namespace kvitest {

// The BAR is placed at bar_address, 512 KiB aligned, as firmware would; the guest may move it.
// intx_gsi: the IOAPIC input of INTA# for a driver that does not use MSI-X; when several devices
// share it, `interrupts` is a SharedLines::Source. Destroying the function detaches the device.
// Throws Error (EEXIST) when the place is taken.
std::unique_ptr<PciFunction> make_virtio_pci(VirtioDevice& device, GuestMemory& memory, IoBus& mmio,
                                             InterruptController& interrupts,
                                             std::uint64_t bar_address, std::uint32_t intx_gsi);

}  // namespace kvitest
