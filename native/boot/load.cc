#include "native/boot/load.h"

#include <algorithm>
#include <cerrno>
#include <span>

#include "native/boot/bzimage.h"
#include "native/boot/elf.h"
#include "native/boot/initramfs.h"
#include "native/boot/layout.h"
#include "native/boot/long_mode.h"
#include "native/boot/payload_file.h"
#include "native/boot/pvh.h"
#include "native/boot/reset_vector.h"
#include "native/boot/zero_page.h"
#include "native/error.h"

namespace kvitest {
namespace {

// COMMAND_LINE_SIZE of x86 Linux, without the NUL; PVH has no header field for it.
constexpr std::uint32_t kPvhCmdlineLimit = 2047;
constexpr std::uint64_t kIopl3 = 3u << 12;

Gpa write_cmdline(GuestMemory& memory, const std::string& cmdline, std::uint32_t limit) {
  const std::string_view shown(cmdline.data(), std::min<std::size_t>(cmdline.size(), 40));
  if (cmdline.find('\0') != std::string::npos) {
    throw Error("kernel command line", EINVAL, "it contains a NUL character");
  }
  if (cmdline.size() > limit) {
    throw Error("kernel command line", 0,
                "\"" + std::string(shown) + "...\" has " + std::to_string(cmdline.size()) +
                    " characters, the kernel takes " + std::to_string(limit),
                "shorten it");
  }
  const auto bytes = std::as_bytes(std::span(cmdline.c_str(), cmdline.size() + 1));
  if (!memory.write(kCmdline, bytes)) {
    throw Error("kernel command line", ENOMEM, "the guest has less than 1 MiB of memory");
  }
  return kCmdline;
}

BootState load_through_bzimage(GuestMemory& memory, const PayloadFile& file,
                               const LinuxImage& linux, const AcpiPlatform& platform) {
  const BzImage image = parse_bzimage(file);
  const std::uint32_t cmdline_limit = std::min(image.cmdline_limit, kPvhCmdlineLimit);
  const Gpa cmdline = write_cmdline(memory, linux.cmdline, cmdline_limit);
  load_bzimage(file, image, memory);
  const LoadedInitramfs initramfs = load_initramfs(
      memory, linux.initramfs, image.load_address + image.init_size, image.initramfs_limit);
  const Gpa rsdp = write_acpi(memory, platform);

  BootState state;
  state.special = enter_long_mode(memory, 0);
  state.general.rip = image.load_address + kBzImageEntry64;
  state.general.rsi = write_zero_page(memory, image, initramfs, cmdline, rsdp);
  state.general.rsp = kLinuxStackTop;
  return state;
}

BootState load_through_pvh(GuestMemory& memory, const PayloadFile& file, const LinuxImage& linux,
                           const AcpiPlatform& platform) {
  const ElfImage image = parse_elf(file);
  if (!image.pvh_entry) {
    file.fail("the vmlinux has no PVH entry note",
              "build it with CONFIG_PVH=y or give its bzImage");
  }
  if (!elf_contains(image, *image.pvh_entry)) {
    file.fail("the PVH entry point lies outside every segment", "build or fetch the file again");
  }
  const Gpa cmdline = write_cmdline(memory, linux.cmdline, kPvhCmdlineLimit);
  load_elf(file, image, memory);
  const LoadedInitramfs initramfs =
      load_initramfs(memory, linux.initramfs, image.end, kHighRamBase);
  const Gpa rsdp = write_acpi(memory, platform);

  BootState state;
  state.special = protected_mode();
  state.general.rip = *image.pvh_entry;
  state.general.rbx = write_pvh_start_info(memory, initramfs, cmdline, rsdp);
  return state;
}

}  // namespace

BootState load_linux(GuestMemory& memory, const LinuxImage& image, const AcpiPlatform& platform) {
  const PayloadFile file("load kernel", image.kernel);
  write_reset_vector(memory, platform);
  return is_elf(file) ? load_through_pvh(memory, file, image, platform)
                      : load_through_bzimage(memory, file, image, platform);
}

BootState load_bare(GuestMemory& memory, const std::string& elf, int ring) {
  if (ring != 0 && ring != 3) {
    throw Error("load bare guest", EINVAL, elf + ": ring " + std::to_string(ring),
                "ask for ring 0 or 3");
  }
  const PayloadFile file("load bare guest", elf);
  const ElfImage image = parse_elf(file);
  if (!elf_contains(image, image.entry)) {
    file.fail("the entry point lies outside every segment", "link it with an _start symbol");
  }
  load_elf(file, image, memory);

  BootState state;
  state.special = enter_long_mode(memory, ring);
  state.general.rip = image.entry;
  state.general.rsp = kBareStackTop;
  state.general.rdi = memory.size();
  state.general.rflags = 2 | (ring == 3 ? kIopl3 : 0);
  return state;
}

}  // namespace kvitest
