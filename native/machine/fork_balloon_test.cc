// Balloons of machines and their forks, on a real /dev/kvm: what the guest reads, and what memory
// the host has.
#include <doctest/doctest.h>

#include <future>
#include <string>

#include "native/error.h"
#include "native/machine/test_machine.h"

namespace kvitest {
namespace {

constexpr std::uint64_t kPagesOfGuest = 256 * kPageSize;  // balloon.c's
// Its rings and arrays take some themselves.
constexpr std::uint64_t kGivenAtLeast = kPagesOfGuest - 16 * kPageSize;

MachineSpec with_balloon() {
  MachineSpec spec = bare("balloon", 3);
  spec.memory = 8 << 20;
  spec.irqchip = true;
  spec.devices.push_back(BalloonSpec{.name = "balloon0"});
  return spec;
}

void boot(TestMachine& machine) {
  machine.create();
  machine.start();
}

// Sends `steps` to a machine of balloon.c, and what they must print.
void step(TestMachine& machine, const std::string& steps, const std::string& printed) {
  machine.clear_text();
  machine.write("serial", steps);
  machine.wait_for_text("debug", printed);
  CHECK(machine.text("debug") == printed);
}

std::uint64_t memory(TestMachine& machine) {
  return awaited<std::uint64_t>(
      [&](auto done) { machine.machine().private_memory(std::move(done)); });
}

BalloonReport report(TestMachine& machine, Machine::BalloonRequest request = {},
                     const std::string& name = "balloon0") {
  return awaited<BalloonReport>(
      [&](auto done) { machine.machine().balloon(name, request, std::move(done)); });
}

Machine::BalloonRequest wanting(std::uint64_t target) {
  Machine::BalloonRequest request;
  request.target = target;
  return request;
}

TEST_SUITE_BEGIN("fork balloon" * doctest::skip(no_kvm()));

TEST_CASE("balloon machine: pages of a guest go to the host, and come back as zeros") {
  TestMachine machine(with_balloon());
  boot(machine);
  for (const std::string give : {"i", "f"}) {
    CAPTURE(give);
    step(machine, "+r", give == "i" ? "AA" : "BB");
    const std::uint64_t before = memory(machine);
    step(machine, give, give);
    CHECK(before - memory(machine) >= kGivenAtLeast);
    step(machine, "r", "z");
  }
  step(machine, "d+r", "dCC");
  CHECK(report(machine).inflated == kPagesOfGuest);
  CHECK(report(machine).deflated == kPagesOfGuest);
  CHECK(report(machine).reported == kPagesOfGuest);
  CHECK(report(machine).given_back == 2 * kPagesOfGuest);
}

TEST_CASE("balloon machine: a checkpoint does not have the pages that were given") {
  TestMachine machine(with_balloon());
  boot(machine);
  step(machine, "+", "A");
  const std::uint64_t full = machine.checkpoint()->bytes_held();
  step(machine, "i", "i");
  const auto checkpoint = machine.checkpoint();
  CHECK(full - checkpoint->bytes_held() >= kGivenAtLeast);

  TestMachine fork(checkpoint);
  boot(fork);
  step(fork, "r+r", "zBB");
  step(machine, "r", "z");
}

TEST_CASE("balloon machine: what a fork gives reads as zeros there, and nowhere else") {
  TestMachine parent(with_balloon());
  boot(parent);
  step(parent, "+", "A");
  const auto checkpoint = parent.checkpoint();
  TestMachine given(checkpoint);
  TestMachine written(checkpoint);
  boot(given);
  boot(written);

  // Once its pages are the image's still, once its own.
  step(given, "ir", "iz");
  step(given, "+", "B");
  const std::uint64_t before = memory(given);
  step(given, "f", "f");
  CHECK(before - memory(given) >= kGivenAtLeast);
  step(written, "+", "B");

  step(given, "r", "z");
  step(written, "r", "B");
  step(parent, "r", "A");
  TestMachine grandchild(given.checkpoint());
  boot(grandchild);
  step(grandchild, "r+r", "zCC");
  TestMachine third(checkpoint);
  boot(third);
  step(third, "r", "A");
}

TEST_CASE("balloon machine: a reset brings back what a fork has given") {
  TestMachine parent(with_balloon());
  boot(parent);
  step(parent, "+", "A");
  TestMachine fork(parent.checkpoint());
  boot(fork);
  for (int round = 0; round < 5; ++round) {
    step(fork, "ir+fr", "izBfz");
    fork.reset();
    step(fork, "r", "A");
  }
}

TEST_CASE("balloon machine: a target before and after a fork, and names that nobody has") {
  TestMachine parent(with_balloon());
  boot(parent);
  step(parent, "+", "A");
  CHECK(report(parent, wanting(8192)).target == 8192);
  TestMachine fork(parent.checkpoint());
  boot(fork);
  CHECK(report(fork).target == 8192);
  CHECK(report(fork, wanting(4096)).target == 4096);
  CHECK(report(parent).target == 8192);
  CHECK_THROWS_AS(report(parent, {}, "balloon7"), Error);
  CHECK_THROWS_AS(report(parent, wanting(100)), Error);
  Machine::BalloonRequest request;
  request.hints = true;
  CHECK_THROWS_AS(report(parent, request), Error);
  // Nobody answers; a machine that ends with a poll under way ends as any other.
  request = {};
  request.interval = std::chrono::milliseconds(1);
  report(parent, request);
  CHECK(parent.stop().reason == "stopped");
}

TEST_CASE("balloon machine: two devices of one name are refused") {
  MachineSpec spec = with_balloon();
  spec.devices.push_back(BalloonSpec{.name = "balloon0"});
  TestMachine machine(spec);
  CHECK_THROWS_AS(machine.create(), Error);
}

TEST_SUITE_END();

}  // namespace
}  // namespace kvitest
