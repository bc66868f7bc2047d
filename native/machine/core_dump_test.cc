// Core dumps of real bare guests, read back as a debugger would.
#include "native/machine/core_dump.h"

#include <doctest/doctest.h>
#include <elf.h>
#include <sys/procfs.h>
#include <sys/stat.h>
#include <sys/user.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "native/error.h"
#include "native/machine/test_machine.h"

namespace kvitest {
namespace {

struct Core {
  std::string bytes;
  Elf64_Ehdr header{};
  std::vector<Elf64_Phdr> segments;

  explicit Core(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    bytes.assign(std::istreambuf_iterator<char>(file), {});
    REQUIRE(bytes.size() > sizeof header);
    std::memcpy(&header, bytes.data(), sizeof header);
    segments.resize(header.e_phnum);
    std::memcpy(segments.data(), bytes.data() + header.e_phoff,
                segments.size() * sizeof(Elf64_Phdr));
  }

  // Name and description of each note.
  std::vector<std::pair<std::string, std::string>> notes() const {
    std::vector<std::pair<std::string, std::string>> found;
    const auto aligned = [](std::size_t n) { return (n + 3) / 4 * 4; };
    std::size_t at = segments.at(0).p_offset;
    while (at < segments[0].p_offset + segments[0].p_filesz) {
      Elf64_Nhdr note;
      std::memcpy(&note, bytes.data() + at, sizeof note);
      at += sizeof note;
      const std::string name = bytes.substr(at, note.n_namesz - 1);
      at += aligned(note.n_namesz);
      found.emplace_back(name, bytes.substr(at, note.n_descsz));
      at += aligned(note.n_descsz);
    }
    return found;
  }

  std::string memory(std::uint64_t address, std::size_t size) const {
    for (const Elf64_Phdr& load : segments) {
      if (load.p_type != PT_LOAD || address < load.p_paddr) continue;
      if (address + size > load.p_paddr + load.p_memsz) continue;
      return bytes.substr(load.p_offset + address - load.p_paddr, size);
    }
    return "";
  }
};

std::string place(const std::string& name) {
  return std::filesystem::temp_directory_path() / (name + std::to_string(::getpid()));
}

Core dump(const Checkpoint& checkpoint) {
  const std::string path = place("kvitest-core-");
  save_core(checkpoint, path);
  const Core core(path);
  std::filesystem::remove(path);
  return core;
}

MachineSpec bare(const std::string& guest) {
  MachineSpec spec;
  spec.name = guest;
  spec.memory = 2 << 20;
  spec.payload = BarePayload{KVITEST_GUESTS "/" + guest + ".elf", 3};
  return spec;
}

// The image of a machine that was never run, with `content` at `page`.
std::shared_ptr<Checkpoint> checkpoint_with(std::uint64_t memory, std::uint32_t page,
                                            const std::string& content) {
  auto checkpoint = std::make_shared<Checkpoint>();
  const std::vector<std::uint32_t> pages{page};
  checkpoint->memory =
      MemoryImage::make(memory, pages, [&content](std::uint32_t, std::span<std::byte> out) {
        std::ranges::fill(out, std::byte{0});
        std::memcpy(out.data(), content.data(), std::min(content.size(), out.size()));
      });
  checkpoint->vcpus.resize(1);
  return checkpoint;
}

std::string vmcoreinfo_note(std::uint32_t size, const std::string& text) {
  const Elf64_Nhdr header{11, size, 0};
  std::string note(reinterpret_cast<const char*>(&header), sizeof header);
  return note.append("VMCOREINFO\0\0", 12).append(text);
}

TEST_CASE("core: registers and memory of a running guest are those that inspection shows" *
          doctest::skip(::access("/dev/kvm", R_OK | W_OK) != 0)) {
  TestMachine machine(bare("spin"));
  machine.create();
  machine.start();
  machine.wait_for_text("debug", "spinning\n");

  const Core core = dump(*machine.checkpoint());

  CHECK(std::memcmp(core.header.e_ident, ELFMAG, SELFMAG) == 0);
  CHECK(core.header.e_type == ET_CORE);
  REQUIRE(core.notes().size() == 1);
  const auto [name, description] = core.notes()[0];
  CHECK(name == "CORE");
  elf_prstatus status;
  REQUIRE(description.size() == sizeof status);
  std::memcpy(&status, description.data(), sizeof status);
  user_regs_struct registers;
  std::memcpy(&registers, &status.pr_reg, sizeof registers);
  CHECK(registers.rbx == 0x5917);
  // The guest's own file lies where its program headers put it.
  std::ifstream file(KVITEST_GUESTS "/spin.elf", std::ios::binary);
  const std::string elf(std::istreambuf_iterator<char>(file), {});
  Elf64_Ehdr header;
  std::memcpy(&header, elf.data(), sizeof header);
  Elf64_Phdr segment;
  std::memcpy(&segment, elf.data() + header.e_phoff, sizeof segment);
  CHECK(core.memory(segment.p_paddr, segment.p_filesz) ==
        elf.substr(segment.p_offset, segment.p_filesz));
}

TEST_CASE("core: a machine that was told to keep its end is dumped after it" *
          doctest::skip(::access("/dev/kvm", R_OK | W_OK) != 0)) {
  TestMachine machine(bare("spin"));
  machine.create();
  machine.keep_end();
  machine.start();
  machine.wait_for_text("debug", "spinning\n");
  machine.stop();

  const Core core = dump(*machine.checkpoint());

  CHECK(core.notes().size() == 1);
}

TEST_CASE("core: the kernel's VMCOREINFO becomes a note") {
  const std::string text = "OSRELEASE=6.12.1\nPAGESIZE=4096\n";
  const auto checkpoint =
      checkpoint_with(1 << 20, 7, vmcoreinfo_note(static_cast<std::uint32_t>(text.size()), text));

  const Core core = dump(*checkpoint);

  REQUIRE(core.notes().size() == 2);
  CHECK(core.notes()[1] == std::pair{std::string("VMCOREINFO"), text});
  CHECK(core.memory(7 * 4096 + 24, 9) == "OSRELEASE");
}

TEST_CASE("core: a note of a length that cannot be is the guest's joke") {
  for (const std::uint32_t size : {0U, 9U, 4096U, 0xffff'ffffU}) {
    CAPTURE(size);
    const Core core =
        dump(*checkpoint_with(1 << 20, 7, vmcoreinfo_note(size, "OSRELEASE=6.12.1\n")));
    CHECK(core.notes().size() == 1);
  }
}

TEST_CASE("core: RAM above 4 GiB is at its own address, and zeros take no room on disk") {
  const std::uint64_t memory = kLowRamLimit + (64U << 20);
  const auto page = static_cast<std::uint32_t>(kLowRamLimit / kPageSize + 3);
  const std::string path = place("kvitest-core-high-");

  save_core(*checkpoint_with(memory, page, "above"), path);

  std::ifstream file(path, std::ios::binary);
  std::vector<Elf64_Phdr> segments(3);
  file.seekg(sizeof(Elf64_Ehdr));
  file.read(reinterpret_cast<char*>(segments.data()),
            static_cast<std::streamsize>(segments.size() * sizeof(Elf64_Phdr)));
  CHECK(segments[2].p_paddr == kHighRamBase);
  std::string text(5, ' ');
  file.seekg(static_cast<std::streamoff>(segments[2].p_offset + 3 * kPageSize));
  file.read(text.data(), 5);
  CHECK(text == "above");
  struct stat status {};
  REQUIRE(::stat(path.c_str(), &status) == 0);
  CHECK(status.st_blocks * 512 < 1 << 20);
  std::filesystem::remove(path);
}

TEST_CASE("core: a place that cannot be written is one error, and nothing is left there") {
  const auto checkpoint = checkpoint_with(1 << 20, 1, "x");

  CHECK_THROWS_AS(save_core(*checkpoint, "/nowhere/core"), Error);
}

}  // namespace
}  // namespace kvitest
