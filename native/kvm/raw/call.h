// What raw access to KVM can be asked for, as plain data, and what comes back. The same words as in
// src/native/raw-contract.ts.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

namespace kvitest::raw {

// The caller's own number for an fd or a mapping, chosen by the caller so that a later call of the
// same batch can name it. Fds and mappings are numbered apart.
using Handle = std::uint32_t;

// Puts the address of a mapping (8 bytes) or the number of an fd (4 bytes) into an argument: the
// process's own numbers are for the kernel only.
struct Patch {
  enum class What { kAddress, kFd };
  What what = What::kAddress;
  std::size_t at = 0;
  Handle handle = 0;
  std::uint64_t offset = 0;  // added to the address
};

struct ValueArgument {
  std::uint64_t value = 0;
};
// Copied in, and copied back after the call.
struct BytesArgument {
  std::vector<std::byte> data;
  std::vector<Patch> patches;
};
struct MemoryArgument {
  Handle memory = 0;
  std::uint64_t offset = 0;
};
using Argument = std::variant<ValueArgument, BytesArgument, MemoryArgument>;

struct Open {
  std::string path;
  Handle as = 0;
};

// A forked child of this process, which shares the fds and dies with the call; what it does before
// it makes an ioctl.
struct Child {
  enum class Exec { kNone, kLeave, kInherit };
  // An ioctl without argument on the call's fd; the call's own is then made on the fd that it
  // answers.
  std::optional<std::uint64_t> first{};
  // RLIMIT_NOFILE from then on.
  std::optional<unsigned> files{};
  // Becomes another program, which makes the call: with the fd as it is (kLeave), or with
  // close-on-exec taken off it. Its argument is a value, or bytes without patches.
  Exec exec = Exec::kNone;
};

struct Ioctl {
  Handle fd = 0;
  std::uint64_t request = 0;
  Argument argument{};
  // The handle of the fd that a creating request answers with.
  Handle as = 0;
  // Made this many times, or until one answers otherwise than the one before.
  unsigned repeat = 1;
  std::optional<Child> in_child{};
};

// KVM_RUN. `area` is the mapping of the vCPU's fd.
struct Run {
  Handle vcpu = 0;
  Handle area = 0;
  bool immediate_exit = false;
  // Entered again as long as it answers EINTR, this many times at most.
  unsigned repeat = 1;
};

struct Map {
  std::optional<Handle> fd;  // anonymous memory without
  std::uint64_t bytes = 0;
  std::uint64_t offset = 0;  // in the fd
  bool shared = false;
  bool huge = false;  // aligned to 2 MiB, and transparent huge pages asked for
  Handle as = 0;
};

struct Unmap {
  Handle memory = 0;
};

struct Read {
  Handle memory = 0;
  std::uint64_t offset = 0;
  std::size_t length = 0;
};

struct Write {
  Handle memory = 0;
  std::uint64_t offset = 0;
  std::vector<std::byte> data;
};

// eventfd(2), close on exec and never blocking.
struct Eventfd {
  unsigned initial = 0;
  bool semaphore = false;
  Handle as = 0;
};

struct ReadFd {
  Handle fd = 0;
  std::size_t length = 0;
  std::optional<std::uint64_t> offset;  // pread(2)
};

struct WriteFd {
  Handle fd = 0;
  std::vector<std::byte> data;
};

struct Close {
  Handle fd = 0;
};

// Interrupts a thread of the session by our kick signal until a system call of it has come back
// `count` times, as long as a call runs on it; waits until one does.
struct Signal {
  std::string thread;
  unsigned count = 1;
};

// How many threads this process has: the kernel may put one of its own into it.
struct CountThreads {};

using Operation = std::variant<Open, Ioctl, Run, Map, Unmap, Read, Write, Eventfd, ReadFd, WriteFd,
                               Close, Signal, CountThreads>;

struct Call {
  Operation operation;
  // Calls of one thread are made one after the other; a thread is started when first named.
  std::string thread = "main";
  // From the moment the call is made. Then its thread is kicked.
  std::chrono::milliseconds deadline{2000};
};

struct Result {
  // What the system call returned; 0 where that was an fd.
  std::int64_t value = 0;
  int code = 0;  // errno, with value -1
  bool has_data = false;
  std::vector<std::byte> data;
  // An fd is now registered as the handle that the call gave.
  bool made_fd = false;
  std::optional<std::uint64_t> address;
  // How often each errno (0: none) came, of a call that was repeated.
  std::map<int, unsigned> outcomes;
  // The deadline passed and the thread was kicked.
  bool expired = false;
  // It did not even come back then. Its thread is given up until the session ends.
  bool hung = false;
};

// Called once, from a native thread: with the result, or with the Error of a call that could not be
// made.
using Done = std::function<void(Result, std::exception_ptr)>;

inline constexpr std::size_t kMaxArgument = std::size_t{1} << 20;
inline constexpr std::uint64_t kMaxMapping = std::uint64_t{1} << 40;
inline constexpr std::size_t kMaxHandles = 8192;
inline constexpr std::size_t kMaxThreads = 128;
inline constexpr unsigned kMaxRepeat = 1'000'000;

}  // namespace kvitest::raw
