#include "native/machine/checkpoint.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <span>
#include <type_traits>
#include <utility>

#include "native/error.h"
#include "native/machine/machine.h"
#include "native/unique_fd.h"

namespace kvitest {
namespace {

// The file: the header, the machine's and its vCPUs' and VM's state, what its disks' images are,
// the devices' state, the runs, their pages and the disks' clusters one after the other, nothing
// else. Little-endian, as the processor is.
struct Header {
  std::array<char, 8> magic{'k', 'v', 'i', 't', 'e', 's', 't', '\n'};
  std::uint64_t version = 2;  // of this layout; the state's sections have their own
  std::uint64_t state_bytes = 0;
  std::uint64_t device_bytes = 0;
  std::uint64_t memory_bytes = 0;  // of RAM
  std::uint64_t runs = 0;
};

// Pages behind one another.
struct Run {
  std::uint64_t first = 0;
  std::uint64_t count = 0;
};

constexpr std::uint32_t kPagesAtOnce = 256;

[[noreturn]] void refuse(const std::string& path, const std::string& why) {
  throw Error("load checkpoint", EBADMSG, path + ": " + why, "take the checkpoint again");
}

// ---- MachineSpec without variants, as the archive wants it

struct SpecFields {
  std::string name;
  std::uint32_t cpus = 0;
  std::uint64_t memory = 0;
  bool is_linux = false;
  std::string kernel, initramfs, cmdline;
  std::string elf;
  std::int32_t ring = 0;
  std::vector<DeviceFields> devices;
  bool irqchip = false;
  template <typename Archive>
  void fields(Archive& archive) {
    archive(name, cpus, memory, is_linux, kernel, initramfs, cmdline, elf, ring, devices, irqchip);
  }
};

SpecFields to_fields(const MachineSpec& spec) {
  SpecFields fields;
  fields.name = spec.name;
  fields.cpus = spec.cpus;
  fields.memory = spec.memory;
  if (const auto* linux_payload = std::get_if<LinuxPayload>(&spec.payload)) {
    fields.is_linux = true;
    fields.kernel = linux_payload->kernel;
    fields.initramfs = linux_payload->initramfs;
    fields.cmdline = linux_payload->cmdline;
  } else {
    fields.elf = std::get<BarePayload>(spec.payload).elf;
    fields.ring = std::get<BarePayload>(spec.payload).ring;
  }
  for (const DeviceSpec& device : spec.devices) fields.devices.push_back(to_fields(device));
  fields.irqchip = spec.irqchip;
  return fields;
}

MachineSpec from_fields(const SpecFields& fields) {
  MachineSpec spec;
  spec.name = fields.name;
  spec.cpus = fields.cpus;
  spec.memory = fields.memory;
  if (fields.is_linux) {
    spec.payload = LinuxPayload{fields.kernel, fields.initramfs, fields.cmdline};
  } else {
    spec.payload = BarePayload{fields.elf, fields.ring};
  }
  for (const DeviceFields& device : fields.devices) spec.devices.push_back(from_fields(device));
  spec.irqchip = fields.irqchip;
  return spec;
}

// What the images of all disks are; their bytes come last in the file.
struct DiskImageStates {
  static constexpr StateTag kTag{"disks", 1};
  std::map<std::string, DiskImageState> disks;
  template <typename Archive>
  void fields(Archive& archive) {
    archive(disks);
  }
};

// ---- files

void write_all(int fd, std::span<const std::byte> bytes, const std::string& path) {
  while (!bytes.empty()) {
    const ssize_t done = ::write(fd, bytes.data(), bytes.size());
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) throw Error("write", errno, path);
    bytes = bytes.subspan(static_cast<std::size_t>(done));
  }
}

void read_all(int fd, std::span<std::byte> bytes, const std::string& path) {
  while (!bytes.empty()) {
    const ssize_t done = ::read(fd, bytes.data(), bytes.size());
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) throw Error("read", errno, path);
    if (done == 0) refuse(path, "it became shorter while it was read");
    bytes = bytes.subspan(static_cast<std::size_t>(done));
  }
}

std::vector<Run> runs_of(std::span<const std::uint32_t> pages) {
  std::vector<Run> runs;
  for (const std::uint32_t page : pages) {
    if (!runs.empty() && runs.back().first + runs.back().count == page) {
      ++runs.back().count;
    } else {
      runs.push_back({page, 1});
    }
  }
  return runs;
}

std::vector<std::byte> state_of(const Checkpoint& checkpoint) {
  StateWriter writer;
  writer.save(checkpoint.machine);
  for (const SavedVcpu& vcpu : checkpoint.vcpus) writer.save(vcpu);
  writer.save(checkpoint.vm);
  DiskImageStates states;
  for (const auto& [name, image] : checkpoint.disks) states.disks[name] = describe(*image);
  writer.save(states);
  return writer.take();
}

void write_file(const Checkpoint& checkpoint, int fd, const std::string& path) {
  const std::vector<std::byte> state = state_of(checkpoint);
  const std::vector<Run> runs = runs_of(checkpoint.memory->pages());
  Header header;
  header.state_bytes = state.size();
  header.device_bytes = checkpoint.devices.size();
  header.memory_bytes = checkpoint.memory->size();
  header.runs = runs.size();
  write_all(fd, std::as_bytes(std::span(&header, 1)), path);
  write_all(fd, state, path);
  write_all(fd, checkpoint.devices, path);
  write_all(fd, std::as_bytes(std::span(runs)), path);
  std::vector<std::byte> buffer(kPagesAtOnce * kPageSize);
  for (const Run& run : runs) {
    for (std::uint64_t done = 0; done < run.count;) {
      const auto count =
          static_cast<std::uint32_t>(std::min<std::uint64_t>(run.count - done, kPagesAtOnce));
      const std::span<std::byte> pages = std::span(buffer).first(count * kPageSize);
      checkpoint.memory->read(static_cast<std::uint32_t>(run.first + done), count, pages);
      write_all(fd, pages, path);
      done += count;
    }
  }
  for (const auto& [name, image] : checkpoint.disks) {
    for (const auto& [number, cluster] : image->clusters) {
      if (cluster) write_all(fd, *cluster, path);
    }
  }
}

DiskImageStates load_state(Checkpoint& checkpoint, std::span<const std::byte> bytes,
                           const std::string& path) {
  StateReader reader(bytes);
  checkpoint.machine = reader.load<MachineState>();
  const MachineSpec& spec = checkpoint.machine.spec;
  try {
    validate(spec);
  } catch (const Error& error) {
    refuse(path, error.detail());
  }
  for (unsigned i = 0; i < spec.cpus; ++i) {
    checkpoint.vcpus.push_back(reader.load<SavedVcpu>());
  }
  checkpoint.vm = reader.load<SavedVm>();
  auto disks = reader.load<DiskImageStates>();
  reader.finish();
  if (checkpoint.machine.halted.size() != spec.cpus) refuse(path, "it does not fit its own spec");
  return disks;
}

// The numbers of all pages that the runs name.
std::vector<std::uint32_t> pages_of(std::span<const Run> runs, std::uint64_t memory_pages,
                                    std::uint64_t pages_in_file, const std::string& path) {
  std::vector<std::uint32_t> pages;
  std::uint64_t end = 0;  // of the run before
  for (const Run& run : runs) {
    if (run.first < end || run.first >= memory_pages || run.count == 0 ||
        run.count > memory_pages - run.first || run.count > pages_in_file - pages.size()) {
      refuse(path, "its page " + std::to_string(run.first) + " is out of place");
    }
    end = run.first + run.count;
    for (std::uint64_t page = run.first; page < end; ++page) {
      pages.push_back(static_cast<std::uint32_t>(page));
    }
  }
  if (pages.size() != pages_in_file) refuse(path, "it is longer than its pages");
  return pages;
}

// Of `rest` bytes that must be there; what is left then.
std::uint64_t take(std::uint64_t rest, std::uint64_t bytes, const std::string& path) {
  if (bytes > rest) refuse(path, "it ends early");
  return rest - bytes;
}

}  // namespace

template <typename Archive>
void MachineState::fields(Archive& archive) {
  SpecFields flat = to_fields(spec);
  archive(flat, halted, panic_events, pending_writes);
  // Only then: a checkpoint that is being saved is shared and must not be written to.
  if constexpr (std::is_same_v<Archive, StateReader>) spec = from_fields(flat);
}

std::uint64_t Checkpoint::bytes_held() const {
  std::uint64_t bytes = memory->bytes_held();
  for (const auto& [name, image] : disks) bytes += image->bytes_held();
  return bytes;
}

void Checkpoint::save(const std::string& path) const {
  const std::string partial = path + ".partial";
  const UniqueFd fd(::open(partial.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (!fd) throw Error("open", errno, partial);
  try {
    write_file(*this, fd.get(), partial);
    if (::rename(partial.c_str(), path.c_str()) != 0) throw Error("rename", errno, path);
  } catch (...) {
    ::unlink(partial.c_str());
    throw;
  }
}

std::shared_ptr<const Checkpoint> Checkpoint::load(const std::string& path) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) throw Error("open", errno, path);
  struct stat status {};
  if (::fstat(fd.get(), &status) != 0) throw Error("fstat", errno, path);
  if (!S_ISREG(status.st_mode)) refuse(path, "it is not a regular file");

  // Every length is compared with what the file has before anything of that length is made.
  std::uint64_t rest = take(static_cast<std::uint64_t>(status.st_size), sizeof(Header), path);
  Header header;
  read_all(fd.get(), std::as_writable_bytes(std::span(&header, 1)), path);
  if (header.magic != Header{}.magic) refuse(path, "it is no checkpoint");
  if (header.version != Header{}.version) {
    refuse(path, "it has version " + std::to_string(header.version) +
                     ", this program knows version " + std::to_string(Header{}.version));
  }
  rest = take(rest, header.state_bytes, path);
  rest = take(rest, header.device_bytes, path);
  if (header.runs > rest / sizeof(Run)) refuse(path, "it ends early");
  rest -= header.runs * sizeof(Run);

  const auto checkpoint = std::make_shared<Checkpoint>();
  std::vector<std::byte> state(header.state_bytes);
  read_all(fd.get(), state, path);
  const DiskImageStates disks = load_state(*checkpoint, state, path);
  checkpoint->devices.resize(header.device_bytes);
  read_all(fd.get(), checkpoint->devices, path);
  if (header.memory_bytes != checkpoint->machine.spec.memory) {
    refuse(path, "its memory is not of its spec's size");
  }
  std::vector<Run> runs(header.runs);
  read_all(fd.get(), std::as_writable_bytes(std::span(runs)), path);
  if (rest % kPageSize != 0) refuse(path, "it ends within a page");
  std::uint64_t cluster_bytes = 0;
  for (const auto& [name, disk] : disks.disks) cluster_bytes += disk.data.size() * kClusterSize;
  rest = take(rest, cluster_bytes, path);
  const std::vector<std::uint32_t> pages =
      pages_of(runs, header.memory_bytes / kPageSize, rest / kPageSize, path);

  std::vector<std::byte> buffer(kPagesAtOnce * kPageSize);
  std::size_t at = 0;
  std::size_t held = 0;
  const PageSource source = [&](std::uint32_t, std::span<std::byte> out) {
    if (at == held) {
      held = std::min<std::uint64_t>(buffer.size(), rest);
      rest -= held;
      at = 0;
      read_all(fd.get(), std::span(buffer).first(held), path);
    }
    std::ranges::copy(std::span(buffer).subspan(at, kPageSize), out.begin());
    at += kPageSize;
  };
  checkpoint->memory = MemoryImage::make(header.memory_bytes, pages, source);
  for (const auto& [name, disk] : disks.disks) {
    checkpoint->disks[name] =
        make_image(disk, [&](std::span<std::byte> out) { read_all(fd.get(), out, path); });
  }
  return checkpoint;
}

}  // namespace kvitest
