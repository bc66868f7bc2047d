// What a guest reaches without a queue, and files that come from elsewhere.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "native/boot/load.h"
#include "native/disk/disk.h"
#include "native/disk/image.h"
#include "native/error.h"
#include "native/fuzz/hostile_driver.h"
#include "native/fuzz/input.h"
#include "native/fuzz/target.h"
#include "native/unique_fd.h"
#include "native/virtio/blk/blk.h"
#include "native/virtio/mmio_transport.h"
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

// The registers of virtio-mmio and the queue behind them, and what a checkpoint holds of both.
void fuzz_mmio(std::span<const std::byte> bytes) {
  static constexpr std::uint64_t kBase = 0xe000'0000;
  FuzzInput input(bytes);
  GuestMemory memory(64 * 1024);
  IoBus bus;
  TestInterrupts interrupts;
  std::unique_ptr<VirtioDevice> device;
  std::unique_ptr<VirtioMmio> transport;
  const bool has_disk = (input.u8() & 1) != 0;
  const auto make = [&] {
    transport.reset();
    BlkSpec spec;
    spec.name = "disk0";
    spec.backing = MemoryBacking{64 * 1024};
    device = has_disk ? make_blk(spec, open_disk(spec.backing, false)) : make_rng({});
    transport = make_virtio_mmio(with_all_features(*device), memory, bus, interrupts, kBase, 5);
  };
  const auto set = [&](std::uint64_t at, std::uint64_t value, std::size_t width = 4) {
    std::array<std::byte, 8> data{};
    write_le(data, value);
    bus.write(kBase + at, std::span(data).first(width));
  };
  make();
  for (int step = 0; step < 256 && !input.empty(); ++step) {
    const std::uint8_t how = input.u8();
    const std::size_t width = std::size_t{1} << (how >> 6);
    switch (how % 7) {
      case 0:
        set(input.u8() & ~3u, input.u32());
        break;
      case 1:
        set(input.u16() % kVirtioMmioSize, input.number(width), width);
        break;
      case 2: {
        std::array<std::byte, 8> data{};
        bus.read(kBase + input.u16() % kVirtioMmioSize, std::span(data).first(width));
        break;
      }
      case 3:
        // As a driver begins: all features but packed rings, or with them.
        set(0x70, 0);
        set(0x70, 3);
        set(0x24, 1);
        set(0x20, (how & 0x40) != 0 ? 0x0d : 0x09);
        set(0x24, 0);
        set(0x20, (how & 0x80) != 0 ? 3u << 28 : 0);
        set(0x70, 11);
        set(0x38, 1u << (input.u8() % 9));
        set(0x80, 0x1000);
        set(0x90, 0x2000);
        set(0xa0, 0x3000);
        set(0x44, 1);
        set(0x70, 15);
        break;
      case 4: {
        const std::uint16_t at = input.u16() & 0x3fff;
        static_cast<void>(memory.write(at, input.bytes(input.u8())));
        break;
      }
      case 5:
        set(0x50, input.u8() % 2);
        break;
      default: {
        StateWriter writer;
        device->pause();
        transport->save(writer);
        device->unpause();
        std::vector<std::byte> state = writer.take();
        for (std::size_t left = input.u8() % 8; left != 0; --left) {
          const std::size_t at = input.u16() % state.size();
          state[at] = std::byte{input.u8()};
        }
        make();
        try {
          StateReader reader(state);
          transport->load(reader);
          reader.finish();
        } catch (const Error&) {
          return;
        }
        transport->resume();
      }
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
