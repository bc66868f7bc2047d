// What a guest reaches without a queue, and files that come from elsewhere.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <string>

#include "native/boot/load.h"
#include "native/disk/image.h"
#include "native/error.h"
#include "native/fuzz/input.h"
#include "native/fuzz/target.h"
#include "native/unique_fd.h"
#include "native/virtio/rng/rng.h"
#include "native/virtio/test_driver.h"

extern "C" {
#include "native/agent/frame.h"
}

namespace kvitest {

// Configuration mechanism 1 and the windows that BARs open.
void fuzz_pci(std::span<const std::byte> bytes) {
  FuzzInput input(bytes);
  const auto device = make_rng({});
  TestBoard board(*device);
  for (int step = 0; step < 512 && !input.empty(); ++step) {
    const std::uint8_t how = input.u8();
    const std::size_t width = std::size_t{1} << (how % 3);
    std::array<std::byte, 8> data{};
    switch ((how >> 2) % 5) {
      case 0:
        write_le(std::span(data).first(4), input.u32());
        board.pio_bus.write(0xcf8, std::span(data).first(4));
        break;
      case 1:
        board.pio_bus.read(0xcf8u + input.u8() % 8u, std::span(data).first(width));
        break;
      case 2:
        write_le(std::span(data).first(width), input.number(width));
        board.pio_bus.write(0xcf8u + input.u8() % 8u, std::span(data).first(width));
        break;
      case 3:
        board.set_config(input.u8() & ~static_cast<std::uint8_t>(width - 1), width,
                         static_cast<std::uint32_t>(input.number(width)));
        break;
      default:
        board.bar = (how & 0x80) != 0 ? input.u64() & ~std::uint64_t{7} : TestBoard::kBar;
        board.set_mmio(input.u16(), width, input.number(width));
        board.mmio(input.u16(), width);
    }
  }
}

// A kernel or a bare guest from anywhere.
void fuzz_boot(std::span<const std::byte> bytes) {
  FuzzInput input(bytes);
  const std::uint8_t how = input.u8();
  const UniqueFd file(::memfd_create("fuzz-kernel", MFD_CLOEXEC));
  const auto content = input.rest();
  if (!file ||
      ::write(file.get(), content.data(), content.size()) != static_cast<ssize_t>(content.size())) {
    std::abort();
  }
  const std::string path = "/proc/self/fd/" + std::to_string(file.get());
  GuestMemory memory(16 << 20);
  try {
    if ((how & 1) != 0) {
      load_bare(memory, path, (how & 2) != 0 ? 3 : 0);
    } else {
      load_linux(memory,
                 {.kernel = path, .initramfs = (how & 2) != 0 ? path : "", .cmdline = "quiet"}, {});
    }
  } catch (const Error&) {
    // refused, as it should be
  }
}

// What a checkpoint's file holds: nothing in it is believed.
void fuzz_state(std::span<const std::byte> bytes) {
  FuzzInput input(bytes);
  const std::uint8_t how = input.u8();
  StateReader reader(input.rest());
  try {
    if ((how & 1) != 0) {
      const auto state = reader.load<DiskImageState>();
      if (state.base) return;  // files of this machine are none of a fuzzer's business
      make_image(state, [](std::span<std::byte> cluster) { cluster[0] = std::byte{1}; });
    } else {
      const auto device = make_rng({});
      TestBoard board(*device);
      board.load(reader);
      reader.finish();
      board.resume();
    }
  } catch (const Error&) {
    // refused
  }
}

// What the agent reads of a frame, and what it queues.
void fuzz_agent(std::span<const std::byte> bytes) {
  const auto* at = reinterpret_cast<const unsigned char*>(bytes.data());
  reader in{.at = at, .end = at + bytes.size(), .bad = false};
  for (int step = 0; step < 64 && !in.bad; ++step) {
    std::uint32_t count = 0;
    switch (read_u16(&in) % 4) {
      case 0:
        read_u64(&in);
        break;
      case 1:
        if (const char* text = read_string(&in)) static_cast<void>(std::string(text));
        break;
      case 2: {
        const std::uint32_t length = read_u32(&in);
        if (const unsigned char* data = read_bytes(&in, length)) {
          static_cast<void>(std::string(data, data + length));
        }
        break;
      }
      default: {
        const char** list = read_strings(&in, &count);
        for (std::uint32_t i = 0; list != nullptr && i < count; ++i) {
          static_cast<void>(std::string(list[i]));
        }
        std::free(list);
      }
    }
  }
}

}  // namespace kvitest
