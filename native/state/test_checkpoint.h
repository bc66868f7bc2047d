// Saving and loading for tests.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "native/error.h"
#include "native/state/archive.h"

namespace kvitest {

template <typename Component>
std::vector<std::byte> saved(const Component& component) {
  StateWriter writer;
  component.save(writer);
  return writer.take();
}

template <typename Component>
void load(Component& component, std::span<const std::byte> bytes) {
  StateReader reader(bytes);
  component.load(reader);
  reader.finish();
}

// The message of the Error that loading throws; empty when it throws none.
template <typename Component>
std::string refusal(Component& component, std::span<const std::byte> bytes) {
  try {
    load(component, bytes);
    return "";
  } catch (const Error& error) {
    return error.what();
  }
}

// The same checkpoint with another version of one of its sections. A section begins with the length
// of its name in 8 bytes, the name, and the version in 4.
inline std::vector<std::byte> with_version(std::vector<std::byte> bytes, std::string_view section,
                                           std::uint8_t version) {
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  const std::string length{static_cast<char>(section.size()), 0, 0, 0, 0, 0, 0, 0};
  const std::size_t at = text.find(length + std::string(section));
  if (at == std::string_view::npos) throw std::logic_error("no section " + std::string(section));
  bytes[at + 8 + section.size()] = std::byte{version};
  return bytes;
}

}  // namespace kvitest
