// Disks of machines and their forks, on a real /dev/kvm.
#include <doctest/doctest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <future>
#include <string>

#include "native/error.h"
#include "native/machine/test_machine.h"

namespace kvitest {
namespace {

bool no_kvm() {
  return ::access("/dev/kvm", R_OK | W_OK) != 0;
}

struct Folder {
  Folder() {
    std::string name = (std::filesystem::temp_directory_path() / "kvitest-disks-XXXXXX").string();
    REQUIRE(::mkdtemp(name.data()) != nullptr);
    path = name;
  }
  ~Folder() { std::filesystem::remove_all(path); }
  std::string file(const std::string& name, const std::string& content) const {
    std::ofstream(path + "/" + name, std::ios::binary) << content;
    return path + "/" + name;
  }
  std::string path;
};

std::string content_of(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

MachineSpec with_disk(Backing backing, bool read_only = false) {
  MachineSpec spec;
  spec.name = "steps";
  spec.memory = 2 << 20;
  spec.payload = BarePayload{KVITEST_GUESTS "/steps.elf", 0};
  spec.irqchip = true;
  BlkSpec disk;
  disk.name = "disk0";
  disk.backing = std::move(backing);
  disk.read_only = read_only;
  disk.serial = "first";
  spec.devices.push_back(disk);
  return spec;
}

void write(TestMachine& machine, std::uint64_t offset, const std::string& text,
           const std::string& disk = "disk0") {
  const auto bytes = std::as_bytes(std::span(text));
  await([&](Machine::Done done) {
    machine.machine().write_disk(disk, offset, {bytes.begin(), bytes.end()}, std::move(done));
  });
}

std::string read(TestMachine& machine, std::uint64_t offset, std::uint64_t length,
                 const std::string& disk = "disk0") {
  const auto bytes = awaited<Machine::Bytes>(
      [&](auto done) { machine.machine().read_disk(disk, offset, length, std::move(done)); });
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

std::uint64_t size(TestMachine& machine) {
  return awaited<Machine::DiskReport>(
             [&](auto done) { machine.machine().disk_report("disk0", std::move(done)); })
      .bytes;
}

void resize(TestMachine& machine, std::uint64_t bytes) {
  await(
      [&](Machine::Done done) { machine.machine().resize_disk("disk0", bytes, std::move(done)); });
}

std::string error_of(auto action) {
  try {
    action();
  } catch (const std::exception& error) {
    return error.what();
  }
  return "";
}

void boot(TestMachine& machine) {
  machine.create();
  machine.start();
}

TEST_SUITE_BEGIN("fork disks" * doctest::skip(no_kvm()));

TEST_CASE("disks: a request under way at the checkpoint completes once in every fork") {
  const Folder folder;
  const std::string base = folder.file("base", "");
  std::filesystem::resize_file(base, 64 << 20);
  MachineSpec spec = with_disk(OverlayBacking{base});
  spec.memory = 8 << 20;
  spec.payload = BarePayload{KVITEST_GUESTS "/disk.elf", 0};
  TestMachine parent(spec);
  boot(parent);
  parent.wait_for_text("debug", "ND");
  // It has a request on its way nearly all the time.
  for (int round = 0; round < 4; ++round) {
    const auto checkpoint = parent.checkpoint();
    TestMachine fork(checkpoint);
    boot(fork);
    fork.wait_for_text("debug", "DND");
    fork.reset();
    fork.clear_text();
    fork.wait_for_text("debug", "DND");
    CHECK(fork.text("debug").find('!') == std::string::npos);
  }
  CHECK(parent.text("debug").find('!') == std::string::npos);
  parent.clear_text();
  parent.wait_for_text("debug", "DND");
}

TEST_CASE(
    "disks: forks of forks each have the bytes of their moment, and a reset brings them back") {
  TestMachine parent(with_disk(MemoryBacking{1 << 20}));
  boot(parent);
  write(parent, 1000, "parent");
  const auto checkpoint = parent.checkpoint();
  write(parent, 1000, "later!");

  TestMachine fork(checkpoint);
  boot(fork);
  CHECK(read(fork, 1000, 6) == "parent");
  write(fork, 1003, "FORK");
  const auto second = fork.checkpoint();
  TestMachine grandchild(second);
  boot(grandchild);
  write(grandchild, 1000, "GC");
  resize(grandchild, 1 << 16);

  CHECK(read(parent, 1000, 7) == std::string("later!\0", 7));
  CHECK(read(fork, 1000, 7) == "parFORK");
  CHECK(read(grandchild, 1000, 7) == "GCrFORK");
  fork.reset();
  grandchild.reset();
  CHECK(read(fork, 1000, 7) == std::string("parent\0", 7));
  CHECK(read(grandchild, 1000, 7) == "parFORK");
  CHECK(size(grandchild) == 1 << 20);
}

TEST_CASE("disks: a fork of a guest that writes to a file leaves that file alone") {
  const Folder folder;
  const std::string path = folder.file("disk", std::string(4096, '.'));
  TestMachine parent(with_disk(FileBacking{path}));
  boot(parent);
  write(parent, 0, "parent");
  const auto checkpoint = parent.checkpoint();
  TestMachine fork(checkpoint);
  boot(fork);
  write(fork, 0, "fork!!");
  write(parent, 6, "2");
  CHECK(read(fork, 0, 8) == "fork!!..");
  CHECK(content_of(path).substr(0, 8) == "parent2.");
  parent.stop();
  fork.stop();
  CHECK(content_of(path).substr(0, 8) == "parent2.");
}

TEST_CASE("disks: a checkpoint in a file carries what was written over the file below") {
  const Folder folder;
  const std::string base = folder.file("base", std::string(1 << 20, 'b'));
  const std::string saved = folder.path + "/checkpoint";
  {
    TestMachine parent(with_disk(OverlayBacking{base}));
    boot(parent);
    write(parent, 5000, "over");
    resize(parent, 2 << 20);
    write(parent, (2 << 20) - 3, "end");
    parent.checkpoint()->save(saved);
  }
  const std::uint64_t with_disks = std::filesystem::file_size(saved);
  // The base is described, not copied.
  CHECK(with_disks < (1 << 20));
  {
    TestMachine fork(Checkpoint::load(saved));
    boot(fork);
    CHECK(read(fork, 4998, 8) == "bboverbb");
    CHECK(read(fork, (1 << 20) - 1, 2) == std::string("b\0", 2));
    CHECK(read(fork, (2 << 20) - 4, 4) == std::string("\0end", 4));
  }
  for (const std::uint64_t bytes : {with_disks - 1, with_disks - kClusterSize}) {
    std::filesystem::resize_file(saved, bytes);
    CHECK(error_of([&] { Checkpoint::load(saved); }) != "");
  }
}

TEST_CASE(
    "disks: a checkpoint whose file below was changed since is refused, in memory and on disk") {
  const Folder folder;
  const std::string base = folder.file("base", std::string(8192, 'b'));
  const std::string saved = folder.path + "/checkpoint";
  std::shared_ptr<const Checkpoint> checkpoint;
  {
    TestMachine parent(with_disk(OverlayBacking{base}, true));
    boot(parent);
    checkpoint = parent.checkpoint();
    checkpoint->save(saved);
  }
  Checkpoint::load(saved);
  std::filesystem::resize_file(base, 8191);
  CHECK(error_of([&] { Checkpoint::load(saved); }) ==
        "open disk: " + base +
            ": the file was changed since the checkpoint read it (Stale file handle); take the "
            "checkpoint again");
  TestMachine fork(checkpoint);
  CHECK(error_of([&] { fork.create(); }).find("the file was changed since") != std::string::npos);
}

TEST_CASE("disks: a fork has a serial of its own, another device is refused") {
  TestMachine parent(with_disk(MemoryBacking{1 << 20}));
  boot(parent);
  const auto checkpoint = parent.checkpoint();
  ForkOptions options;
  options.devices["disk0"].serial = "second";
  const MachineSpec spec = fork_spec(*checkpoint, options);
  CHECK(std::get<BlkSpec>(spec.devices.at(0)).serial == "second");
  CHECK(std::get<BlkSpec>(checkpoint->machine.spec.devices.at(0)).serial == "first");
  TestMachine fork(checkpoint, options);
  boot(fork);

  ForkOptions unknown;
  unknown.devices["disk7"].serial = "x";
  CHECK(error_of([&] { TestMachine machine(checkpoint, unknown); }) ==
        "fork: the checkpoint has no device named disk7 (Invalid argument); name a device of the "
        "machine it was taken from");
  ForkOptions longer;
  longer.devices["disk0"].serial = std::string(21, 's');
  CHECK(error_of([&] { TestMachine machine(checkpoint, longer); }) != "");
  CHECK(error_of([&] { fork.reset(options); }).find("keeps the devices it was forked with") !=
        std::string::npos);
}

TEST_CASE("disks: what cannot be read, written or built is one clear error") {
  TestMachine machine(with_disk(MemoryBacking{4096}));
  boot(machine);
  CHECK(error_of([&] { read(machine, 0, 1, "other"); }) ==
        "read disk: machine steps has no disk \"other\" (No such file or directory); its disks: "
        "disk0");
  CHECK(error_of([&] { read(machine, 4096, 1); }) != "");
  CHECK(error_of([&] { read(machine, 0, kMaxDiskAccess + 1); }) != "");
  machine.stop();
  CHECK(error_of([&] { read(machine, 0, 1); }).find("has ended") != std::string::npos);

  MachineSpec twice = with_disk(MemoryBacking{4096});
  twice.devices.push_back(twice.devices.front());
  CHECK(error_of([&] { TestMachine(twice).create(); }) ==
        "machine spec: the disk \"disk0\" exists twice (Invalid argument); give every disk its own "
        "name");
  CHECK(error_of([&] {
          TestMachine(with_disk(OverlayBacking{"/nonexistent"})).create();
        }).find("/nonexistent") != std::string::npos);
}

TEST_SUITE_END();

}  // namespace
}  // namespace kvitest
