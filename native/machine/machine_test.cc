// On a real /dev/kvm, with bare guests.
#include "native/machine/machine.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "native/error.h"
#include "native/machine/test_machine.h"

namespace kvitest {
namespace {

using std::chrono::steady_clock;

MachineEnd run(TestMachine& machine) {
  machine.create();
  machine.start();
  return machine.wait_for_end();
}

TEST_SUITE_BEGIN("machine" * doctest::skip(no_kvm()));

TEST_CASE("machine: a bare guest prints and exits with 0") {
  TestMachine machine(bare("hello"));

  const MachineEnd end = run(machine);

  CHECK(end.reason == "test-exit");
  CHECK(end.code == 0);
  CHECK(machine.text("debug") == "hello from a bare guest\n");
  CHECK(end.exits.at("io") == 25);
  CHECK(end.vcpus.size() == 1);
}

TEST_CASE("machine: ring 3 prints and exits too") {
  TestMachine machine(bare("hello", 3));

  const MachineEnd end = run(machine);

  CHECK(end.reason == "test-exit");
  CHECK(machine.text("debug") == "hello from a bare guest\n");
}

TEST_CASE("machine: an exit code keeps its 32 bits") {
  TestMachine machine(bare("exit_code"));

  CHECK(run(machine).code == 0xdeadbeef);
}

TEST_CASE("machine: a vCPU thread that throws ends its machine, and says what it threw") {
  TestMachine machine(bare("spin"));
  machine.create();
  machine.start();

  machine.machine().fault(Machine::Fault::kThrow, [](std::exception_ptr) {});

  const MachineEnd end = machine.wait_for_end();
  CHECK(end.reason == "vmm-error");
  CHECK(end.detail == "vCPU 0: a fault that was asked for");
}

TEST_CASE("machine: a halt without irqchip ends it") {
  TestMachine machine(bare("halt"));

  CHECK(run(machine).reason == "halt");
}

TEST_CASE("machine: a triple fault ends it") {
  TestMachine machine(bare("triple_fault"));

  CHECK(run(machine).reason == "triple-fault");
}

TEST_CASE("machine: absent memory and ports read all ones and swallow writes, in both rings") {
  TestMachine ring0(bare("out_of_range"));
  TestMachine ring3(bare("out_of_range", 3));

  const MachineEnd end0 = run(ring0);
  const MachineEnd end3 = run(ring3);

  CHECK(end0.code == 0);
  CHECK(end3.code == 0);
  CHECK(end0.exits.at("mmio-unhandled") == 3);
  CHECK(end0.exits.at("io-unhandled") == 3);
}

TEST_CASE("machine: without irqchip every vCPU starts at the entry, and the last halt ends it") {
  MachineSpec spec = bare("smp");
  spec.cpus = 4;
  TestMachine machine(spec);

  const MachineEnd end = run(machine);

  std::string digits = machine.text("debug");
  std::ranges::sort(digits);
  CHECK(digits == "0123");
  CHECK(end.reason == "halt");
  CHECK(end.vcpus.size() == 4);
}

TEST_CASE("machine: a spinning guest is stopped at once") {
  for (const std::string guest : {"spin", "spin_cli"}) {
    for (const int ring : {0, 3}) {
      CAPTURE(guest);
      CAPTURE(ring);
      if (guest == "spin_cli" && ring == 3) continue;
      TestMachine machine(bare(guest, ring));
      machine.create();
      machine.start();
      machine.wait_for_text("debug", "spinning");

      const auto before = steady_clock::now();
      const MachineEnd end = machine.stop();

      CHECK(end.reason == "stopped");
      CHECK(steady_clock::now() - before < std::chrono::milliseconds(500));
    }
  }
}

TEST_CASE("machine: a running guest is inspected and goes on") {
  TestMachine machine(bare("spin", 3));
  machine.create();
  machine.start();
  machine.wait_for_text("debug", "spinning\n");

  std::vector<VcpuState> states;
  for (int i = 0; i < 100; ++i) states = machine.inspect();

  const auto rbx =
      std::ranges::find(states.at(0).registers, "rbx", &std::pair<std::string, std::string>::first);
  CHECK(rbx->second == "0x5917");
  CHECK_FALSE(states.at(0).mp_state.has_value());
  CHECK(machine.end_events() == 0);
  CHECK(machine.stop().reason == "stopped");
}

TEST_CASE("machine: a flood without reader is held at the window and can be stopped there") {
  TestMachine machine(bare("flood"));
  machine.acknowledge(false);
  machine.create();
  machine.start();
  std::size_t size = 0;
  for (int i = 0; i < 600 && size < kOutputWindow; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    size = machine.text("debug").size();
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(50));

  const std::size_t held = machine.text("debug").size();
  const std::vector<VcpuState> states = machine.inspect();
  const MachineEnd end = machine.stop();

  CHECK(held >= kOutputWindow);
  CHECK(held < kOutputWindow + 4096);
  CHECK(states.size() == 1);
  CHECK(end.reason == "stopped");
}

TEST_CASE("machine: stop before start ends it as stopped") {
  TestMachine machine(bare("hello"));
  machine.create();

  CHECK(machine.stop().reason == "stopped");
  CHECK(machine.stop().reason == "stopped");
  CHECK_THROWS_AS(machine.start(), Error);
  CHECK(machine.end_events() == 1);
}

TEST_CASE("machine: starting twice is refused") {
  TestMachine machine(bare("spin", 3));
  machine.create();
  machine.start();

  CHECK_THROWS_AS(machine.start(), Error);
}

TEST_CASE("machine: a payload that is not there is one error, and nothing is left") {
  const int before = live_machines;
  TestMachine machine(bare("no-such-guest"));

  CHECK_THROWS_AS(machine.create(), Error);

  CHECK(live_machines == before);
}

TEST_CASE("machine: writing to what is not there says what there is") {
  TestMachine machine(bare("spin", 3));
  machine.create();

  CHECK_THROWS_WITH_AS(machine.write("nowhere", "x"),
                       doctest::Contains("its channels: serial debug"), Error);
}

TEST_CASE("machine: writes after the end fail with EPIPE") {
  TestMachine machine(bare("hello"));
  run(machine);
  machine.stop();

  CHECK_THROWS_AS(machine.write("serial", "x"), Error);
}

TEST_CASE("machine: a hundred live side by side and leave nothing") {
  std::vector<std::unique_ptr<TestMachine>> machines;
  for (int i = 0; i < 100; ++i) {
    machines.push_back(std::make_unique<TestMachine>(bare("hello", i % 2 == 0 ? 0 : 3)));
    machines.back()->create();
  }
  CHECK(live_machines == 100);

  for (const auto& machine : machines) machine->start();
  int hellos = 0;
  for (const auto& machine : machines) {
    hellos += machine->wait_for_end().reason == "test-exit" ? 1 : 0;
  }
  machines.clear();

  CHECK(hellos == 100);
  CHECK(live_machines == 0);
  CHECK(live_threads == 0);
}

TEST_CASE("machine: with irqchip a bare guest runs the same") {
  MachineSpec spec = bare("hello");
  spec.irqchip = true;
  spec.cpus = 2;
  TestMachine machine(spec);

  const MachineEnd end = run(machine);

  CHECK(end.reason == "test-exit");
  CHECK(end.vcpus.at(0).mp_state == "runnable");
  CHECK(end.vcpus.at(1).mp_state == "uninitialized");
}

TEST_CASE("machine: destroyed while it spins, it leaves nothing") {
  {
    TestMachine machine(bare("spin"));
    machine.create();
    machine.start();
    machine.wait_for_text("debug", "spinning");
  }

  CHECK(live_machines == 0);
  CHECK(live_threads == 0);
}

TEST_SUITE_END();

}  // namespace
}  // namespace kvitest
