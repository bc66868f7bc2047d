#include "native/kvm/raw/execute.h"

#include <fcntl.h>
#include <linux/kvm.h>
#include <sched.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <span>
#include <string>
#include <system_error>
#include <thread>
#include <utility>

#include "native/error.h"
#include "native/kvm/raw/child/child.h"

namespace kvitest::raw {
namespace {

constexpr const char* kWhere = "raw KVM access";

// KVM_CREATE_GUEST_MEMFD, Linux 6.8: newer than some headers that this builds with.
constexpr std::uint64_t kCreateGuestMemfd = 0xc040aed4;
// struct kvm_run: the first page, and the page that port I/O passes data in (data_offset).
constexpr std::uint64_t kRunShown = 8192;
constexpr std::uint64_t kImmediateExit = 1;

[[noreturn]] void refuse(const std::string& detail) {
  throw Error(kWhere, EINVAL, detail);
}

void check_range(const Mapping& mapping, std::uint64_t offset, std::uint64_t length) {
  if (offset > mapping.size() || length > mapping.size() - offset) {
    refuse(std::to_string(length) + " bytes at " + std::to_string(offset) + " of a mapping of " +
           std::to_string(mapping.size()));
  }
}

void check_size(std::size_t size) {
  if (size > kMaxArgument) {
    refuse(std::to_string(size) + " bytes at once; at most " + std::to_string(kMaxArgument));
  }
}

Result from_answer(std::int64_t answer, int code) {
  Result result;
  result.value = answer < 0 ? -1 : answer;
  result.code = answer < 0 ? code : 0;
  return result;
}

Result from_code(int code) {
  return from_answer(code == 0 ? 0 : -1, code);
}

// Takes the ownership of the fd that the call answered with.
void keep_fd(Result& result, Objects& objects, Handle as, int fd) {
  auto shared = std::make_shared<SharedFd>(fd);
  objects.add(as, std::move(shared));
  result.value = 0;
  result.made_fd = true;
}

struct Prepared {
  std::uint64_t value = 0;
  std::unique_ptr<ArgumentBuffer> buffer;
  // Until the call is done the kernel may use what the addresses and fds of the argument name.
  std::vector<std::shared_ptr<Mapping>> mappings;
  std::vector<std::shared_ptr<SharedFd>> fds;
};

void apply(const Patch& patch, Prepared& prepared, const Objects& objects) {
  const std::span<std::byte> bytes = prepared.buffer->bytes();
  const bool is_address = patch.what == Patch::What::kAddress;
  const std::size_t size = is_address ? 8 : 4;
  if (patch.at > bytes.size() || size > bytes.size() - patch.at) {
    refuse("a patch at " + std::to_string(patch.at) + " of an argument of " +
           std::to_string(bytes.size()) + " bytes");
  }
  if (is_address) {
    prepared.mappings.push_back(objects.mapping(patch.handle));
    const std::uint64_t address = prepared.mappings.back()->address() + patch.offset;
    std::memcpy(bytes.data() + patch.at, &address, size);
  } else {
    prepared.fds.push_back(objects.fd(patch.handle));
    const int fd = prepared.fds.back()->get();
    std::memcpy(bytes.data() + patch.at, &fd, size);
  }
}

Prepared prepare(const Argument& argument, const Objects& objects) {
  Prepared prepared;
  if (const auto* value = std::get_if<ValueArgument>(&argument)) {
    prepared.value = value->value;
  } else if (const auto* memory = std::get_if<MemoryArgument>(&argument)) {
    prepared.mappings.push_back(objects.mapping(memory->memory));
    prepared.value = prepared.mappings.back()->address() + memory->offset;
  } else {
    const auto& bytes = std::get<BytesArgument>(argument);
    check_size(bytes.data.size());
    prepared.buffer = std::make_unique<ArgumentBuffer>(bytes.data);
    for (const Patch& patch : bytes.patches) apply(patch, prepared, objects);
    prepared.value = reinterpret_cast<std::uint64_t>(prepared.buffer->bytes().data());
  }
  return prepared;
}

// The argument as it is after the call, the process's own numbers taken out again.
std::vector<std::byte> shown(const Argument& argument, Prepared& prepared) {
  const std::span<std::byte> bytes = prepared.buffer->bytes();
  std::vector<std::byte> data(bytes.begin(), bytes.end());
  for (const Patch& patch : std::get<BytesArgument>(argument).patches) {
    const std::size_t size = patch.what == Patch::What::kAddress ? 8 : 4;
    std::fill_n(data.begin() + static_cast<std::ptrdiff_t>(patch.at), size, std::byte{0});
  }
  return data;
}

bool answers_with_fd(std::uint64_t request) {
  constexpr std::array<std::uint64_t, 4> kRequests{KVM_CREATE_VM, KVM_CREATE_VCPU, KVM_GET_STATS_FD,
                                                   kCreateGuestMemfd};
  return std::ranges::find(kRequests, request) != kRequests.end();
}

// KVM_CREATE_DEVICE writes the fd into its argument. The place of that fd, or nothing.
std::byte* fd_in_argument(std::uint64_t request, Prepared& prepared) {
  if (request != KVM_CREATE_DEVICE || prepared.buffer == nullptr) return nullptr;
  const std::span<std::byte> bytes = prepared.buffer->bytes();
  kvm_create_device device{};
  if (bytes.size() < sizeof device) return nullptr;
  std::memcpy(&device, bytes.data(), sizeof device);
  if ((device.flags & KVM_CREATE_DEVICE_TEST) != 0) return nullptr;
  return bytes.data() + offsetof(kvm_create_device, fd);
}

ChildAnswer make_in_child(const Ioctl& call, Job& job, int fd, Prepared& prepared) {
  const bool executes = call.in_child->exec != Child::Exec::kNone;
  // The addresses of this process mean nothing to another program.
  const auto* bytes = std::get_if<BytesArgument>(&call.argument);
  if (executes && (std::holds_alternative<MemoryArgument>(call.argument) ||
                   (bytes != nullptr && !bytes->patches.empty()))) {
    refuse("an argument with addresses or fds for another program");
  }
  const std::span<std::byte> argument =
      prepared.buffer == nullptr ? std::span<std::byte>{} : prepared.buffer->bytes();
  return ioctl_in_child(job, *call.in_child, fd, call.request, prepared.value, argument);
}

Result make(const Ioctl& call, Job& job, Objects& objects, Threads&) {
  const std::shared_ptr<SharedFd> fd = objects.fd(call.fd);
  Prepared prepared = prepare(call.argument, objects);
  if (call.request == KVM_RUN && !call.in_child) refuse("KVM_RUN is a call of its own");
  Result result;
  for (unsigned i = 0; i < call.repeat; ++i) {
    const int before = result.code;
    if (call.in_child) {
      const auto [answer, code] = make_in_child(call, job, fd->get(), prepared);
      result.value = answer;
      result.code = answer < 0 ? code : 0;
    } else {
      // Not in a variable of another width: ioctl(2) returns int.
      const int answer = ::ioctl(fd->get(), call.request, prepared.value);
      result.code = answer < 0 ? errno : 0;
      result.value = answer;
    }
    ++job.returned;
    if (call.repeat > 1) ++result.outcomes[result.code];
    const bool makes_fd =
        result.code == 0 && !call.in_child &&
        (answers_with_fd(call.request) || fd_in_argument(call.request, prepared) != nullptr);
    if (makes_fd) break;  // one handle, one fd
    if (job.expired || (i > 0 && result.code != before)) break;
  }
  std::byte* const written = fd_in_argument(call.request, prepared);
  if (result.code == 0 && written != nullptr && !call.in_child) {
    int made = -1;
    std::memcpy(&made, written, sizeof made);
    keep_fd(result, objects, call.as, made);
    std::memset(written, 0, sizeof made);
  } else if (result.code == 0 && answers_with_fd(call.request)) {
    // The child's went with it.
    if (call.in_child) {
      result.value = 0;
    } else {
      keep_fd(result, objects, call.as, static_cast<int>(result.value));
    }
  }
  if (std::holds_alternative<BytesArgument>(call.argument)) {
    result.has_data = true;
    result.data = shown(call.argument, prepared);
  }
  return result;
}

Result make(const Run& call, Job& job, Objects& objects, Threads&) {
  const std::shared_ptr<SharedFd> vcpu = objects.fd(call.vcpu);
  const std::shared_ptr<Mapping> area = objects.mapping(call.area);
  check_range(*area, kImmediateExit, 1);
  const std::array flag{std::byte{call.immediate_exit}};
  area->write(kImmediateExit, flag);
  job.in_run(area);
  // The deadline may have passed before the kick could reach the mapping.
  if (job.expired) job.interrupt();
  Result result;
  for (unsigned i = 0; i < call.repeat; ++i) {
    const int answer = ::ioctl(vcpu->get(), KVM_RUN, 0);
    result.code = answer < 0 ? errno : 0;
    result.value = answer;
    ++job.returned;
    if (call.repeat > 1) ++result.outcomes[result.code];
    if (result.code != EINTR || job.expired) break;
  }
  job.in_run(nullptr);
  constexpr std::array none{std::byte{0}};
  area->write(kImmediateExit, none);
  result.data.resize(std::min(kRunShown, area->size()));
  result.has_data = area->read(0, result.data) == 0;
  return result;
}

Result make(const Open& call, Job&, Objects& objects, Threads&) {
  const int fd = ::open(call.path.c_str(), O_RDWR | O_CLOEXEC | O_NONBLOCK);
  Result result = from_answer(fd, errno);
  if (fd >= 0) keep_fd(result, objects, call.as, fd);
  return result;
}

Result make(const Map& call, Job&, Objects& objects, Threads&) {
  if (call.bytes > kMaxMapping) {
    refuse("a mapping of " + std::to_string(call.bytes) + " bytes; at most " +
           std::to_string(kMaxMapping));
  }
  const std::shared_ptr<SharedFd> fd = call.fd ? objects.fd(*call.fd) : nullptr;
  std::shared_ptr<Mapping> mapping;
  try {
    mapping = std::make_shared<Mapping>(fd ? fd->get() : -1, call.bytes, call.offset, call.shared,
                                        call.huge);
  } catch (const Error& error) {
    return from_code(error.code());
  }
  Result result;
  result.address = mapping->address();
  objects.add(call.as, std::move(mapping));
  return result;
}

Result make(const Unmap& call, Job&, Objects& objects, Threads&) {
  objects.take_mapping(call.memory);
  return {};
}

Result make(const Read& call, Job&, Objects& objects, Threads&) {
  const std::shared_ptr<Mapping> mapping = objects.mapping(call.memory);
  check_size(call.length);
  check_range(*mapping, call.offset, call.length);
  std::vector<std::byte> data(call.length);
  Result result = from_code(mapping->read(call.offset, data));
  result.has_data = result.code == 0;
  result.data = std::move(data);
  return result;
}

Result make(const Write& call, Job&, Objects& objects, Threads&) {
  const std::shared_ptr<Mapping> mapping = objects.mapping(call.memory);
  check_size(call.data.size());
  check_range(*mapping, call.offset, call.data.size());
  return from_code(mapping->write(call.offset, call.data));
}

Result make(const Eventfd& call, Job&, Objects& objects, Threads&) {
  const int fd =
      ::eventfd(call.initial, EFD_CLOEXEC | EFD_NONBLOCK | (call.semaphore ? EFD_SEMAPHORE : 0));
  Result result = from_answer(fd, errno);
  if (fd >= 0) keep_fd(result, objects, call.as, fd);
  return result;
}

Result make(const ReadFd& call, Job&, Objects& objects, Threads&) {
  const std::shared_ptr<SharedFd> fd = objects.fd(call.fd);
  check_size(call.length);
  std::vector<std::byte> data(call.length);
  const ssize_t answer =
      call.offset ? ::pread(fd->get(), data.data(), data.size(), static_cast<off_t>(*call.offset))
                  : ::read(fd->get(), data.data(), data.size());
  Result result = from_answer(answer, errno);
  if (answer < 0) return result;
  data.resize(static_cast<std::size_t>(answer));
  result.has_data = true;
  result.data = std::move(data);
  return result;
}

Result make(const WriteFd& call, Job&, Objects& objects, Threads&) {
  const std::shared_ptr<SharedFd> fd = objects.fd(call.fd);
  check_size(call.data.size());
  const ssize_t answer = ::write(fd->get(), call.data.data(), call.data.size());
  return from_answer(answer, errno);
}

Result make(const Close& call, Job&, Objects& objects, Threads&) {
  const std::shared_ptr<SharedFd> fd = objects.take_fd(call.fd);
  return from_code(fd->close());
}

Result make(const Signal& call, Job& job, Objects&, Threads& threads) {
  Result result;
  std::shared_ptr<Thread> target;
  // Whoever begins a call and this one side by side cannot know which comes first. In steps,
  // because what ends this job early does not wake it.
  constexpr std::chrono::milliseconds kStep{20};
  for (;;) {
    target = threads.find(call.thread);
    if (target != nullptr && target->is_self()) refuse("a thread cannot signal itself");
    if (target == nullptr) {
      std::this_thread::sleep_for(std::chrono::milliseconds{1});
    } else if (target->wait_until_busy(std::chrono::steady_clock::now() + kStep)) {
      break;
    }
    if (job.expired) return result;
  }
  unsigned hits = 0;
  while (hits < call.count && !job.expired) {
    const std::shared_ptr<Job> hit = target->current();
    if (hit == nullptr) break;
    const unsigned before = hit->returned;
    target->kick(hit.get());
    // One after the other: a queue of them would be taken all at once, and then there is nothing
    // left to interrupt. One that came before or between system calls interrupted none: once more.
    const auto lost = std::chrono::steady_clock::now() + std::chrono::milliseconds{1};
    const auto is_hit = [&] { return hit->returned != before || target->current() != hit; };
    while (!is_hit() && std::chrono::steady_clock::now() < lost) ::sched_yield();
    if (is_hit()) ++hits;
  }
  result.value = hits;
  return result;
}

Result make(const CountThreads&, Job&, Objects&, Threads&) {
  Result result;
  std::error_code failed;
  for (std::filesystem::directory_iterator at("/proc/self/task", failed), end; !failed && at != end;
       at.increment(failed)) {
    ++result.value;
  }
  return failed ? from_code(failed.value()) : result;
}

}  // namespace

Result execute(Job& job, Objects& objects, Threads& threads) {
  Result result = std::visit([&](const auto& call) { return make(call, job, objects, threads); },
                             job.call.operation);
  result.expired = job.expired;
  return result;
}

}  // namespace kvitest::raw
