#include "native/machine/core_dump.h"

#include <elf.h>
#include <fcntl.h>
#include <sys/procfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <vector>

#include "native/error.h"
#include "native/memory/guest_memory.h"
#include "native/unique_fd.h"

namespace kvitest {
namespace {

using Bytes = std::vector<std::byte>;

constexpr std::uint32_t kPagesAtOnce = 256;
constexpr std::uint64_t kNoteAlignment = 4;
constexpr std::string_view kVmcoreinfo = "VMCOREINFO";
constexpr std::string_view kVmcoreinfoBegins = "OSRELEASE=";

struct RamRange {
  Gpa base;
  std::uint64_t size;
  std::uint32_t first_page;  // of the image
};

// As GuestMemory lays RAM out.
std::vector<RamRange> ranges_of(std::uint64_t memory) {
  const std::uint64_t low = std::min<std::uint64_t>(memory, kLowRamLimit);
  std::vector<RamRange> ranges{{0, low, 0}};
  if (memory > low) {
    ranges.push_back({kHighRamBase, memory - low, static_cast<std::uint32_t>(low / kPageSize)});
  }
  return ranges;
}

void append(Bytes& out, const void* data, std::size_t size) {
  const auto* bytes = static_cast<const std::byte*>(data);
  out.insert(out.end(), bytes, bytes + size);
}

void append_note(Bytes& out, std::string_view name, std::uint32_t type,
                 std::span<const std::byte> description) {
  const auto pad = [&out] {
    out.resize((out.size() + kNoteAlignment - 1) / kNoteAlignment * kNoteAlignment);
  };
  Elf64_Nhdr header{};
  header.n_namesz = static_cast<Elf64_Word>(name.size() + 1);
  header.n_descsz = static_cast<Elf64_Word>(description.size());
  header.n_type = type;
  append(out, &header, sizeof header);
  append(out, name.data(), name.size());
  out.push_back(std::byte{0});
  pad();
  append(out, description.data(), description.size());
  pad();
}

elf_prstatus status_of(const SavedVcpu& vcpu, std::size_t index) {
  const GeneralRegisters r = general_registers(vcpu);
  const SpecialRegisters s = special_registers(vcpu);
  elf_prstatus status{};
  // Debuggers know threads by it, and take 0 for none.
  status.pr_pid = static_cast<pid_t>(index + 1);
  // user_regs_struct, <sys/user.h>
  const std::array<std::uint64_t, ELF_NGREG> registers{
      r.r15,         r.r14,         r.r13,        r.r12,
      r.rbp,         r.rbx,         r.r11,        r.r10,
      r.r9,          r.r8,          r.rax,        r.rcx,
      r.rdx,         r.rsi,         r.rdi,        /*orig_rax*/ ~std::uint64_t{0},
      r.rip,         s.cs.selector, r.rflags,     r.rsp,
      s.ss.selector, s.fs.base,     s.gs.base,    s.ds.selector,
      s.es.selector, s.fs.selector, s.gs.selector};
  static_assert(sizeof status.pr_reg == sizeof registers);
  std::memcpy(&status.pr_reg, registers.data(), sizeof registers);
  return status;
}

// The text in a page that holds the note as the kernel keeps it for its own crash dumps. The page
// is the guest's, and says what the guest likes: it is believed to be text of at most a page.
std::span<const std::byte> vmcoreinfo_in(std::span<const std::byte> page) {
  Elf64_Nhdr header;
  std::memcpy(&header, page.data(), sizeof header);
  const std::size_t start = sizeof header + (kVmcoreinfo.size() + 1 + 3) / 4 * 4;
  if (header.n_namesz != kVmcoreinfo.size() + 1 || header.n_type != 0) return {};
  if (header.n_descsz < kVmcoreinfoBegins.size() || header.n_descsz > page.size() - start)
    return {};
  if (std::memcmp(page.data() + sizeof header, kVmcoreinfo.data(), kVmcoreinfo.size() + 1) != 0) {
    return {};
  }
  const std::span<const std::byte> text = page.subspan(start, header.n_descsz);
  if (std::memcmp(text.data(), kVmcoreinfoBegins.data(), kVmcoreinfoBegins.size()) != 0) return {};
  return text;
}

// Calls `use` with every page that may be other than zero.
template <typename Use>
void each_page(const MemoryImage& memory, Use use) {
  const std::vector<std::uint32_t> pages = memory.pages();
  Bytes buffer(kPagesAtOnce * kPageSize);
  for (std::size_t at = 0; at < pages.size();) {
    std::uint32_t count = 1;
    while (count < kPagesAtOnce && at + count < pages.size() &&
           pages[at + count] == pages[at] + count) {
      ++count;
    }
    memory.read(pages[at], count, std::span(buffer).first(count * kPageSize));
    for (std::uint32_t i = 0; i < count; ++i) {
      use(pages[at] + i, std::span<const std::byte>(buffer).subspan(i * kPageSize, kPageSize));
    }
    at += count;
  }
}

Bytes notes_of(const Checkpoint& checkpoint) {
  Bytes notes;
  for (std::size_t i = 0; i < checkpoint.vcpus.size(); ++i) {
    const elf_prstatus status = status_of(checkpoint.vcpus[i], i);
    append_note(notes, "CORE", NT_PRSTATUS, std::as_bytes(std::span(&status, 1)));
  }
  Bytes info;
  each_page(*checkpoint.memory, [&info](std::uint32_t, std::span<const std::byte> page) {
    const auto text = vmcoreinfo_in(page);
    // The kernel writes it once more when it panics: to the same place.
    if (info.empty()) info.assign(text.begin(), text.end());
  });
  if (!info.empty()) append_note(notes, kVmcoreinfo, 0, info);
  return notes;
}

Elf64_Ehdr file_header(std::size_t segments) {
  Elf64_Ehdr header{};
  std::memcpy(header.e_ident, ELFMAG, SELFMAG);
  header.e_ident[EI_CLASS] = ELFCLASS64;
  header.e_ident[EI_DATA] = ELFDATA2LSB;
  header.e_ident[EI_VERSION] = EV_CURRENT;
  header.e_type = ET_CORE;
  header.e_machine = EM_X86_64;
  header.e_version = EV_CURRENT;
  header.e_phoff = sizeof header;
  header.e_ehsize = sizeof header;
  header.e_phentsize = sizeof(Elf64_Phdr);
  header.e_phnum = static_cast<Elf64_Half>(segments);
  return header;
}

void write_at(int fd, std::span<const std::byte> bytes, std::uint64_t offset,
              const std::string& path) {
  while (!bytes.empty()) {
    const ssize_t done = ::pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) throw Error("write", errno, path);
    bytes = bytes.subspan(static_cast<std::size_t>(done));
    offset += static_cast<std::uint64_t>(done);
  }
}

void write_core(const Checkpoint& checkpoint, int fd, const std::string& path) {
  const std::vector<RamRange> ranges = ranges_of(checkpoint.memory->size());
  const Bytes notes = notes_of(checkpoint);
  Bytes head;
  const Elf64_Ehdr header = file_header(1 + ranges.size());
  append(head, &header, sizeof header);
  Elf64_Phdr note{};
  note.p_type = PT_NOTE;
  note.p_offset = sizeof header + (1 + ranges.size()) * sizeof(Elf64_Phdr);
  note.p_filesz = notes.size();
  note.p_align = kNoteAlignment;
  append(head, &note, sizeof note);
  const std::uint64_t ram = (note.p_offset + notes.size() + kPageSize - 1) / kPageSize * kPageSize;
  for (const RamRange& range : ranges) {
    Elf64_Phdr load{};
    load.p_type = PT_LOAD;
    load.p_flags = PF_R | PF_W | PF_X;
    load.p_offset = ram + range.first_page * kPageSize;
    load.p_vaddr = range.base;
    load.p_paddr = range.base;
    load.p_filesz = range.size;
    load.p_memsz = range.size;
    load.p_align = kPageSize;
    append(head, &load, sizeof load);
  }
  head.insert(head.end(), notes.begin(), notes.end());
  write_at(fd, head, 0, path);
  if (::ftruncate(fd, static_cast<off_t>(ram + checkpoint.memory->size())) != 0) {
    throw Error("ftruncate", errno, path);
  }
  each_page(*checkpoint.memory, [&](std::uint32_t page, std::span<const std::byte> bytes) {
    const bool is_zero = std::ranges::all_of(bytes, [](std::byte b) { return b == std::byte{0}; });
    if (!is_zero) write_at(fd, bytes, ram + page * kPageSize, path);
  });
}

}  // namespace

void save_core(const Checkpoint& checkpoint, const std::string& path) {
  const std::string partial = path + ".partial";
  const UniqueFd fd(::open(partial.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (!fd) throw Error("open", errno, partial);
  try {
    write_core(checkpoint, fd.get(), partial);
    if (::rename(partial.c_str(), path.c_str()) != 0) throw Error("rename", errno, path);
  } catch (...) {
    ::unlink(partial.c_str());
    throw;
  }
}

}  // namespace kvitest
