#include "native/virtio/test_driver.h"

#include <array>
#include <stdexcept>
#include <utility>

namespace kvitest {
namespace {

void require(bool done) {
  if (!done) throw std::logic_error("the test driver left guest memory");
}

}  // namespace

void TestInterrupts::set_irq_line(std::uint32_t gsi, bool level) {
  const std::lock_guard lock(mutex_);
  lines_[gsi] = level;
}

void TestInterrupts::signal_msi(const MsiMessage& message) {
  const std::lock_guard lock(mutex_);
  ++messages_[message.data];
}

bool TestInterrupts::line(std::uint32_t gsi) const {
  const std::lock_guard lock(mutex_);
  const auto found = lines_.find(gsi);
  return found != lines_.end() && found->second;
}

std::size_t TestInterrupts::take_messages(std::uint32_t data) {
  const std::lock_guard lock(mutex_);
  return std::exchange(messages_[data], 0);
}

TestBoard::TestBoard(VirtioDevice& device)
    : function_(make_virtio_pci(device, memory, mmio_bus, interrupts, kBar, kGsi)) {
  pci_.attach(1, *function_);
}

void TestBoard::copy_memory(const TestBoard& parent) {
  std::vector<std::byte> bytes(kRam);
  require(parent.memory.read(0, bytes) && memory.write(0, bytes));
  bar = parent.bar;
}

std::uint32_t TestBoard::config(std::uint8_t offset, std::size_t width, std::uint8_t slot) {
  std::array<std::byte, 4> bytes{};
  write_le(bytes, 0x8000'0000u | (std::uint32_t{slot} << 11) | (offset & 0xfcu));
  pio_bus.write(0xcf8, bytes);
  pio_bus.read(0xcfcu + (offset & 3u), std::span(bytes).first(width));
  return static_cast<std::uint32_t>(read_le(std::span(bytes).first(width)));
}

void TestBoard::set_config(std::uint8_t offset, std::size_t width, std::uint32_t value) {
  std::array<std::byte, 4> bytes{};
  write_le(bytes, 0x8000'0800u | (offset & 0xfcu));
  pio_bus.write(0xcf8, bytes);
  write_le(bytes, value);
  pio_bus.write(0xcfcu + (offset & 3u), std::span(bytes).first(width));
}

std::uint8_t TestBoard::find_capability(std::uint8_t id, std::uint8_t cfg_type) {
  auto offset = static_cast<std::uint8_t>(config(0x34, 1));
  for (int guard = 0; guard < 48 && offset != 0; ++guard) {
    const bool same_type = cfg_type == 0 || config(offset + 3, 1) == cfg_type;
    if (config(offset, 1) == id && same_type) return offset;
    offset = static_cast<std::uint8_t>(config(offset + 1, 1));
  }
  return 0;
}

std::uint64_t TestBoard::mmio(std::uint64_t offset, std::size_t width) {
  std::array<std::byte, 8> bytes;
  bytes.fill(std::byte{0xff});
  mmio_bus.read(bar + offset, std::span(bytes).first(width));
  return read_le(std::span(bytes).first(width));
}

void TestBoard::set_mmio(std::uint64_t offset, std::size_t width, std::uint64_t value) {
  std::array<std::byte, 8> bytes{};
  write_le(bytes, value);
  mmio_bus.write(bar + offset, std::span(bytes).first(width));
}

void put_descriptor(GuestMemory& memory, Gpa at, Gpa address, std::uint32_t length,
                    std::uint16_t flags, std::uint16_t next) {
  require(memory.store<std::uint64_t>(at, address) && memory.store<std::uint32_t>(at + 8, length) &&
          memory.store<std::uint16_t>(at + 12, flags) &&
          memory.store<std::uint16_t>(at + 14, next));
}

TestQueue::TestQueue(GuestMemory& memory, std::uint16_t size, Gpa descriptors, Gpa available,
                     Gpa used, bool packed)
    : memory_(memory),
      size_(size),
      descriptors_(descriptors),
      available_(available),
      used_(used),
      packed_(packed),
      table_(size) {}

TestQueue::TestQueue(GuestMemory& memory, const TestQueue& parent)
    : TestQueue(memory, parent.size_, parent.descriptors_, parent.available_, parent.used_,
                parent.packed_) {
  available_index_ = parent.available_index_;
  taken_ = parent.taken_;
  table_ = parent.table_;
  slots_ = parent.slots_;
  next_ = parent.next_;
  last_used_ = parent.last_used_;
}

void TestQueue::advance(Position& at, std::uint16_t slots) const {
  at.offset = static_cast<std::uint16_t>(at.offset + slots);
  if (at.offset < size_) return;
  at.offset = static_cast<std::uint16_t>(at.offset - size_);
  at.wrap = !at.wrap;
}

// The head's flags last (virtio 1.3, 2.8.17).
void TestQueue::make_available(std::uint16_t head) {
  const Position first = next_;
  std::uint16_t first_flags = 0;
  std::uint16_t slots = 0;
  for (std::uint16_t index = head;; index = table_[index].next) {
    const Descriptor& one = table_.at(index);
    const Gpa at = descriptors_ + 16u * next_.offset;
    const auto flags = static_cast<std::uint16_t>(one.flags | (next_.wrap ? 0x80 : 0x8000));
    require(memory_.store<std::uint64_t>(at, one.address) &&
            memory_.store<std::uint32_t>(at + 8, one.length) &&
            memory_.store<std::uint16_t>(at + 12, head));
    if (slots++ == 0) {
      first_flags = flags;
    } else {
      require(memory_.store<std::uint16_t>(at + 14, flags));
    }
    advance(next_, 1);
    if ((one.flags & kNext) == 0) break;
  }
  slots_[head] = slots;
  require(memory_.store<std::uint16_t>(descriptors_ + 16u * first.offset + 14, first_flags));
}

std::optional<TestQueue::Used> TestQueue::take_packed() {
  const Gpa at = descriptors_ + 16u * last_used_.offset;
  const std::uint16_t flags = memory_.load<std::uint16_t>(at + 14).value();
  const std::uint16_t both = last_used_.wrap ? 0x8080 : 0;
  if ((flags & 0x8080) != both) return std::nullopt;
  const Used used{memory_.load<std::uint16_t>(at + 12).value(),
                  memory_.load<std::uint32_t>(at + 8).value()};
  advance(last_used_, slots_.at(used.id));
  return used;
}

void TestQueue::set_descriptor(std::uint16_t index, Gpa address, std::uint32_t length,
                               std::uint16_t flags, std::uint16_t next) {
  table_.at(index) = {address, length, flags, next};
  if (!packed_) put_descriptor(memory_, descriptors_ + 16u * index, address, length, flags, next);
}

void TestQueue::set_available(std::uint16_t head) {
  if (packed_) return make_available(head);
  require(memory_.store<std::uint16_t>(available_ + 4 + 2u * (available_index_ % size_), head));
  set_available_index(static_cast<std::uint16_t>(available_index_ + 1));
}

void TestQueue::set_available_index(std::uint16_t index) {
  available_index_ = index;
  require(memory_.store<std::uint16_t>(available_ + 2, index));
}

void TestQueue::set_available_flags(std::uint16_t flags) {
  require(memory_.store<std::uint16_t>(available_, flags));
}

void TestQueue::set_used_event(std::uint16_t event) {
  require(memory_.store<std::uint16_t>(available_ + 4 + 2u * size_, event));
}

std::uint16_t TestQueue::avail_event() const {
  return memory_.load<std::uint16_t>(used_ + 4 + 8u * size_).value();
}

std::uint16_t TestQueue::used_index() const {
  return memory_.load<std::uint16_t>(used_ + 2).value();
}

std::optional<TestQueue::Used> TestQueue::take_used() {
  if (packed_) return take_packed();
  if (taken_ == used_index()) return std::nullopt;
  const Gpa element = used_ + 4 + 8u * (taken_ % size_);
  ++taken_;
  // A driver asks to hear of the element after the last one it has seen.
  set_used_event(taken_);
  return Used{memory_.load<std::uint32_t>(element).value(),
              memory_.load<std::uint32_t>(element + 4).value()};
}

void TestDriver::adopt(const TestDriver& parent) {
  queues_.clear();
  for (const TestQueue& queue : parent.queues_) queues_.emplace_back(board.memory, queue);
  offered_ = parent.offered_;
  next_descriptor_ = parent.next_descriptor_;
  free_ = parent.free_;
  packed_ = parent.packed_;
}

std::uint8_t TestDriver::add_status(std::uint8_t bits) {
  board.set_mmio(20, 1, status() | bits);
  return status();
}

std::uint64_t TestDriver::device_features() {
  board.set_mmio(0, 4, 0);
  const std::uint64_t low = board.mmio(4, 4);
  board.set_mmio(0, 4, 1);
  return low | (board.mmio(4, 4) << 32);
}

std::uint8_t TestDriver::negotiate(std::uint64_t features) {
  reset();
  add_status(kStatusAcknowledge);
  add_status(kStatusDriver);
  board.set_mmio(8, 4, 0);
  board.set_mmio(12, 4, features & 0xffff'ffff);
  board.set_mmio(8, 4, 1);
  board.set_mmio(12, 4, features >> 32);
  return add_status(kStatusFeaturesOk);
}

void TestDriver::enable_msix() {
  const std::uint8_t capability = board.find_capability(0x11);
  const std::uint32_t vectors = (board.config(capability + 2, 2) & 0x7ff) + 1;
  for (std::uint32_t vector = 0; vector < vectors; ++vector) {
    const std::uint64_t entry = TestBoard::kMsixTable + std::uint64_t{16} * vector;
    board.set_mmio(entry, 4, 0xfee0'0000);
    board.set_mmio(entry + 4, 4, 0);
    board.set_mmio(entry + 8, 4, vector);
    board.set_mmio(entry + 12, 4, 0);
  }
  board.set_config(capability + 2, 2, 0x8000);
}

std::uint16_t TestDriver::queue_size(std::uint16_t index) {
  select(index);
  return static_cast<std::uint16_t>(board.mmio(24, 2));
}

void TestDriver::place_queue(std::uint16_t index, std::uint16_t size, Gpa descriptors,
                             Gpa available, Gpa used) {
  select(index);
  board.set_mmio(24, 2, size);
  board.set_mmio(32, 4, descriptors & 0xffff'ffff);
  board.set_mmio(36, 4, descriptors >> 32);
  board.set_mmio(40, 8, available);
  board.set_mmio(48, 8, used);
}

std::uint16_t TestDriver::enable_queue(std::uint16_t index, std::uint16_t size, Gpa descriptors,
                                       Gpa available, Gpa used) {
  place_queue(index, size, descriptors, available, used);
  board.set_mmio(28, 2, 1);
  return static_cast<std::uint16_t>(board.mmio(28, 2));
}

void TestDriver::set_up_queues(bool use_msix) {
  queues_.clear();
  free_ = 0x1'0000;
  const auto count = static_cast<std::uint16_t>(board.mmio(18, 2));
  offered_.assign(count, {});
  next_descriptor_.assign(count, 0);
  for (std::uint16_t index = 0; index < count; ++index) {
    const std::uint16_t size = queue_size(index);
    const Gpa descriptors = allocate(16u * size);
    const Gpa available = allocate(6u + 2u * size);
    const Gpa used = allocate(6u + 8u * size);
    select(index);
    if (use_msix) board.set_mmio(26, 2, index + 1u);
    enable_queue(index, size, descriptors, available, used);
    queues_.emplace_back(board.memory, size, descriptors, available, used, packed_);
  }
  if (use_msix) board.set_mmio(16, 2, 0);
}

void TestDriver::reset_queue(std::uint16_t index) {
  select(index);
  board.set_mmio(kQueueReset, 2, 1);
}

void TestDriver::lay_out_again(std::uint16_t index, std::uint16_t size) {
  const Gpa descriptors = allocate(16u * size);
  const Gpa available = allocate(6u + 2u * size);
  const Gpa used = allocate(6u + 8u * size);
  select(index);
  board.set_mmio(26, 2, index + 1u);
  place_queue(index, size, descriptors, available, used);
  std::destroy_at(&queues_[index]);
  std::construct_at(&queues_[index], board.memory, size, descriptors, available, used, packed_);
  offered_[index].clear();
  next_descriptor_[index] = 0;
}

std::uint16_t TestDriver::set_up_again(std::uint16_t index, std::uint16_t size) {
  lay_out_again(index, size);
  board.set_mmio(28, 2, 1);
  return static_cast<std::uint16_t>(board.mmio(28, 2));
}

std::uint8_t TestDriver::start(std::uint64_t features, bool use_msix) {
  packed_ = (features & kFeatureRingPacked) != 0;
  negotiate(features);
  if (use_msix) enable_msix();
  set_up_queues(use_msix);
  return add_status(kStatusDriverOk);
}

Gpa TestDriver::allocate(std::uint64_t bytes, std::uint64_t alignment) {
  const Gpa at = (free_ + alignment - 1) / alignment * alignment;
  free_ = at + bytes;
  require(board.memory.fill(at, std::byte{0}, bytes));
  return at;
}

void TestDriver::send(std::uint16_t index, std::string_view bytes) {
  const Gpa at = allocate(bytes.size());
  require(board.memory.write(at, std::as_bytes(std::span(bytes))));
  TestQueue& ring = queue(index);
  const auto head = static_cast<std::uint16_t>(next_descriptor_[index]++ % ring.size());
  ring.set_descriptor(head, at, static_cast<std::uint32_t>(bytes.size()), 0, 0);
  ring.set_available(head);
  notify(index);
}

void TestDriver::offer(std::uint16_t index, std::uint32_t length) {
  const Gpa at = allocate(length);
  TestQueue& ring = queue(index);
  const auto head = static_cast<std::uint16_t>(next_descriptor_[index]++ % ring.size());
  ring.set_descriptor(head, at, length, TestQueue::kWrite, 0);
  offered_[index][head] = {at, length};
  ring.set_available(head);
  notify(index);
}

std::optional<std::string> TestDriver::receive(std::uint16_t index) {
  const auto used = queue(index).take_used();
  if (!used) return std::nullopt;
  const Offered offered = offered_[index].at(used->id);
  require(used->length <= offered.length);
  std::string bytes(used->length, '\0');
  require(board.memory.read(offered.address, std::as_writable_bytes(std::span(bytes))));
  return bytes;
}

}  // namespace kvitest
