// A server of 9P2000.L: what a guest says is a list of messages, each nearly right or not at all.
#include "native/virtio/p9/p9.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <thread>

#include "native/fuzz/hostile_driver.h"
#include "native/fuzz/input.h"
#include "native/fuzz/target.h"
#include "native/little_endian.h"
#include "native/virtio/p9/server.h"
#include "native/virtio/test_driver.h"

namespace kvitest {
namespace {

namespace fs = std::filesystem;

struct Scratch {
  Scratch() {
    std::string pattern = (fs::temp_directory_path() / "kvitest-fuzz-9p-XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) std::abort();
    root = pattern;
    fs::create_directories(root / "inside/a/b");
    std::ofstream(root / "inside/file") << "content";
    std::ofstream(root / "outside") << "as it was";
    fs::create_symlink("../outside", root / "inside/link");
  }
  ~Scratch() {
    std::error_code ignored;
    fs::remove_all(root, ignored);
  }
  void check() const {
    char text[16] = {};
    std::ifstream file(root / "outside");
    file.read(text, sizeof text);
    if (std::string_view(text) != "as it was") std::abort();
    if (std::distance(fs::directory_iterator(root), {}) != 2) std::abort();
  }
  fs::path root;
};

void append(std::vector<std::byte>& message, std::span<const std::byte> bytes) {
  message.insert(message.end(), bytes.begin(), bytes.end());
}

void append_number(std::vector<std::byte>& message, std::uint64_t value, std::size_t width) {
  message.resize(message.size() + width);
  write_le(std::span(message).last(width), value);
}

void append_string(std::vector<std::byte>& message, std::string_view text) {
  append_number(message, text.size(), 2);
  append(message, std::as_bytes(std::span(text)));
}

// Messages in buffers of any cut, one at a time: the device answers on a thread of its own, which
// a driver that changes its memory meanwhile would race with.
void say_by_queue(VirtioDevice& device, FuzzInput& input) {
  TestBoard board(with_all_features(device));
  TestDriver driver(board);
  const std::uint64_t left_out = (input.u8() & 1) != 0 ? 0 : kFeatureRingPacked;
  driver.start(driver.device_features() & ~left_out);
  TestQueue& ring = driver.queue(0);
  const Gpa at = driver.allocate(128 * 1024);
  for (int messages = 0; !input.empty() && messages < 200; ++messages) {
    const auto message = input.bytes(input.u8());
    const std::uint32_t room = input.u16();
    const std::uint32_t cut = input.u8();
    if (!board.memory.write(at, message)) std::abort();
    const auto said = static_cast<std::uint32_t>(message.size());
    const std::uint32_t first = std::min(cut, said);
    const Gpa answer = at + 1024;
    ring.set_descriptor(0, at, first, TestQueue::kNext, 1);
    ring.set_descriptor(1, at + first, said - first, TestQueue::kNext, 2);
    ring.set_descriptor(2, answer, std::min(cut, room), TestQueue::kWrite | TestQueue::kNext, 3);
    ring.set_descriptor(3, answer + std::min(cut, room), room - std::min(cut, room),
                        TestQueue::kWrite, 0);
    ring.set_available(0);
    driver.notify(0);
    std::optional<TestQueue::Used> used;
    while (!(used = ring.take_used())) std::this_thread::yield();
    if (used->length > room) std::abort();
  }
}

}  // namespace

void fuzz_9p(std::span<const std::byte> bytes) {
  static constexpr std::string_view kNames[] = {"a", "b", "file", "link", "new", "..", ".", "a/b"};
  static constexpr std::uint8_t kTypes[] = {8,  12,  14,  16,  18,  20,  22,  24,  26,
                                            30, 32,  40,  50,  52,  54,  70,  72,  74,
                                            76, 100, 104, 110, 116, 118, 120, 122, 108};
  FuzzInput input(bytes);
  const Scratch scratch;
  const std::string inside = (scratch.root / "inside").string();
  const std::uint8_t kind = input.u8();
  const bool read_only = (kind & 1) != 0;
  if ((kind & 2) != 0) {
    const auto device = make_p9({.tag = "share", .path = inside, .read_only = read_only});
    say_by_queue(*device, input);
    device->reset();
    return scratch.check();
  }
  P9Server server(inside, read_only);
  const auto say = [&](std::uint8_t type, std::vector<std::byte> fields, std::size_t room) {
    std::vector<std::byte> message;
    append_number(message, kP9HeaderBytes + fields.size(), 4);
    append_number(message, type, 1);
    append_number(message, 1, 2);
    append(message, fields);
    if (server.answer(message, room).size() > std::max<std::size_t>(room, kP9ErrorBytes)) {
      std::abort();
    }
  };
  std::vector<std::byte> version, attach;
  append_number(version, 8192, 4);
  append_string(version, "9P2000.L");
  say(100, version, 8192);
  append_number(attach, 0, 4);
  append_number(attach, 0xffff'ffff, 4);
  append_string(attach, "");
  append_string(attach, "");
  append_number(attach, 0, 4);
  say(104, attach, 8192);
  for (int messages = 0; !input.empty() && messages < 200; ++messages) {
    const std::uint8_t type = kTypes[input.u8() % sizeof kTypes];
    std::vector<std::byte> fields;
    // Fields as messages have them: fids, numbers, names.
    for (std::size_t left = input.u8() % 8; left != 0; --left) {
      const std::uint8_t how = input.u8();
      if (how < 90) {
        append_number(fields, how % 6, 4);
      } else if (how < 120) {
        append_number(fields, how % 4, 2);
      } else if (how < 190) {
        append_string(fields, kNames[how % std::size(kNames)]);
      } else if (how < 220) {
        append_number(fields, input.u16(), 8);
      } else {
        append(fields, input.bytes(how - 220u));
      }
    }
    say(type, fields, input.u8() < 20 ? input.u16() : 8192);
    // A file as large as it says is none that a fuzzer's disk should have.
    std::error_code ignored;
    if (fs::file_size(scratch.root / "inside/file", ignored) > (64u << 20)) break;
  }
  // A checkpoint may say what a fid never was.
  P9State state = server.state();
  for (P9State::Fid& fid : state.fids) {
    const std::uint8_t how = input.u8();
    if ((how & 1) != 0) fid.path.append("/").append(kNames[(how >> 2) % std::size(kNames)]);
    if ((how & 2) != 0) fid.is_open = !fid.is_open;
  }
  server.load(state);
  server.answer(bytes, 8192);
  scratch.check();
}

}  // namespace kvitest
