#include "native/virtio/balloon/balloon.h"

#include <doctest/doctest.h>

#include "native/error.h"
#include "native/virtio/balloon/test_balloon.h"

namespace kvitest {
namespace {

using B = TestBalloon;
constexpr std::uint64_t kPage = B::kFirstPage;

TEST_CASE("balloon: five queues and all features but MUST_TELL_HOST; those withheld take theirs") {
  B all;
  CHECK((all.driver->device_features() & 0x3f) == 0x3e);
  CHECK(all.board->mmio(18, 2) == 5);
  B few({"stats_vq", "free_page_hint"}, {"must_tell_host"});
  CHECK((few.driver->device_features() & 0x3f) == 0x35);
  CHECK(few.board->mmio(18, 2) == 3);
  CHECK_THROWS_AS(optional_features(*all.device, std::vector<std::string>{"stats_vq"}), Error);
  CHECK_THROWS_AS(make_balloon({}), Error);
}

TEST_CASE("balloon: the host's target shows in the config space, with interrupt and generation") {
  B balloon;
  REQUIRE(balloon.driver->start(B::kAll) == 0x0f);
  const auto generation = balloon.board->mmio(21, 1);

  balloon.device->set_target(3 * kPageSize);

  CHECK(balloon.config(0) == 3);
  CHECK(balloon.board->interrupts.take_messages(0) == 1);
  CHECK(balloon.board->mmio(21, 1) != generation);
  CHECK(balloon.device->report().target == 3 * kPageSize);
  CHECK_THROWS_AS(balloon.device->set_target(100), Error);
  CHECK_THROWS_AS(balloon.device->set_target(std::uint64_t{1} << 45), Error);
  // The driver's word; the target is not its to write.
  balloon.set_config(0, 77);
  balloon.set_config(4, 2);
  CHECK(balloon.config(0) == 3);
  CHECK(balloon.config(4) == 2);
  CHECK(balloon.device->report().actual == 2 * kPageSize);
}

TEST_CASE("balloon: inflated pages are given back to the host, in any order, and no others") {
  B balloon;
  balloon.driver->start(B::kAll);
  for (std::uint64_t page = kPage; page < kPage + 8; ++page) balloon.mark(page);
  const std::size_t before = balloon.board->memory.private_pages();

  balloon.driver->send(B::kInflate,
                       little_endian<std::uint32_t>({kPage + 5, kPage + 1, kPage + 2, kPage + 5}));

  const auto used = balloon.driver->queue(B::kInflate).take_used();
  REQUIRE(used.has_value());
  CHECK(used->length == 0);
  CHECK(balloon.board->interrupts.take_messages(1 + B::kInflate) == 1);
  for (std::uint64_t i = 0; i < 8; ++i) {
    CAPTURE(i);
    const bool given = i == 1 || i == 2 || i == 5;
    CHECK(balloon.is_zero(kPage + i) == given);
    CHECK(balloon.is_marked(kPage + i) == !given);
  }
  // Reading them has brought pages of zeros back: 3 less and the ring's own are all there is to it.
  CHECK(balloon.device->report().given_back == 3 * kPageSize);
  CHECK(balloon.device->report().inflated == 4 * kPageSize);
  CHECK(before - 3 <= balloon.board->memory.private_pages());
}

TEST_CASE("balloon: memory of the host falls by what was inflated") {
  B balloon;
  balloon.driver->start(B::kAll);
  std::string numbers;
  for (std::uint64_t page = kPage; page < kPage + 256; ++page) {
    balloon.mark(page);
    numbers += little_endian<std::uint32_t>({static_cast<std::uint32_t>(page)});
  }
  const Gpa buffer = balloon.driver->allocate(1);
  REQUIRE(balloon.board->memory.fill(buffer, std::byte{0}, 8192));
  const std::size_t before = balloon.board->memory.private_pages();

  balloon.driver->send(B::kInflate, numbers);

  const std::size_t after = balloon.board->memory.private_pages();
  CHECK(before - after >= 254);
  CHECK(before - after <= 256);
}

TEST_CASE("balloon: page numbers that are no RAM are ignored, their neighbours are not") {
  B balloon;
  balloon.driver->start(B::kAll);
  balloon.mark(B::kEndOfRam - 1);

  balloon.driver->send(
      B::kInflate, little_endian<std::uint32_t>({B::kEndOfRam + 1, B::kEndOfRam - 1, B::kEndOfRam,
                                                 0xffff'ffff, 0x000f'ffff}));

  CHECK(balloon.is_zero(B::kEndOfRam - 1));
  CHECK(balloon.device->report().ignored == 4);
  CHECK(balloon.device->report().given_back == kPageSize);
  CHECK(balloon.driver->status() == 0x0f);
}

TEST_CASE("balloon: arrays that end within a number, are empty, or writable") {
  B balloon;
  balloon.driver->start(B::kAll);
  balloon.mark(kPage);
  balloon.mark(kPage + 1);

  balloon.driver->send(B::kInflate, little_endian<std::uint32_t>({kPage}) + "\x01\x02");
  CHECK(balloon.is_zero(kPage));
  balloon.driver->offer(B::kInflate, 64);

  CHECK(balloon.driver->queue(B::kInflate).take_used().has_value());
  CHECK(balloon.driver->queue(B::kInflate).take_used().has_value());
  CHECK(balloon.is_marked(kPage + 1));
  CHECK(balloon.device->report().inflated == kPageSize);
}

TEST_CASE("balloon: a deflate request is acknowledged, and changes no page") {
  B balloon;
  balloon.driver->start(B::kAll);
  balloon.mark(kPage);
  balloon.driver->send(B::kDeflate, little_endian<std::uint32_t>({kPage, kPage + 1}));
  CHECK(balloon.driver->queue(B::kDeflate).take_used().has_value());
  CHECK(balloon.is_marked(kPage));
  CHECK(balloon.device->report().deflated == 2 * kPageSize);
}

TEST_CASE("balloon: statistics come when they are asked for, in any order, unknown ones too") {
  B balloon;
  balloon.driver->start(B::kAll);
  balloon.device->ask_statistics();  // nobody has offered a buffer
  balloon.driver->send(B::kStatistics, statistics({{4, 1000}, {0, 7}}));
  CHECK(balloon.device->report().updates == 1);
  CHECK(balloon.device->report().statistics ==
        std::map<std::uint16_t, std::uint64_t>{{0, 7}, {4, 1000}});
  // The device keeps the buffer until it wants to know more.
  CHECK_FALSE(balloon.driver->queue(B::kStatistics).take_used().has_value());

  balloon.device->ask_statistics();

  const auto used = balloon.driver->queue(B::kStatistics).take_used();
  REQUIRE(used.has_value());
  CHECK(used->length == 0);
  CHECK(balloon.board->interrupts.take_messages(1 + B::kStatistics) == 1);
  balloon.driver->send(B::kStatistics,
                       statistics({{999, 5}, {5, ~std::uint64_t{0}}}) + "half an en");
  CHECK(balloon.device->report().updates == 2);
  CHECK(balloon.device->report().statistics.count(4) == 0);
  CHECK(balloon.device->report().statistics.at(5) == ~std::uint64_t{0});
  CHECK(balloon.device->report().statistics.at(999) == 5);
}

TEST_CASE("balloon: of two statistics buffers the first comes back at once") {
  B balloon;
  balloon.driver->start(B::kAll);
  balloon.driver->send(B::kStatistics, statistics({{4, 1}}));
  balloon.driver->send(B::kStatistics, statistics({{4, 2}}));
  CHECK(balloon.driver->queue(B::kStatistics).take_used().has_value());
  CHECK_FALSE(balloon.driver->queue(B::kStatistics).take_used().has_value());
  CHECK(balloon.device->report().statistics.at(4) == 2);
  balloon.device->ask_statistics();
  CHECK(balloon.driver->queue(B::kStatistics).take_used().has_value());
}

TEST_CASE("balloon: reported pages are given back, whole ones only") {
  B balloon;
  balloon.driver->start(B::kAll);
  for (std::uint64_t page = kPage; page < kPage + 6; ++page) balloon.mark(page);
  TestQueue& ring = balloon.driver->queue(B::kReporting);
  ring.set_descriptor(0, kPage * kPageSize, 2 * kPageSize, TestQueue::kWrite | TestQueue::kNext, 1);
  // From within a page to within another: only the one between is wholly free.
  ring.set_descriptor(1, (kPage + 3) * kPageSize + 8, 2 * kPageSize, TestQueue::kWrite, 0);
  ring.set_available(0);
  balloon.driver->notify(B::kReporting);

  const auto used = ring.take_used();
  REQUIRE(used.has_value());
  CHECK(used->length == 0);
  CHECK(balloon.is_zero(kPage));
  CHECK(balloon.is_zero(kPage + 1));
  CHECK(balloon.is_marked(kPage + 2));
  CHECK(balloon.is_marked(kPage + 3));
  CHECK(balloon.is_zero(kPage + 4));
  CHECK(balloon.is_marked(kPage + 5));
  CHECK(balloon.device->report().reported == 4 * kPageSize);
  CHECK(balloon.device->report().given_back == 3 * kPageSize);
}

TEST_CASE("balloon: reported pages keep a poison that is not zero, and inflated ones do not") {
  for (const std::uint32_t poison : {0u, 0xaaaa'aaaau}) {
    CAPTURE(poison);
    B balloon;
    balloon.driver->negotiate(B::kAll | kBalloonPagePoison);
    balloon.set_config(12, poison);
    balloon.driver->set_up_queues(true);
    balloon.driver->add_status(4);
    // 5.5.6.6.1: it stays what it was at DRIVER_OK.
    balloon.set_config(12, 1);
    CHECK(balloon.config(12) == poison);
    balloon.mark(kPage);
    balloon.mark(kPage + 1);

    balloon.offer_pages(B::kReporting, kPage, 1);
    balloon.driver->send(B::kInflate, little_endian<std::uint32_t>({kPage + 1}));

    CHECK(balloon.is_zero(kPage) == (poison == 0));
    CHECK(balloon.is_marked(kPage) == (poison != 0));
    CHECK(balloon.is_zero(kPage + 1));
  }
}

TEST_CASE("balloon: hints are counted between the round's id and the driver's stop") {
  B balloon;
  balloon.driver->start(B::kAll);
  CHECK(balloon.config(8) == 1);
  for (std::uint64_t page = kPage; page < kPage + 3; ++page) balloon.mark(page);

  balloon.device->ask_hints();

  const std::uint32_t id = balloon.config(8);
  CHECK(id >= 2);
  CHECK(balloon.board->interrupts.take_messages(0) == 1);
  balloon.offer_pages(B::kHints, kPage, 1);  // before the driver has named the round
  balloon.driver->send(B::kHints, little_endian<std::uint32_t>({id + 1}));
  balloon.offer_pages(B::kHints, kPage, 1);  // of another round
  CHECK(balloon.device->report().hinted == 0);
  balloon.driver->send(B::kHints, little_endian<std::uint32_t>({id}));
  balloon.offer_pages(B::kHints, kPage, 2);
  balloon.offer_pages(B::kHints, kPage + 2, 1);
  CHECK(balloon.device->report().rounds == 0);
  balloon.driver->send(B::kHints, little_endian<std::uint32_t>({0}));

  CHECK(balloon.device->report().hinted == 3 * kPageSize);
  CHECK(balloon.device->report().rounds == 1);
  CHECK(balloon.config(8) == 1);
  CHECK(balloon.board->interrupts.take_messages(0) == 1);
  CHECK(balloon.is_marked(kPage));
  balloon.device->ask_hints();
  CHECK(balloon.config(8) != id);
}

TEST_CASE("balloon: without the feature there are no hints to be had, nor statistics") {
  B balloon;
  balloon.driver->start(TestDriver::kTransportFeatures);
  CHECK_THROWS_AS(balloon.device->ask_hints(), Error);
  // A queue of a feature that was not negotiated is not served.
  balloon.driver->send(B::kStatistics, statistics({{4, 1}}));
  CHECK(balloon.device->report().updates == 0);
  balloon.mark(kPage);
  balloon.offer_pages(B::kReporting, kPage, 1);
  CHECK(balloon.is_marked(kPage));
}

TEST_CASE("balloon: with features withheld the queues move up, as Linux and QEMU number them") {
  B balloon({"stats_vq", "free_page_hint"});
  balloon.driver->start(TestDriver::kTransportFeatures | kBalloonReporting);
  balloon.mark(kPage);
  balloon.offer_pages(2, kPage, 1);
  CHECK(balloon.is_zero(kPage));
}

TEST_CASE("balloon: works again after each of twenty resets, from an empty balloon") {
  B balloon;
  balloon.device->set_target(5 * kPageSize);
  for (int i = 0; i < 20; ++i) {
    REQUIRE(balloon.driver->start(B::kAll) == 0x0f);
    CHECK(balloon.config(0) == 5);
    CHECK(balloon.config(4) == 0);
    balloon.set_config(4, 5);
    balloon.mark(kPage);
    balloon.driver->send(B::kInflate, little_endian<std::uint32_t>({kPage}));
    balloon.driver->send(B::kStatistics, statistics({{4, 1}}));
    CHECK(balloon.is_zero(kPage));
  }
  balloon.driver->reset();
  CHECK(balloon.config(4) == 0);
  balloon.device->ask_statistics();
}

// ---- checkpoints

void fork(B& child, B& parent) {
  child.board->copy_memory(*parent.board);
  load(*child.board, saved(*parent.board));
  child.board->resume();
  child.driver->adopt(*parent.driver);
}

TEST_CASE("balloon checkpoint: a fork has the target, the driver's numbers and the poison") {
  B parent;
  parent.driver->negotiate(B::kAll | kBalloonPagePoison);
  parent.set_config(12, 0xaa);
  parent.driver->set_up_queues(true);
  parent.driver->add_status(4);
  parent.device->set_target(9 * kPageSize);
  parent.set_config(4, 8);
  parent.device->ask_hints();

  B child;
  fork(child, parent);

  for (const std::uint64_t field : {0, 4, 8, 12})
    CHECK(child.config(field) == parent.config(field));
  CHECK(child.device->report().actual == 8 * kPageSize);
  child.mark(kPage);
  child.offer_pages(B::kReporting, kPage, 1);
  CHECK(child.is_marked(kPage));
  // Rounds of a fork's own do not take up the parent's.
  child.device->ask_hints();
  CHECK(child.config(8) != parent.config(8));
}

TEST_CASE("balloon checkpoint: the statistics buffer that is held comes back once in each fork") {
  B parent;
  parent.driver->start(B::kAll);
  parent.driver->send(B::kStatistics, statistics({{4, 1}}));
  B child;
  fork(child, parent);
  B grandchild;
  fork(grandchild, child);

  for (B* one : {&parent, &child, &grandchild}) {
    one->device->ask_statistics();
    one->device->ask_statistics();
    CHECK(one->driver->queue(B::kStatistics).take_used().has_value());
    CHECK_FALSE(one->driver->queue(B::kStatistics).take_used().has_value());
    one->driver->send(B::kStatistics, statistics({{4, 2}}));
    CHECK(one->device->report().statistics.at(4) == 2);
  }
}

TEST_CASE("balloon checkpoint: another version, and a buffer without a driver, are refused") {
  B parent;
  parent.driver->start(B::kAll);
  parent.driver->send(B::kStatistics, statistics({{4, 1}}));
  const auto bytes = saved(*parent.board);
  B other;
  other.board->copy_memory(*parent.board);
  CHECK(refusal(*other.board, with_version(bytes, "virtio-balloon", 9)).find("version") !=
        std::string::npos);

  StateWriter writer;
  parent.device->save(writer);
  const auto device = writer.take();
  StateReader reader(device);
  B idle;
  CHECK_THROWS_AS(idle.device->load(reader, nullptr), Error);
}

}  // namespace
}  // namespace kvitest
