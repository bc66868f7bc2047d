#include "native/boot/reset_vector.h"

#include <array>
#include <cerrno>
#include <cstdint>
#include <span>

#include "native/boot/layout.h"
#include "native/error.h"

namespace kvitest {

void write_reset_vector(GuestMemory& memory, const AcpiPlatform& platform) {
  const auto port_low = static_cast<std::uint8_t>(platform.reset_port);
  const auto port_high = static_cast<std::uint8_t>(platform.reset_port >> 8);
  const std::array<std::uint8_t, 9> code{
      0xba,      port_low,
      port_high,                        // mov dx, reset_port
      0xb0,      platform.reset_value,  // mov al, reset_value
      0xee,                             // out dx, al
      0xf4,                             // hlt
      0xeb,      0xfd,                  // jmp to the hlt
  };
  if (!memory.write(kResetVector, std::as_bytes(std::span(code)))) {
    throw Error("write reset vector", ENOMEM, "the guest has less than 1 MiB of memory");
  }
}

}  // namespace kvitest
