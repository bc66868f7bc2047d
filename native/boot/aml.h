// A small builder of ACPI Machine Language (ACPI 6.5, 20.2): every function returns the encoding of
// one term, so a table reads like its ASL. Arguments come from us, not from guests: mistakes throw
// std::invalid_argument.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string_view>
#include <vector>

namespace kvitest::aml {

using Bytes = std::vector<std::uint8_t>;

Bytes concat(std::initializer_list<Bytes> parts);

// Data.
Bytes integer(std::uint64_t value);
Bytes string(std::string_view text);
// EisaId("PNP0501") as the integer it stands for.
Bytes eisa_id(std::string_view id);
Bytes package(const std::vector<Bytes>& elements);

// Names: segments of up to four characters joined by dots, "\\" in front for the root:
// "\\_SB.PCI0".
Bytes name_path(std::string_view path);
Bytes name(std::string_view path, const Bytes& value);
Bytes scope(std::string_view path, std::initializer_list<Bytes> terms);
Bytes device(std::string_view path, std::initializer_list<Bytes> terms);

// Code. Methods are serialized, sync level 0.
Bytes method(std::string_view path, unsigned arguments, std::initializer_list<Bytes> terms);
Bytes argument(unsigned index);
Bytes if_equal(const Bytes& left, const Bytes& right, std::initializer_list<Bytes> terms);
Bytes notify(std::string_view path, std::uint64_t value);
Bytes local(unsigned index);
Bytes store(const Bytes& value, const Bytes& target);
Bytes return_value(const Bytes& value);
// If any bit of `bits` is set in `value`.
Bytes if_any_bit(const Bytes& value, std::uint64_t bits, std::initializer_list<Bytes> terms);

// A region of I/O ports, as 32-bit fields of these names one after the other. A store to one writes
// it alone, whole.
Bytes port_fields(std::string_view region, std::uint16_t port,
                  std::initializer_list<std::string_view> names);

// Resource descriptors (ACPI 6.5, 6.4); resources() wraps them into the buffer that _CRS holds.
// Pci: level, active low and shared, as PCI's interrupts are. The others: active high, exclusive.
enum class Trigger { Edge, Level, Pci };
Bytes resources(std::initializer_list<Bytes> descriptors);
Bytes io_ports(std::uint16_t base, std::uint8_t length);
Bytes interrupt(std::uint32_t gsi, Trigger trigger);
Bytes memory32(std::uint32_t base, std::uint32_t length);  // fixed, read-write
Bytes bus_window(std::uint16_t first, std::uint16_t last);
Bytes io_window(std::uint16_t base, std::uint16_t length);
Bytes memory32_window(std::uint32_t base, std::uint32_t length);  // not cacheable, read-write
Bytes memory64_window(std::uint64_t base, std::uint64_t length);

}  // namespace kvitest::aml
