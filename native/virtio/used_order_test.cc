// The order in which a used buffer is stored: the page that its element is in cannot be written to,
// so that the store of it can be seen.
#include <doctest/doctest.h>
#include <signal.h>
#include <sys/mman.h>

#include "native/virtio/queue.h"
#include "native/virtio/test_driver.h"

namespace kvitest {
namespace {

constexpr Gpa kElements = 0x3000;
constexpr Gpa kUsed = kElements - 4;  // flags and index are on the page before

std::byte* elements;
const std::uint16_t* used_index;
volatile int stores = 0;
volatile int index_at_store = -1;

void on_store(int, siginfo_t* info, void*) {
  const auto* const at = static_cast<std::byte*>(info->si_addr);
  if (at < elements || at >= elements + kPageSize) {
    ::signal(SIGSEGV, SIG_DFL);
    return;
  }
  stores = stores + 1;
  index_at_store = __atomic_load_n(used_index, __ATOMIC_RELAXED);
  ::mprotect(elements, kPageSize, PROT_READ | PROT_WRITE);
}

TEST_CASE("queue: the used index is stored after the element that it counts") {
  constexpr std::uint16_t kSize = 4;
  GuestMemory memory(64 * 1024);
  CountingInterrupts interrupts;
  const QueueLayout layout{kSize, 0x1000, 0x2000, kUsed};
  const auto queue = make_split_queue(memory, layout, {}, interrupts);
  TestQueue ring(memory, kSize, layout.descriptors, layout.driver, kUsed);
  ring.set_descriptor(0, 0x4000, 16, TestQueue::kWrite, 0);
  auto* const host = static_cast<std::byte*>(memory.regions().front().host);
  elements = host + kElements;
  used_index = reinterpret_cast<const std::uint16_t*>(host + kUsed + 2);
  stores = 0;
  struct sigaction action {};
  struct sigaction before {};
  action.sa_sigaction = on_store;
  action.sa_flags = SA_SIGINFO;
  REQUIRE(::sigaction(SIGSEGV, &action, &before) == 0);

  for (std::uint16_t request = 0; request < 6; ++request) {
    ring.set_available(0);
    const auto chain = queue->pop();
    REQUIRE(chain.has_value());
    REQUIRE(::mprotect(elements, kPageSize, PROT_READ) == 0);
    queue->push_used(*chain, 16);
    CHECK(stores == request + 1);
    CHECK(index_at_store == request);
    CHECK(ring.used_index() == request + 1);
  }
  ::sigaction(SIGSEGV, &before, nullptr);
}

}  // namespace
}  // namespace kvitest
