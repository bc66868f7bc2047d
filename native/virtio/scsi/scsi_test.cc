#include "native/virtio/scsi/scsi.h"

#include <doctest/doctest.h>

#include "native/error.h"
#include "native/virtio/scsi/test_scsi.h"

namespace kvitest {
namespace {

using S = TestScsi;
using Started = StartedScsi;

std::string text(const Bytes& bytes, std::size_t from, std::size_t length) {
  return {reinterpret_cast<const char*>(bytes.data()) + from, length};
}

Bytes rw16(unsigned opcode, std::uint64_t lba, std::uint32_t blocks, unsigned flags = 0) {
  Bytes cdb(16);
  cdb[0] = static_cast<std::byte>(opcode);
  cdb[1] = static_cast<std::byte>(flags);
  store_be<std::uint64_t>(cdb, 2, lba);
  store_be<std::uint32_t>(cdb, 10, blocks);
  return cdb;
}
Bytes rw12(unsigned opcode, std::uint32_t lba, std::uint32_t blocks) {
  Bytes cdb(12);
  cdb[0] = static_cast<std::byte>(opcode);
  store_be<std::uint32_t>(cdb, 2, lba);
  store_be<std::uint32_t>(cdb, 6, blocks);
  return cdb;
}
Bytes unmap_list(std::uint64_t lba, std::uint32_t blocks) {
  Bytes list(24);
  store_be<std::uint16_t>(list, 0, 22);
  store_be<std::uint16_t>(list, 2, 16);
  store_be<std::uint64_t>(list, 8, lba);
  store_be<std::uint32_t>(list, 16, blocks);
  return list;
}
TEST_CASE("scsi: the configuration space, whose sense and CDB sizes a reset brings back") {
  S scsi;
  CHECK(scsi.config(0) == 1);
  CHECK(scsi.config(4) == 14);
  CHECK(scsi.config(16) == 16);
  CHECK(scsi.config(20) == 96);
  CHECK(scsi.config(24) == 32);
  CHECK(scsi.config(28, 2) == 0);
  CHECK(scsi.config(30, 2) == 7);
  CHECK(scsi.config(32) == 255);
  scsi.driver.start(S::kAll);
  scsi.set_config(20, 18);
  scsi.set_config(24, 16);
  scsi.set_config(24, 100'000);
  scsi.set_config(0, 9);
  CHECK(scsi.config(0) == 1);
  scsi.sense_size = 18;
  scsi.cdb_size = 16;
  CHECK(failed(scsi.command(kTestReady), kPowerOn));
  CHECK(good(scsi.command(kTestReady)));
  scsi.driver.reset();
  CHECK(scsi.config(20) == 96);
  CHECK(scsi.config(24) == 32);
}

TEST_CASE("scsi: a new unit reports its power-on once, but not to INQUIRY and REPORT LUNS") {
  S scsi;
  scsi.driver.start(S::kAll);
  CHECK(good(scsi.command(raw({0x12, 0, 0, 0, 36}), 36)));
  CHECK(good(scsi.command(raw({0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 32}), 32)));
  CHECK(failed(scsi.command(kTestReady), kPowerOn));
  CHECK(good(scsi.command(kTestReady)));
  // REQUEST SENSE takes it, too.
  const S::Answer sense = scsi.command(raw({0x03, 0, 0, 0, 18}), 18, {}, 5);
  CHECK(good(sense));
  CHECK(sense.data[2] == std::byte{6});
  CHECK(sense.data[12] == std::byte{0x29});
  CHECK(good(scsi.command(kTestReady, 0, {}, 5)));
  const S::Answer none = scsi.command(raw({0x03, 1, 0, 0, 8}), 8, {}, 5);
  CHECK(none.data == raw({0x72, 0, 0, 0, 0, 0, 0, 0}));
}

TEST_CASE("scsi: INQUIRY, whole and cut short") {
  Started scsi;
  const S::Answer answer = scsi.command(raw({0x12, 0, 0, 0, 36}), 36);
  CHECK(good(answer));
  CHECK(answer.residual == 0);
  CHECK(answer.used == 12 + 96 + 36);
  CHECK(answer.data[0] == std::byte{0});
  CHECK(answer.data[4] == std::byte{31});
  CHECK(text(answer.data, 8, 24) == "KVITEST DISK            ");
  const S::Answer part = scsi.command(raw({0x12, 0, 0, 0, 5}), 36);
  CHECK(part.residual == 31);
  CHECK(part.used == 12 + 96 + 5);
  CHECK(failed(scsi.command(raw({0x12, 0, 0x80, 0, 36}), 36), kInvalidFieldInCdb));
  CHECK(failed(scsi.command(raw({0x12, 2, 0, 0, 36}), 36), kInvalidFieldInCdb));
}

TEST_CASE("scsi: pages of vital product data") {
  Started scsi;
  const auto page = [&](unsigned number, std::uint16_t lun = 0) {
    return scsi.command(raw({0x12, 1, number, 0, 255}), 255, {}, lun);
  };
  CHECK(text(page(0x00).data, 0, 10) ==
        std::string("\x00\x00\x00\x06\x00\x80\x83\xb0\xb1\xb2", 10));
  CHECK(text(page(0x80).data, 4, 8) == "serial-a");
  const S::Answer id = page(0x83);
  CHECK(text(id.data, 8, 16) == "KVITEST serial-a");
  CHECK(id.data != page(0x83, 5).data);
  const S::Answer limits = page(0xb0);
  CHECK(limits.data[3] == std::byte{60});
  CHECK(load_be<std::uint32_t>(limits.data, 8) == 131072);
  CHECK(load_be<std::uint32_t>(limits.data, 20) == 32768);
  CHECK(load_be<std::uint32_t>(limits.data, 24) == 16);
  CHECK(load_be<std::uint64_t>(limits.data, 36) == 32768);
  CHECK(load_be<std::uint32_t>(page(0xb0, 5).data, 20) == 0);
  CHECK(page(0xb2).data[5] == std::byte{0xc4});
  CHECK(page(0xb2, 5).data[5] == std::byte{0});
  CHECK(failed(page(0xb9), kInvalidFieldInCdb));
}

TEST_CASE("scsi: units that are not there, on a target that is and on one that is not") {
  Started scsi;
  const S::Answer inquiry = scsi.command(raw({0x12, 0, 0, 0, 36}), 36, {}, 9);
  CHECK(good(inquiry));
  CHECK(inquiry.data[0] == std::byte{0x7f});
  CHECK(failed(scsi.command(kTestReady, 0, {}, 9), kLunNotSupported));
  const S::Answer sense = scsi.command(raw({0x03, 0, 0, 0, 18}), 18, {}, 9);
  CHECK(sense.data[12] == std::byte{0x25});
  CHECK(scsi.command(kTestReady, 0, {}, 0, 3).response == 3);
  CHECK(scsi.request(raw({2, 0, 0, 0, 0, 0, 0, 0}), kTestReady).response == 3);
  CHECK(scsi.request(raw({1, 0, 0xc1, 0, 0, 0, 0, 0}), kTestReady).response == 3);
  CHECK(scsi.request(raw({1, 0, 0, 0, 0, 0, 0, 1}), kTestReady).response == 3);
  // Peripheral device addressing is the other way to write a number.
  CHECK(good(scsi.request(raw({1, 0, 0, 5, 0, 0, 0, 0}), kTestReady)));
}

TEST_CASE("scsi: REPORT LUNS, of a unit, of none and of the well-known one") {
  Started scsi;
  const Bytes cdb = raw({0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 64});
  for (const Bytes& lun :
       {S::lun_field(0, 0), S::lun_field(0, 77), raw({0xc1, 1, 0, 0, 0, 0, 0, 0})}) {
    const S::Answer answer = scsi.request(lun, cdb, 64);
    CHECK(good(answer));
    CHECK(load_be<std::uint32_t>(answer.data, 0) == 16);
    CHECK(answer.data[9] == std::byte{0});
    CHECK(answer.data[17] == std::byte{5});
    CHECK(answer.residual == 40);
  }
  CHECK(failed(scsi.command(raw({0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 15}), 16), kInvalidFieldInCdb));
  CHECK(failed(scsi.command(raw({0xa0, 0, 7, 0, 0, 0, 0, 0, 0, 64}), 64), kInvalidFieldInCdb));
  const S::Answer both = scsi.command(raw({0xa0, 0, 2, 0, 0, 0, 0, 0, 0, 64}), 64);
  CHECK(load_be<std::uint32_t>(both.data, 0) == 24);
  CHECK(both.data[8] == std::byte{0xc1});
  CHECK(good(scsi.request(raw({0xc1, 1, 0, 0, 0, 0, 0, 0}), kTestReady)));
  CHECK(failed(scsi.request(raw({0xc1, 1, 0, 0, 0, 0, 0, 0}), rw10(0x28, 0, 1), 512),
               kInvalidOpcode));
}

TEST_CASE("scsi: capacity, by both commands, and for blocks of 4096") {
  ScsiSpec spec = S::usual();
  spec.luns[1].block_size = 4096;
  Started scsi(spec);
  const S::Answer ten = scsi.command(raw({0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0}), 8);
  CHECK(load_be<std::uint32_t>(ten.data, 0) == 2047);
  CHECK(load_be<std::uint32_t>(ten.data, 4) == 512);
  CHECK(failed(scsi.command(raw({0x25, 0, 0, 0, 0, 1, 0, 0, 0, 0}), 8), kInvalidFieldInCdb));
  Bytes cdb = raw({0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0});
  const S::Answer sixteen = scsi.command(cdb, 32);
  CHECK(load_be<std::uint64_t>(sixteen.data, 0) == 2047);
  CHECK(sixteen.data[13] == std::byte{3});
  CHECK(sixteen.data[14] == std::byte{0xc0});
  const S::Answer large = scsi.command(cdb, 32, {}, 5);
  CHECK(load_be<std::uint64_t>(large.data, 0) == 255);
  CHECK(load_be<std::uint32_t>(large.data, 8) == 4096);
  CHECK(large.data[14] == std::byte{0});
  cdb[1] = std::byte{0x11};
  CHECK(failed(scsi.command(cdb, 32), kInvalidFieldInCdb));
}

TEST_CASE("scsi: MODE SENSE tells of write protection, cache and blocks") {
  Started scsi;
  const S::Answer six = scsi.command(raw({0x1a, 0x08, 0x08, 0, 255}), 255);
  CHECK(good(six));
  CHECK(six.data[0] == std::byte{23});
  CHECK(six.data[2] == std::byte{0x10});
  CHECK(six.data[4] == std::byte{0x08});
  CHECK(six.data[6] == std::byte{0x04});
  CHECK(six.residual == 255 - 24);
  CHECK(scsi.command(raw({0x1a, 0x08, 0x08, 0, 255}), 255, {}, 5).data[2] == std::byte{0x90});
  const S::Answer ten = scsi.command(raw({0x5a, 0, 0x3f, 0, 0, 0, 0, 0, 255}), 255);
  CHECK(load_be<std::uint16_t>(ten.data, 0) == 46);
  CHECK(ten.data[7] == std::byte{8});
  CHECK(load_be<std::uint32_t>(ten.data, 8) == 2048);
  // Nothing can be changed, or saved.
  CHECK(scsi.command(raw({0x1a, 0x08, 0x48, 0, 255}), 255).data[6] == std::byte{0});
  CHECK(failed(scsi.command(raw({0x1a, 0x08, 0xc8, 0, 255}), 255), Sense{5, 0x39, 0}));
  CHECK(failed(scsi.command(raw({0x1a, 0x08, 0x02, 0, 255}), 255), kInvalidFieldInCdb));
  CHECK(failed(scsi.command(raw({0x1a, 0x08, 0x08, 5, 255}), 255), kInvalidFieldInCdb));
  CHECK(failed(scsi.command(raw({0x15, 0x10, 0, 0, 0})), kInvalidOpcode));
}

TEST_CASE("scsi: every length of READ and WRITE moves the blocks it names") {
  Started scsi;
  struct Way {
    Bytes write, read;
  };
  const std::vector<Way> ways{
      {raw({0x0a, 0, 0, 7, 3, 0}), raw({0x08, 0, 0, 7, 3, 0})},
      {rw10(0x2a, 100, 3), rw10(0x28, 100, 3)},
      {rw10(0x2a, 200, 3, 0x08), rw10(0x28, 200, 3, 0x18)},
      {rw12(0xaa, 300, 3), rw12(0xa8, 300, 3)},
      {rw16(0x8a, 2045, 3), rw16(0x88, 2045, 3)},
  };
  const std::vector<std::uint64_t> places{7, 100, 200, 300, 2045};
  for (std::size_t i = 0; i < ways.size(); ++i) {
    CAPTURE(i);
    const Bytes data = letters(1536, static_cast<unsigned>(i));
    const S::Answer written = scsi.command(ways[i].write, 0, data);
    CHECK(good(written));
    CHECK(written.residual == 0);
    CHECK(written.used == 12 + 96);
    CHECK(scsi.on_disk("a", places[i] * 512, 1536) == data);
    const S::Answer answer = scsi.command(ways[i].read, 1536);
    CHECK(good(answer));
    CHECK(answer.used == 12 + 96 + 1536);
    CHECK(answer.data == data);
  }
  // READ(6) of 0 blocks is of 256; of the others of none.
  CHECK(scsi.command(raw({0x08, 0, 0, 7, 0, 0}), 131072).residual == 0);
  CHECK(scsi.command(rw10(0x28, 7, 0), 512).residual == 512);
  // More room than blocks.
  CHECK(scsi.command(rw10(0x28, 7, 1), 4096).residual == 4096 - 512);
  CHECK(scsi.command(rw10(0x2a, 7, 1), 0, Bytes(4096)).residual == 4096 - 512);
}

TEST_CASE("scsi: what is not wholly on the medium is out of range, and nothing is moved") {
  Started scsi;
  const Bytes before = scsi.on_disk("a", 2047 * 512, 512);
  CHECK(failed(scsi.command(rw10(0x28, 2047, 2), 1024), kLbaOutOfRange));
  CHECK(failed(scsi.command(rw10(0x2a, 2047, 2), 0, letters(1024, 1)), kLbaOutOfRange));
  CHECK(failed(scsi.command(rw16(0x88, ~std::uint64_t{0}, 2), 1024), kLbaOutOfRange));
  CHECK(failed(scsi.command(rw16(0x8a, 1, 0xffff'ffff), 0, letters(512, 1)), kLbaOutOfRange));
  CHECK(failed(scsi.command(rw10(0x35, 2049, 0)), kLbaOutOfRange));
  CHECK(scsi.on_disk("a", 2047 * 512, 512) == before);
  CHECK(failed(scsi.command(rw10(0x28, 0, 1, 0x20), 512), kInvalidFieldInCdb));
}

TEST_CASE("scsi: less room than the command asks for is an overrun") {
  Started scsi;
  CHECK(scsi.command(rw10(0x28, 0, 3), 1024).response == 1);
  CHECK(scsi.command(rw10(0x2a, 0, 3), 0, letters(1024, 1)).response == 1);
  CHECK(scsi.command(raw({0x12, 0, 0, 0, 96}), 36).response == 1);
  CHECK(scsi.on_disk("a", 0, 512) == Bytes(512));
  // Both ways at once takes a feature that is not offered.
  CHECK(scsi.command(rw10(0x28, 0, 1), 512, letters(512, 1)).response == 9);
}

TEST_CASE("scsi: a read-only unit is write-protected, for every command that writes") {
  Started scsi;
  const Bytes data = letters(512, 1);
  CHECK(failed(scsi.command(raw({0x0a, 0, 0, 0, 1}), 0, data, 5), kWriteProtected));
  CHECK(failed(scsi.command(rw10(0x2a, 0, 1), 0, data, 5), kWriteProtected));
  CHECK(failed(scsi.command(rw16(0x93, 0, 1), 0, data, 5), kWriteProtected));
  CHECK(failed(scsi.command(rw10(0x42, 0, 24), 0, unmap_list(0, 1), 5), kWriteProtected));
  CHECK(good(scsi.command(rw10(0x28, 0, 1), 512, {}, 5)));
  CHECK(good(scsi.command(rw10(0x35, 0, 0), 0, {}, 5)));
}

TEST_CASE("scsi: UNMAP zeroes the ranges it lists, all or none") {
  Started scsi;
  const Bytes data = letters(8 * 512, 3);
  REQUIRE(good(scsi.command(rw10(0x2a, 10, 8), 0, data)));
  CHECK(good(scsi.command(rw10(0x42, 0, 24), 0, unmap_list(12, 3))));
  CHECK(scsi.on_disk("a", 12 * 512, 1536) == Bytes(1536));
  CHECK(scsi.on_disk("a", 10 * 512, 1024) == Bytes(data.begin(), data.begin() + 1024));
  CHECK(scsi.on_disk("a", 15 * 512, 1536) == Bytes(data.begin() + 2560, data.end()));
  // The second one is not on the medium.
  Bytes two = unmap_list(10, 1);
  two.resize(40);
  store_be<std::uint16_t>(two, 2, 32);
  store_be<std::uint64_t>(two, 24, 2048);
  store_be<std::uint32_t>(two, 32, 1);
  CHECK(failed(scsi.command(rw10(0x42, 0, 40), 0, two), kLbaOutOfRange));
  CHECK(scsi.on_disk("a", 10 * 512, 512) == Bytes(data.begin(), data.begin() + 512));
  CHECK(good(scsi.command(rw10(0x42, 0, 0))));
  CHECK(failed(scsi.command(rw10(0x42, 0, 7), 0, Bytes(7)), kParameterListLength));
  CHECK(failed(scsi.command(rw10(0x42, 0, 24, 1), 0, unmap_list(0, 1)), kInvalidFieldInCdb));
  CHECK(scsi.command(rw10(0x42, 0, 24), 0, Bytes(8)).response == 1);
  Bytes many(8 + 17 * 16);
  store_be<std::uint16_t>(many, 2, 17 * 16);
  CHECK(failed(scsi.command(rw10(0x42, 0, 280), 0, many), kInvalidFieldInParameters));
}

TEST_CASE("scsi: WRITE SAME(16) repeats a block, or unmaps") {
  Started scsi;
  const Bytes block = letters(512, 9);
  CHECK(good(scsi.command(rw16(0x93, 20, 4), 0, block)));
  for (std::uint64_t i = 20; i < 24; ++i) CHECK(scsi.on_disk("a", i * 512, 512) == block);
  CHECK(scsi.on_disk("a", 24 * 512, 512) == Bytes(512));
  CHECK(good(scsi.command(rw16(0x93, 21, 1, 0x08), 0, Bytes(512))));
  CHECK(scsi.on_disk("a", 21 * 512, 512) == Bytes(512));
  CHECK(good(scsi.command(rw16(0x93, 22, 1, 0x09))));  // NDOB
  CHECK(scsi.on_disk("a", 22 * 512, 512) == Bytes(512));
  CHECK(failed(scsi.command(rw16(0x93, 0, 0), 0, block), kInvalidFieldInCdb));
  CHECK(failed(scsi.command(rw16(0x93, 2048, 1), 0, block), kLbaOutOfRange));
  CHECK(failed(scsi.command(rw16(0x93, 0, 1, 0x10), 0, block), kInvalidFieldInCdb));
  CHECK(scsi.command(rw16(0x93, 0, 1), 0, letters(100, 1)).response == 1);
}

TEST_CASE("scsi: a command that is none, and one after the other on the same unit") {
  Started scsi;
  CHECK(failed(scsi.command(raw({0xff})), kInvalidOpcode));
  CHECK(failed(scsi.command(raw({0x04})), kInvalidOpcode));
  CHECK(good(scsi.command(kTestReady)));
}

TEST_CASE("scsi: requests too short for what must be in them") {
  Started scsi;
  const Bytes header(19 + 32);
  const Gpa answer = scsi.driver.allocate(200);
  REQUIRE(scsi.board.memory.fill(answer, std::byte{0xaa}, 200));
  const auto response = [&] { return scsi.board.memory.load<std::uint8_t>(answer + 11).value(); };
  const auto take = [&] { return scsi.driver.queue(S::kRequest).take_used().value().length; };
  // No room for a response at all.
  scsi.offer(S::kRequest, {{scsi.put(header), 51, 0}, {answer, 11, TestQueue::kWrite}});
  scsi.driver.notify(S::kRequest);
  CHECK(take() == 0);
  CHECK(response() == 0xaa);
  // None for the sense data; and a header that ends early.
  scsi.offer(S::kRequest, {{scsi.put(header), 51, 0}, {answer, 107, TestQueue::kWrite}});
  scsi.driver.notify(S::kRequest);
  CHECK(take() == 12);
  CHECK(response() == 9);
  scsi.offer(S::kRequest, {{scsi.put(header), 50, 0}, {answer, 108, TestQueue::kWrite}});
  scsi.driver.notify(S::kRequest);
  CHECK(take() == 12);
  CHECK(scsi.driver.status() == 0x0f);
}

TEST_CASE("scsi: task management: resets establish attention, aborts find nothing left") {
  Started scsi;
  for (const std::uint32_t abort : {0u, 1u, 3u, 6u, 7u}) CHECK(scsi.manage(abort, 0) == 0);
  CHECK(good(scsi.command(kTestReady)));
  CHECK(scsi.manage(5, 0) == 0);
  CHECK(failed(scsi.command(kTestReady), kPowerOn));
  CHECK(good(scsi.command(kTestReady, 0, {}, 5)));
  CHECK(scsi.manage(4, 99) == 0);  // the whole nexus, whatever the number
  CHECK(failed(scsi.command(kTestReady), kPowerOn));
  CHECK(failed(scsi.command(kTestReady, 0, {}, 5), kPowerOn));
  CHECK(scsi.manage(2, 0) == 11);
  CHECK(scsi.manage(77, 0) == 11);
  CHECK(scsi.manage(5, 9) == 12);
  CHECK(scsi.manage(5, 0, 6) == 3);
}

TEST_CASE("scsi: a task management function finds what was made available before it done") {
  Started scsi;
  Bytes header(19 + 32);
  std::ranges::copy(S::lun_field(0, 0), header.begin());
  std::ranges::copy(rw10(0x2a, 50, 1), header.begin() + 19);
  const Bytes data = letters(512, 4);
  // The doorbell of the request queue is not rung.
  scsi.offer(S::kRequest, {{scsi.put(header), 51, 0},
                           {scsi.put(data), 512, 0},
                           {scsi.driver.allocate(108), 108, TestQueue::kWrite}});
  CHECK(scsi.manage(0, 0) == 0);
  CHECK(scsi.driver.queue(S::kRequest).take_used().has_value());
  CHECK(scsi.on_disk("a", 50 * 512, 512) == data);
}

TEST_CASE("scsi: control requests of notifications, of no type, and too short") {
  Started scsi;
  Bytes query(16);
  store_le<std::uint32_t>(query, 0, 1);
  std::ranges::copy(S::lun_field(0, 0), query.begin() + 4);
  store_le<std::uint32_t>(query, 12, 0xff);
  CHECK(scsi.control(query, 5) == std::vector<std::uint8_t>{0, 0, 0, 0, 0});
  std::ranges::copy(S::lun_field(0, 9), query.begin() + 4);
  CHECK(scsi.control(query, 5) == std::vector<std::uint8_t>{0, 0, 0, 0, 3});
  CHECK(scsi.control(raw({9, 0, 0, 0}), 1) == std::vector<std::uint8_t>{9});
  CHECK(scsi.control(raw({0, 0}), 1) == std::vector<std::uint8_t>{9});
  CHECK(scsi.control(Bytes(23), 1) == std::vector<std::uint8_t>{9});
}

TEST_CASE("scsi: specs that cannot be are refused") {
  const auto refused = [](auto change) {
    ScsiSpec spec = S::usual();
    change(spec);
    CHECK_THROWS_AS(validate(spec), Error);
  };
  refused([](ScsiSpec& spec) { spec.name = ""; });
  refused([](ScsiSpec& spec) { spec.queues = 9; });
  refused([](ScsiSpec& spec) { spec.queue_size = 100; });
  refused([](ScsiSpec& spec) { spec.luns[1].lun = 0; });
  refused([](ScsiSpec& spec) { spec.luns[0].target = 8; });
  refused([](ScsiSpec& spec) { spec.luns[0].block_size = 8192; });
  refused([](ScsiSpec& spec) { spec.luns[0].serial = "\x01"; });
  refused([](ScsiSpec& spec) { spec.luns[0].name = ""; });
  refused([](ScsiSpec& spec) { spec.vhost = "naa.5001405a0b0c0d0e"; });  // beside luns
  refused([](ScsiSpec& spec) {
    spec.luns.clear();
    spec.vhost = "naa/5001405a0b0c0d0e";
  });
}

}  // namespace
}  // namespace kvitest
