// Checkpoint, fork and reset on a real /dev/kvm, with bare guests.
#include <doctest/doctest.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "native/error.h"
#include "native/machine/machine.h"
#include "native/machine/test_machine.h"

namespace kvitest {
namespace {

using CheckpointPtr = std::shared_ptr<const Checkpoint>;

void boot(TestMachine& machine) {
  machine.create();
  machine.start();
}

// Sends `steps` to a machine of steps.c and waits for what they print.
void step(TestMachine& machine, const std::string& steps, const std::string& printed) {
  machine.clear_text();
  machine.write("serial", steps);
  machine.wait_for_text("debug", printed);
}

// A checkpoint of steps.c in which its counter is 2 and its pages hold 2.
CheckpointPtr at_two(int ring = 0, bool irqchip = false) {
  MachineSpec spec = bare("steps", ring);
  spec.irqchip = irqchip;
  TestMachine machine(spec);
  boot(machine);
  step(machine, "++w", "ABw");
  return machine.checkpoint();
}

std::string error_of(auto action) {
  try {
    action();
  } catch (const std::exception& error) {
    return error.what();
  }
  return "";
}

TEST_SUITE_BEGIN("fork" * doctest::skip(no_kvm()));

TEST_CASE("fork: it goes on where the checkpoint was, with and without irqchip, in both rings") {
  for (const bool irqchip : {false, true}) {
    for (const int ring : {0, 3}) {
      CAPTURE(irqchip);
      CAPTURE(ring);
      const CheckpointPtr checkpoint = at_two(ring, irqchip);
      TestMachine fork(checkpoint);
      boot(fork);

      step(fork, "r+", "BC");
      fork.write("serial", "x");

      CHECK(fork.wait_for_end().code == 3);
    }
  }
}

TEST_CASE("fork: the machine it was taken from goes on, and the mark parts its output") {
  TestMachine machine(bare("steps"));
  boot(machine);
  step(machine, "+", "A");

  machine.checkpoint();
  machine.write("serial", "+");
  machine.wait_for_text("debug", "AB");

  CHECK(machine.log() == std::vector<std::string>{"debug:A", "mark:checkpoint", "debug:B"});
}

TEST_CASE("fork: three of one checkpoint go their own ways") {
  const CheckpointPtr checkpoint = at_two();
  TestMachine first(checkpoint);
  TestMachine second(checkpoint);
  TestMachine third(checkpoint);
  boot(first);
  boot(second);
  boot(third);

  step(first, "+w", "Cw");
  step(second, "+++w", "CDEw");
  step(third, "r", "B");
  step(first, "r", "C");
  step(second, "r", "E");
  step(third, "r+", "BC");
}

TEST_CASE("fork: several vCPUs go on, and one that has halted stays so") {
  MachineSpec spec = bare("smp_digits");
  spec.cpus = 4;
  TestMachine machine(spec);
  boot(machine);
  for (const char* digit : {"0", "1", "2"}) machine.wait_for_text("debug", digit);
  std::this_thread::sleep_for(std::chrono::milliseconds(100));

  const CheckpointPtr checkpoint = machine.checkpoint();
  TestMachine fork(checkpoint);
  boot(fork);
  for (const char* digit : {"0", "1", "2"}) fork.wait_for_text("debug", digit);

  CHECK(checkpoint->machine.halted == std::vector<bool>{false, false, false, true});
  CHECK(fork.text("debug").find('3') == std::string::npos);
}

TEST_CASE("fork: a timer armed before the checkpoint fires in the fork") {
  MachineSpec spec = bare("lapic_timer");
  spec.irqchip = true;
  spec.cpus = 2;
  TestMachine machine(spec);
  boot(machine);
  machine.wait_for_text("debug", "armed\n.");

  const CheckpointPtr checkpoint = machine.checkpoint();
  TestMachine fork(checkpoint);
  boot(fork);

  fork.wait_for_text("debug", "...");
  machine.clear_text();
  machine.wait_for_text("debug", "...");
}

TEST_CASE("fork: of a fork of a fork") {
  CheckpointPtr checkpoint = at_two();
  std::string letter = "B";
  for (int generation = 0; generation < 5; ++generation) {
    TestMachine fork(checkpoint);
    boot(fork);
    step(fork, "r", letter);
    letter[0] = static_cast<char>(letter[0] + 1);
    step(fork, "+w", letter + "w");
    checkpoint = fork.checkpoint();
  }
  TestMachine last(checkpoint);
  boot(last);

  step(last, "r+", "GH");
}

TEST_CASE("fork: a vCPU that waits for credit does not hold up a checkpoint, and no byte is lost") {
  TestMachine machine(bare("flood"));
  machine.acknowledge(false);
  boot(machine);
  while (machine.text("debug").size() < kOutputWindow) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(20));

  const CheckpointPtr checkpoint = machine.checkpoint();
  const std::string before = machine.text("debug");
  TestMachine fork(checkpoint);
  fork.acknowledge(false);
  boot(fork);
  while (fork.text("debug").size() < 26) std::this_thread::yield();
  const std::string after = fork.text("debug");

  // Whatever letter the checkpoint fell on, the fork goes on with the next.
  const char next = before.back() == 'z' ? 'a' : static_cast<char>(before.back() + 1);
  CHECK(before.size() < kOutputWindow + 4096);
  CHECK(after[0] == next);
}

TEST_CASE("fork: checkpoints within string input leave it whole") {
  TestMachine machine(bare("steps", 3));
  boot(machine);
  step(machine, "+", "A");
  std::vector<CheckpointPtr> checkpoints;
  machine.clear_text();
  std::thread steps([&] { machine.write("serial", std::string(40, 's') + "+"); });

  for (int i = 0; i < 10; ++i) checkpoints.push_back(machine.checkpoint());
  steps.join();
  machine.wait_for_text("debug", "B");

  // An A for each s, and never a ! for bytes that did not come.
  CHECK(machine.text("debug") == std::string(40, 'A') + "B");
  for (const CheckpointPtr& checkpoint : checkpoints) {
    TestMachine fork(checkpoint);
    boot(fork);
    // The bytes that were on their way are the fork's too.
    fork.write("serial", "x");
    CHECK(fork.wait_for_end().reason == "test-exit");
    CHECK(fork.text("debug").find('!') == std::string::npos);
  }
}

TEST_CASE("fork: bytes that no device has taken yet reach the fork, once") {
  TestMachine machine(bare("spin", 3));
  boot(machine);
  machine.wait_for_text("debug", "spinning");
  std::thread writer([&] {
    try {
      machine.write("serial", std::string(100'000, 'x'));
    } catch (const Error&) {  // the machine is stopped before anybody takes them
    }
  });
  CheckpointPtr checkpoint;
  do {
    checkpoint = machine.checkpoint();
  } while (checkpoint->machine.pending_writes.empty());
  TestMachine fork(checkpoint);
  boot(fork);
  const CheckpointPtr again = fork.checkpoint();
  machine.stop();
  writer.join();

  CHECK(again->machine.pending_writes == checkpoint->machine.pending_writes);
}

TEST_CASE(
    "fork: checkpoints at any moment of a guest that prints in turn lose and repeat nothing") {
  for (int i = 0; i < 20; ++i) {
    TestMachine machine(bare("hello", 3));
    boot(machine);
    std::this_thread::sleep_for(std::chrono::microseconds(50 * i));
    CheckpointPtr checkpoint;
    try {
      checkpoint = machine.checkpoint();
    } catch (const Error& error) {
      CHECK(error.code() == EPIPE);
      continue;
    }
    machine.wait_for_end();
    TestMachine fork(checkpoint);
    boot(fork);
    fork.wait_for_end();
    std::string before;
    for (const std::string& entry : machine.log()) {
      if (entry == "mark:checkpoint") break;
      before += entry.substr(entry.find(':') + 1);
    }
    CHECK(before + fork.text("debug") == "hello from a bare guest\n");
  }
}

TEST_CASE("reset: memory, registers and devices are those of the checkpoint, again and again") {
  for (const bool irqchip : {false, true}) {
    CAPTURE(irqchip);
    const CheckpointPtr checkpoint = at_two(0, irqchip);
    TestMachine fork(checkpoint);
    boot(fork);
    for (int i = 0; i < 20; ++i) {
      step(fork, "r+w", "BCw");
      fork.reset();
    }
    step(fork, "r+x", "BC");
    CHECK(fork.wait_for_end().code == 3);
  }
}

TEST_CASE("reset: vCPUs that have halted since run again") {
  MachineSpec spec = bare("steps");
  spec.irqchip = true;
  TestMachine machine(spec);
  boot(machine);
  step(machine, "+", "A");
  TestMachine fork(machine.checkpoint());
  boot(fork);
  step(fork, "h", "h");

  fork.reset();

  step(fork, "+", "B");
}

TEST_CASE("reset: without irqchip too, while another vCPU keeps the machine alive") {
  MachineSpec spec = bare("smp_digits");
  spec.cpus = 4;
  TestMachine machine(spec);
  machine.create();
  const CheckpointPtr unstarted = machine.checkpoint();
  TestMachine fork(unstarted);
  boot(fork);
  for (const char* digit : {"0", "1", "2"}) fork.wait_for_text("debug", digit);
  std::this_thread::sleep_for(std::chrono::milliseconds(50));

  fork.reset();

  for (const char* digit : {"0", "1", "2"}) {
    fork.clear_text();
    fork.wait_for_text("debug", digit);
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  CHECK(fork.checkpoint()->machine.halted == std::vector<bool>{false, false, false, true});
}

TEST_CASE("reset: writes on their way are cancelled") {
  TestMachine machine(bare("spin", 3));
  boot(machine);
  machine.wait_for_text("debug", "spinning");
  TestMachine fork(machine.checkpoint());
  boot(fork);
  std::string error;
  std::thread writer(
      [&] { error = error_of([&] { fork.write("serial", std::string(100'000, 'x')); }); });
  while (fork.checkpoint()->machine.pending_writes.empty()) std::this_thread::yield();

  fork.reset();
  writer.join();

  CHECK(error.find("Operation canceled") != std::string::npos);
}

TEST_CASE("fork: without fds or memory for it there is one clear error, and nobody else notices") {
  TestMachine machine(bare("steps"));
  boot(machine);
  step(machine, "+", "A");
  const CheckpointPtr checkpoint = machine.checkpoint();
  TestMachine other(checkpoint);
  boot(other);
  rlimit limit{};
  ::getrlimit(RLIMIT_NOFILE, &limit);
  const int free_fd = ::dup(0);
  ::close(free_fd);
  const rlimit low{static_cast<rlim_t>(free_fd), limit.rlim_max};
  ::setrlimit(RLIMIT_NOFILE, &low);

  const std::string no_image = error_of([&] { machine.checkpoint(); });
  std::string no_fork;
  {
    TestMachine fork(checkpoint);
    no_fork = error_of([&] { fork.create(); });
  }
  ::setrlimit(RLIMIT_NOFILE, &limit);

  CHECK(no_image.find("Too many open files") != std::string::npos);
  CHECK(no_fork.find("Too many open files") != std::string::npos);
  step(machine, "+", "B");
  step(other, "+", "B");
}

// Takes every mapping that vm.max_map_count leaves: each second page of one region becomes one.
class AllMappings {
 public:
  AllMappings() {
    std::ifstream limit("/proc/sys/vm/max_map_count");
    std::size_t mappings = 0;
    limit >> mappings;
    size_ = (mappings + 2) * page_;
    region_ = static_cast<std::byte*>(
        ::mmap(nullptr, size_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    for (std::size_t at = page_; at < size_; at += 2 * page_) {
      if (::mprotect(region_ + at, page_, PROT_READ) != 0) break;
    }
  }
  ~AllMappings() { ::munmap(region_, size_); }
  AllMappings(const AllMappings&) = delete;
  AllMappings& operator=(const AllMappings&) = delete;

 private:
  static constexpr std::size_t page_ = 4096;
  std::byte* region_;
  std::size_t size_;
};

TEST_CASE("fork: at the limit of mappings there is one clear error, and nobody else notices") {
  const CheckpointPtr checkpoint = at_two();
  TestMachine other(checkpoint);
  boot(other);

  std::string no_fork;
  {
    const AllMappings none_left;
    no_fork = error_of([&] { TestMachine(checkpoint).create(); });
  }

  CHECK(no_fork.find("vm.max_map_count") != std::string::npos);
  step(other, "r+", "BC");
  TestMachine fork(checkpoint);
  boot(fork);
  step(fork, "r+", "BC");
}

TEST_CASE("fork: a file with any byte of its state changed is refused, or runs as it says") {
  char path[] = "/tmp/kvitest-fork-XXXXXX";
  ::close(::mkstemp(path));
  MachineSpec spec = bare("steps");
  spec.irqchip = true;
  spec.devices = {ConsoleSpec{{{"port", false}}}, RngSpec{}};
  {
    TestMachine machine(spec);
    boot(machine);
    step(machine, "+", "A");
    machine.checkpoint()->save(path);
  }
  std::string good;
  {
    std::ifstream file(path, std::ios::binary);
    good.assign(std::istreambuf_iterator<char>(file), {});
  }
  // The header's third and fourth number: bytes of state and of the devices' state.
  std::uint64_t state[2];
  std::memcpy(state, good.data() + 16, sizeof state);
  const std::size_t end = 48 + state[0] + state[1];
  REQUIRE(end < good.size());
  int refused = 0;
  int ran = 0;

  // A prime step: every field is hit somewhere, and all of a run does not take minutes.
  for (std::size_t at = 48; at < end; at += 23) {
    CAPTURE(at);
    std::string bad = good;
    bad[at] = static_cast<char>(~bad[at]);
    std::ofstream(path, std::ios::binary) << bad;
    try {
      TestMachine fork(Checkpoint::load(path));
      boot(fork);
      ++ran;
    } catch (const Error&) {
      ++refused;
    }
  }
  ::unlink(path);

  CHECK(refused > 0);
  CHECK(ran > 0);
  CHECK(live_machines == 0);
}

TEST_CASE("fork: forks and resets leave no thread, machine or checkpoint") {
  {
    const CheckpointPtr checkpoint = at_two();
    for (int i = 0; i < 50; ++i) {
      TestMachine fork(checkpoint);
      boot(fork);
      fork.reset();
    }
  }
  CHECK(live_machines == 0);
  CHECK(live_threads == 0);
  CHECK(live_checkpoints == 0);
}

TEST_SUITE_END();

}  // namespace
}  // namespace kvitest
