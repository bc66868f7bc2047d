#include <doctest/doctest.h>

#include <array>
#include <vector>

#include "native/virtio/queue.h"
#include "native/virtio/test_driver.h"

namespace kvitest {
namespace {

constexpr Gpa kBuffers = 0x10000;

TEST_CASE("descriptor chain: pieces that are lent name the rest of the chain, neighbours as one") {
  GuestMemory memory(1024 * 1024);
  const QueueLayout layout{8, 0x1000, 0x2000, 0x3000};
  CountingInterrupts interrupts;
  TestQueue ring(memory, layout.size, layout.descriptors, layout.driver, layout.device);
  const auto queue = make_split_queue(memory, layout, {}, interrupts);
  ring.set_descriptor(0, kBuffers, 16, TestQueue::kNext, 1);
  ring.set_descriptor(1, kBuffers + 16, 16, TestQueue::kNext, 2);
  ring.set_descriptor(2, kBuffers + 64, 8, TestQueue::kNext, 3);
  ring.set_descriptor(3, kBuffers + 128, 8, TestQueue::kNext | TestQueue::kWrite, 4);
  ring.set_descriptor(4, kBuffers + 256, 8, TestQueue::kWrite, 0);
  ring.set_available(0);
  auto chain = queue->pop();
  REQUIRE(chain.has_value());
  std::array<std::byte, 10> head{};
  REQUIRE(chain->read(head) == 10);
  const auto* ram = static_cast<std::byte*>(memory.regions()[0].host);

  std::vector<iovec> request;
  CHECK(chain->lend_request(26, request) == 26);
  REQUIRE(request.size() == 2);
  CHECK(request[0].iov_base == ram + kBuffers + 10);
  CHECK(request[0].iov_len == 22);
  CHECK(request[1].iov_base == ram + kBuffers + 64);
  CHECK(request[1].iov_len == 4);
  CHECK(chain->readable() == 4);

  std::vector<iovec> answer;
  CHECK(chain->lend_answer(12, answer) == 12);
  REQUIRE(answer.size() == 2);
  CHECK(answer[1].iov_len == 4);
  CHECK(chain->writable() == 4);
  CHECK(chain->written() == 12);
  CHECK(chain->lend_answer(100, answer) == 4);
  REQUIRE(answer.size() == 2);
  CHECK(answer[1].iov_len == 8);
  CHECK(chain->written() == 16);
}

}  // namespace
}  // namespace kvitest
