// Checkpoint, fork and reset on a real /dev/kvm, with bare guests.
#include <doctest/doctest.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
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

bool no_kvm() {
  return ::access("/dev/kvm", R_OK | W_OK) != 0;
}

MachineSpec bare(const std::string& guest, int ring = 0) {
  MachineSpec spec;
  spec.name = guest;
  spec.memory = 2 << 20;
  spec.payload = BarePayload{std::string(KVITEST_GUESTS) + "/" + guest + ".elf", ring};
  return spec;
}

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

TEST_SUITE_END();

}  // namespace
}  // namespace kvitest
