// Units that come, change and go, what becomes of them in a fork, and of the queues.
#include <doctest/doctest.h>
#include <stdlib.h>
#include <unistd.h>

#include <string>
#include <thread>
#include <vector>

#include "native/error.h"
#include "native/unique_fd.h"
#include "native/virtio/scsi/scsi.h"
#include "native/virtio/scsi/test_scsi.h"

namespace kvitest {
namespace {

using S = TestScsi;
using Started = StartedScsi;

TEST_CASE("scsi: units come and go with events, and the others hear of it by attention") {
  Started scsi;
  scsi.offer_event();
  scsi.offer_event();
  scsi.device->attach_lun(memory_lun("c", 7), open_disk(MemoryBacking{4096}, false));
  CHECK(scsi.take_event() == S::Event{1, 1, 0, 7});
  CHECK(scsi.board.interrupts.take_messages(1 + S::kEvent) == 1);
  CHECK(failed(scsi.command(kTestReady), kReportedLunsChanged));
  CHECK(failed(scsi.command(kTestReady, 0, {}, 7), kPowerOn));
  CHECK(good(scsi.command(rw10(0x28, 7, 1), 512, {}, 7)));
  CHECK(scsi.device->disks() == std::vector<std::string>{"a", "b", "c"});
  // REPORT LUNS says it all and takes the attention.
  scsi.device->detach_lun("c");
  CHECK(scsi.take_event() == S::Event{1, 2, 0, 7});
  CHECK(good(scsi.command(raw({0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 64}), 64)));
  CHECK(good(scsi.command(kTestReady)));
  CHECK(failed(scsi.command(kTestReady, 0, {}, 7), kLunNotSupported));
  CHECK(scsi.device->disk("c") == nullptr);

  CHECK_THROWS_AS(scsi.device->detach_lun("c"), Error);
  CHECK_THROWS_AS(scsi.device->attach_lun(memory_lun("a", 9), open_disk(MemoryBacking{512}, false)),
                  Error);
  CHECK_THROWS_AS(scsi.device->attach_lun(memory_lun("d", 5), open_disk(MemoryBacking{512}, false)),
                  Error);
  ScsiLunSpec wide = memory_lun("e", 9);
  wide.block_size = 4096;
  CHECK_THROWS_AS(scsi.device->attach_lun(wide, open_disk(MemoryBacking{512}, false)), Error);
}

TEST_CASE("scsi: events that find no buffer are told as missed, with the next one") {
  Started scsi;
  scsi.device->attach_lun(memory_lun("c", 7), open_disk(MemoryBacking{512}, false));
  scsi.offer_event();
  CHECK(scsi.take_event() == S::Event{0x8000'0000, 0, 0, 0});
  scsi.offer_event(8);  // too short for one
  scsi.device->detach_lun("c");
  CHECK_FALSE(scsi.take_event().has_value());
  scsi.offer_event();
  CHECK(scsi.take_event() == S::Event{0x8000'0000, 0, 0, 0});
}

TEST_CASE("scsi: without HOTPLUG and CHANGE there are no events") {
  S scsi;
  scsi.driver.start(TestDriver::kTransportFeatures);
  scsi.settle();
  scsi.offer_event();
  scsi.device->attach_lun(memory_lun("c", 7), open_disk(MemoryBacking{512}, false));
  scsi.device->resize("a", 1024);
  scsi.device->detach_lun("c");
  CHECK_FALSE(scsi.take_event().has_value());
  CHECK(failed(scsi.command(kTestReady), kReportedLunsChanged));
}

TEST_CASE("scsi: a resize is an event and an attention, and the capacity is another") {
  Started scsi;
  scsi.offer_event();
  scsi.device->resize("a", 2 << 20);
  CHECK(scsi.take_event() == S::Event{3, 0x092a, 0, 0});
  CHECK(failed(scsi.command(kTestReady), kCapacityChanged));
  CHECK(load_be<std::uint32_t>(scsi.command(raw({0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0}), 8).data, 0) ==
        4095);
  CHECK_THROWS_AS(scsi.device->resize("a", 100), Error);
  CHECK_THROWS_AS(scsi.device->resize("a", 0), Error);
  CHECK_THROWS_AS(scsi.device->resize("z", 512), Error);
}

TEST_CASE("scsi: works after each of twenty resets") {
  S scsi;
  for (int i = 0; i < 20; ++i) {
    REQUIRE(scsi.driver.start(S::kAll) == 0x0f);
    scsi.settle();
    CHECK(good(scsi.command(rw10(0x28, 0, 1), 512)));
  }
}

// ---- one queue alone, and IN_ORDER

TEST_CASE("scsi ring reset: each queue is taken back and comes again, smaller") {
  S scsi;
  scsi.device->ask_for(kFeatureRingReset);
  REQUIRE(scsi.driver.start(S::kAll | kFeatureRingReset) == 0x0f);
  scsi.settle();
  for (int round = 0; round < 3; ++round) {
    for (const std::uint16_t queue : {S::kControl, S::kEvent, S::kRequest}) {
      scsi.driver.reset_queue(queue);
      scsi.forget(queue);
      if (queue == S::kEvent) {
        scsi.device->resize("a", 1 << 20);
        CHECK(failed(scsi.command(kTestReady), kCapacityChanged));
      }
      REQUIRE(scsi.driver.set_up_again(queue, 8) == 1);
      CHECK(good(scsi.command(rw10(0x28, 0, 1), 512)));
      CHECK(scsi.manage(1, 0) == 0);
      if (queue == S::kEvent) {
        scsi.offer_event();
        CHECK(scsi.take_event() == S::Event{0x8000'0000, 0, 0, 0});
      }
      scsi.offer_event();
      scsi.device->resize("a", 1 << 20);
      CHECK(scsi.take_event() == S::Event{3, 0x092a, 0, 0});
      CHECK(failed(scsi.command(kTestReady), kCapacityChanged));
    }
  }
  CHECK(scsi.driver.status() == 0x0f);
}

TEST_CASE("scsi ring reset: without its request queue nothing is done, and aborts find nothing") {
  S scsi;
  scsi.device->ask_for(kFeatureRingReset);
  REQUIRE(scsi.driver.start(S::kAll | kFeatureRingReset) == 0x0f);
  scsi.settle();
  scsi.driver.reset_queue(S::kRequest);
  CHECK(scsi.command(kTestReady).response == 0xaa);
  CHECK(scsi.manage(1, 0) == 0);
  CHECK(scsi.command(kTestReady).response == 0xaa);
  scsi.forget(S::kRequest);
  REQUIRE(scsi.driver.set_up_again(S::kRequest, 16) == 1);
  CHECK(good(scsi.command(kTestReady)));
}

TEST_CASE("scsi: with IN_ORDER every queue gives its buffers back in their order") {
  S scsi;
  scsi.device->ask_for(kFeatureInOrder);
  REQUIRE(scsi.driver.start(S::kAll | kFeatureInOrder) == 0x0f);
  scsi.settle();
  std::vector<std::uint16_t> heads;
  const auto offer = [&] {
    const Bytes header(51);
    heads.push_back(scsi.offer(S::kRequest, {{scsi.put(header), 51, 0},
                                             {scsi.driver.allocate(108), 108, TestQueue::kWrite}}));
  };
  for (int i = 0; i < 5; ++i) offer();
  scsi.driver.notify(S::kRequest);
  // Two were settle()'s.
  CHECK(scsi.driver.queue(S::kRequest).used_index() == 7);
  for (const std::uint16_t head : heads) {
    CHECK(scsi.driver.queue(S::kRequest).take_used()->id == head);
  }
  CHECK(scsi.manage(1, 0) == 0);
  scsi.offer_event();
  scsi.device->resize("a", 1 << 20);
  CHECK(scsi.take_event().has_value());
}

// ---- threads

TEST_CASE("scsi: threads serve a unit that is a file, and task management waits for them") {
  std::string path = "/tmp/kvitest-scsi-XXXXXX";
  const UniqueFd file(::mkstemp(path.data()));
  REQUIRE(::ftruncate(file.get(), 1 << 20) == 0);
  ScsiSpec spec = S::usual();
  spec.luns[0].backing = FileBacking{path};
  S scsi(spec);
  ::unlink(path.c_str());
  REQUIRE(scsi.driver.start(S::kAll) == 0x0f);
  // Each of these is an attention for the unit, and a command that fails.
  std::thread host([&] {
    for (int i = 0; i < 20; ++i) {
      scsi.device->attach_lun(memory_lun("c", 7), open_disk(MemoryBacking{512}, false));
      scsi.device->detach_lun("c");
    }
  });
  constexpr unsigned kRounds = 20;
  std::vector<Gpa> answers;
  for (unsigned round = 0; round < kRounds; ++round) {
    for (unsigned i = 0; i < 5; ++i) {
      const auto block = static_cast<unsigned>(answers.size());
      Bytes header(51);
      std::ranges::copy(S::lun_field(0, 0), header.begin());
      std::ranges::copy(rw10(0x2a, block, 1), header.begin() + 19);
      answers.push_back(scsi.driver.allocate(108));
      scsi.offer(S::kRequest, {{scsi.put(header), 51, 0},
                               {scsi.put(letters(512, block)), 512, 0},
                               {answers.back(), 108, TestQueue::kWrite}});
    }
    scsi.driver.notify(S::kRequest);
    CHECK(scsi.manage(1, 0) == 0);
    CHECK(scsi.driver.queue(S::kRequest).used_index() == answers.size());
  }
  host.join();
  unsigned done = 0;
  for (unsigned block = 0; block < answers.size(); ++block) {
    const auto status = scsi.board.memory.load<std::uint8_t>(answers[block] + 10).value();
    CHECK(scsi.board.memory.load<std::uint8_t>(answers[block] + 11) == 0);
    CHECK((status == kStatusGood || status == kStatusCheckCondition));
    const bool good = status == kStatusGood;
    CHECK(scsi.on_disk("a", 512 * block, 512) == (good ? letters(512, block) : Bytes(512)));
    done += good ? 1 : 0;
  }
  CHECK(done >= answers.size() - 41);
}

// ---- checkpoints

void fork(S& child, S& parent) {
  child.board.copy_memory(parent.board);
  load(child.board, saved(parent.board));
  child.board.resume();
  child.driver.adopt(parent.driver);
}

TEST_CASE("scsi checkpoint: a fork has the units that there are, their content and attentions") {
  Started parent;
  REQUIRE(good(parent.command(rw10(0x2a, 0, 1), 0, letters(512, 1))));
  parent.device->attach_lun(memory_lun("c", 7), open_disk(MemoryBacking{4096}, false));
  parent.device->detach_lun("b");
  parent.device->resize("a", 2 << 20);
  const OpenLun images = [&](const ScsiLunSpec& lun) {
    return make_overlay(parent.device->disk(lun.name)->image());
  };
  S child(S::usual(), images, true);
  fork(child, parent);

  CHECK(child.device->disks() == std::vector<std::string>{"a", "c"});
  CHECK(child.on_disk("a", 0, 512) == letters(512, 1));
  CHECK(child.device->disk("a")->size() == 2 << 20);
  child.device->disk("a")->write(0, Bytes(512));
  CHECK(parent.on_disk("a", 0, 512) == letters(512, 1));
  for (S* one : {&child, static_cast<S*>(&parent)}) {
    CHECK(failed(one->command(kTestReady), kReportedLunsChanged));
    CHECK(failed(one->command(kTestReady), kCapacityChanged));
    CHECK(failed(one->command(kTestReady, 0, {}, 7), kPowerOn));
    CHECK(failed(one->command(kTestReady, 0, {}, 7), kReportedLunsChanged));
    CHECK(good(one->command(kTestReady, 0, {}, 7)));
  }
}

TEST_CASE("scsi checkpoint: another version, and disks of another size, are refused") {
  Started parent;
  const auto bytes = saved(parent.board);
  S other(S::usual(), nullptr, true);
  CHECK(refusal(other.board, with_version(bytes, "virtio-scsi", 9)).find("version") !=
        std::string::npos);
  S small(
      S::usual(), [](const ScsiLunSpec&) { return open_disk(MemoryBacking{512}, false); }, true);
  small.board.copy_memory(parent.board);
  CHECK(refusal(small.board, bytes).find("this one has 512") != std::string::npos);
}

}  // namespace
}  // namespace kvitest
