#include "native/kvm/raw/child/child.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <string>

#include "native/error.h"
#include "native/kvm/raw/child/shared_page.h"
#include "native/kvm/raw/memory.h"
#include "native/unique_fd.h"

extern "C" {
extern const std::byte kvitest_exec_program[];
extern const std::byte kvitest_exec_program_end[];
}

namespace kvitest::raw {
namespace {

constexpr std::uint64_t kPage = 4096;

UniqueFd memory_file(const char* name, std::uint64_t size) {
  UniqueFd fd(::memfd_create(name, MFD_CLOEXEC));
  if (!fd || ::ftruncate(fd.get(), static_cast<off_t>(size)) != 0) {
    throw Error("memfd_create", errno, name);
  }
  return fd;
}

// A file of memory that holds exec_program.c.
int program_file() {
  static const UniqueFd file = [] {
    const std::span program(kvitest_exec_program, kvitest_exec_program_end);
    UniqueFd fd = memory_file("kvitest-ioctl", program.size());
    const ssize_t written = ::pwrite(fd.get(), program.data(), program.size(), 0);
    if (written != static_cast<ssize_t>(program.size())) {
      throw Error("memfd_create", written < 0 ? errno : EIO, "the program of a child");
    }
    return fd;
  }();
  return file.get();
}

// What the child has beside its fds and what it shares, all made before there is a child.
struct Prepared {
  kvitest_child_page* page = nullptr;
  int program = -1;
  int shared = -1;
  std::array<char, 16> shared_number{};
};

// In the child: nothing but system calls, because the other threads of the process are not there
// and may have held any lock.
[[noreturn]] void run_child(const Child& child, const Prepared& prepared, std::uint64_t argument) {
  kvitest_child_page& page = *prepared.page;
  const auto give_up = [&page] {
    page.code = errno;
    ::_exit(1);
  };
  // Not longer than the thread that waits for it.
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (child.first) {
    page.fd = ::ioctl(static_cast<int>(page.fd), *child.first, 0);
    if (page.fd < 0) give_up();
  }
  page.stage = KVITEST_CHILD_PREPARED;
  if (child.files) {
    const rlimit limit{.rlim_cur = *child.files, .rlim_max = *child.files};
    if (::setrlimit(RLIMIT_NOFILE, &limit) != 0) give_up();
  }
  page.stage = KVITEST_CHILD_LIMITED;
  const int fd = static_cast<int>(page.fd);
  if (child.exec == Child::Exec::kNone) {
    page.value = ::ioctl(fd, page.request, argument);
    page.code = errno;
    page.stage = KVITEST_CHILD_ANSWERED;
    ::_exit(0);
  }
  if (child.exec == Child::Exec::kInherit && ::fcntl(fd, F_SETFD, 0) != 0) give_up();
  if (::fcntl(prepared.shared, F_SETFD, 0) != 0) give_up();
  char name[] = "kvitest-ioctl";
  char number[16];
  std::ranges::copy(prepared.shared_number, number);
  char* const argv[] = {name, number, nullptr};
  char* const envp[] = {nullptr};
  ::execveat(prepared.program, "", argv, envp, AT_EMPTY_PATH);
  give_up();
  __builtin_unreachable();
}

[[noreturn]] void refuse(const kvitest_child_page& page, int status) {
  constexpr std::array kDoing{"the ioctl before", "its limit of fds", "its program"};
  const auto stage = static_cast<std::size_t>(page.stage);
  if (WIFEXITED(status) && WEXITSTATUS(status) == 1 && stage < kDoing.size()) {
    throw Error("raw KVM access", static_cast<int>(page.code),
                std::string("a child could not make ") + kDoing[stage]);
  }
  throw Error("raw KVM access", 0, "the child of an ioctl died, status " + std::to_string(status));
}

}  // namespace

ChildAnswer ioctl_in_child(Job& job, const Child& child, int fd, std::uint64_t request,
                           std::uint64_t value, std::span<std::byte> bytes) {
  const bool executes = child.exec != Child::Exec::kNone;
  const std::uint64_t size = kPage + (bytes.size() + kPage - 1) / kPage * kPage;
  const UniqueFd file = memory_file("kvitest-child", size);
  Mapping mapping(file.get(), size, 0, true, false);
  auto* const page = reinterpret_cast<kvitest_child_page*>(mapping.address());
  page->fd = fd;
  page->request = request;
  page->argument = value;
  page->bytes = bytes.size();
  page->size = size;
  std::byte* const end = reinterpret_cast<std::byte*>(page) + size;
  std::byte* const copy = end - bytes.size();
  if (executes) std::ranges::copy(bytes, copy);
  Prepared prepared{.page = page, .program = executes ? program_file() : -1, .shared = file.get()};
  std::to_chars(prepared.shared_number.data(),
                prepared.shared_number.data() + prepared.shared_number.size() - 1, prepared.shared);

  const pid_t pid = ::_Fork();
  if (pid < 0) throw Error("fork", errno, "a child for an ioctl");
  if (pid == 0) run_child(child, prepared, value);
  job.in_child(pid);
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  job.in_child(0);
  if (job.expired) return {-1, EINTR};
  if (page->stage != KVITEST_CHILD_ANSWERED || !WIFEXITED(status)) refuse(*page, status);
  if (executes) std::copy(copy, end, bytes.begin());
  return {page->value, static_cast<int>(page->code)};
}

}  // namespace kvitest::raw
