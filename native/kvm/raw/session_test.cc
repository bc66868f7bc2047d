// Raw access against the real /dev/kvm.
#include "native/kvm/raw/session.h"

#include <doctest/doctest.h>
#include <linux/kvm.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <future>
#include <string>
#include <utility>

#include "native/error.h"
#include "native/kvm/flexible_table.h"

namespace kvitest::raw {
namespace {

constexpr Handle kSystem = 1;
constexpr Handle kVm = 2;
constexpr Handle kVcpu = 3;
constexpr Handle kRam = 1;
constexpr Handle kRunArea = 2;
constexpr std::uint64_t kRamSize = 0x4000;

using std::chrono::milliseconds;

bool no_kvm() {
  return ::access("/dev/kvm", R_OK | W_OK) != 0;
}

// A call's answer, once.
class Answer {
 public:
  explicit Answer(std::future<std::pair<Result, std::exception_ptr>> future)
      : future_(std::move(future)) {}

  Result get() {
    auto [result, error] = future_.get();
    if (error) std::rethrow_exception(std::move(error));
    return std::move(result);
  }

 private:
  std::future<std::pair<Result, std::exception_ptr>> future_;
};

Answer begin(Session& session, Operation operation, const std::string& thread = "main",
             milliseconds deadline = std::chrono::seconds{20}) {
  auto promise = std::make_shared<std::promise<std::pair<Result, std::exception_ptr>>>();
  session.submit({std::move(operation), thread, deadline},
                 [promise](Result result, std::exception_ptr error) {
                   promise->set_value({std::move(result), std::move(error)});
                 });
  return Answer(promise->get_future());
}

Result call(Session& session, Operation operation) {
  return begin(session, std::move(operation)).get();
}

template <typename T>
BytesArgument bytes(const T& value) {
  const auto raw = std::as_bytes(std::span(&value, 1));
  return {{raw.begin(), raw.end()}, {}};
}

// A vCPU about to run `code` at 0x1000 in 16-bit real mode.
struct Bench {
  explicit Bench(const std::string& code, milliseconds grace = std::chrono::seconds{20})
      : session(grace) {
    REQUIRE(call(session, Open{"/dev/kvm", kSystem}).made_fd);
    REQUIRE(call(session, Ioctl{.fd = kSystem, .request = KVM_CREATE_VM, .as = kVm}).made_fd);
    const Result size = call(session, Ioctl{.fd = kSystem, .request = KVM_GET_VCPU_MMAP_SIZE});
    REQUIRE(call(session, Ioctl{.fd = kVm, .request = KVM_CREATE_VCPU, .as = kVcpu}).made_fd);
    call(session, Map{.fd = kVcpu,
                      .bytes = static_cast<std::uint64_t>(size.value),
                      .shared = true,
                      .as = kRunArea});
    call(session, Map{.fd = {}, .bytes = kRamSize, .as = kRam});
    const auto text = std::as_bytes(std::span(code));
    call(session, Write{kRam, 0x1000, {text.begin(), text.end()}});
    kvm_userspace_memory_region region{};
    region.memory_size = kRamSize;
    BytesArgument argument = bytes(region);
    argument.patches.push_back(
        {.at = offsetof(kvm_userspace_memory_region, userspace_addr), .handle = kRam});
    REQUIRE(
        call(session, Ioctl{.fd = kVm, .request = KVM_SET_USER_MEMORY_REGION, .argument = argument})
            .code == 0);
    auto special = get<kvm_sregs>(KVM_GET_SREGS);
    special.cs.base = 0;
    special.cs.selector = 0;
    REQUIRE(call(session, Ioctl{kVcpu, KVM_SET_SREGS, bytes(special)}).code == 0);
    kvm_regs general{};
    general.rip = 0x1000;
    general.rflags = 2;
    REQUIRE(call(session, Ioctl{kVcpu, KVM_SET_REGS, bytes(general)}).code == 0);
  }

  template <typename T>
  T get(std::uint64_t request) {
    const Result result = call(session, Ioctl{kVcpu, request, bytes(T{})});
    T value{};
    REQUIRE(result.data.size() == sizeof value);
    std::memcpy(&value, result.data.data(), sizeof value);
    return value;
  }

  Session session;
};

const std::string kSpin = "\xeb\xfe";
const std::string kOut = "\xe6\x10\xf4";  // out %al, $0x10; hlt

const Run kRun{.vcpu = kVcpu, .area = kRunArea};

kvm_run run_of(const Result& result) {
  kvm_run run{};
  REQUIRE(result.data.size() >= sizeof run);
  std::memcpy(&run, result.data.data(), sizeof run);
  return run;
}

bool has_open_vcpu() {
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code gone;
    const auto target = std::filesystem::read_symlink(entry.path(), gone).string();
    if (target.find("kvm-vcpu") != std::string::npos) return true;
  }
  return false;
}

TEST_SUITE_BEGIN("raw KVM access");

TEST_CASE("a guest is made and run by ioctls alone" * doctest::skip(no_kvm())) {
  Bench bench(kOut);

  const Result result = call(bench.session, kRun);

  CHECK(result.code == 0);
  const kvm_run run = run_of(result);
  CHECK(run.exit_reason == KVM_EXIT_IO);
  CHECK(run.io.port == 0x10);
}

TEST_CASE("an errno is a result" * doctest::skip(no_kvm())) {
  Bench bench(kSpin);

  const Result result = call(bench.session, Ioctl{.fd = kVm, .request = KVM_CREATE_VCPU, .as = 99});

  CHECK(result.value == -1);
  CHECK(result.code == EEXIST);
  CHECK_FALSE(result.made_fd);
}

TEST_CASE("a kernel that writes beyond the argument gets EFAULT" * doctest::skip(no_kvm())) {
  Bench bench(kSpin);
  const BytesArgument small{std::vector<std::byte>(sizeof(kvm_regs) - 1), {}};

  CHECK(call(bench.session, Ioctl{kVcpu, KVM_GET_REGS, small}).code == EFAULT);
}

TEST_CASE("the deadline ends a run" * doctest::skip(no_kvm())) {
  Bench bench(kSpin);

  const Result result = begin(bench.session, kRun, "vcpu", milliseconds{50}).get();

  CHECK(result.code == EINTR);
  CHECK(result.expired);
  CHECK_FALSE(result.hung);
  CHECK(run_of(result).exit_reason == KVM_EXIT_INTR);
}

TEST_CASE("a call that does not come back is given up, and holds nobody else up" *
          doctest::skip(no_kvm())) {
  Bench bench(kSpin, milliseconds{100});
  Answer running = begin(bench.session, kRun, "vcpu");
  CHECK(call(bench.session, Signal{"vcpu", 0}).value == 0);  // it runs by now

  // KVM_RUN holds the vCPU's mutex, which only a deadly signal gets a waiter out of.
  Answer stuck = begin(bench.session, Ioctl{kVcpu, KVM_GET_REGS, bytes(kvm_regs{})}, "other",
                       milliseconds{50});
  Answer behind =
      begin(bench.session, Ioctl{.fd = kSystem, .request = KVM_GET_API_VERSION}, "other");

  CHECK(stuck.get().hung);
  CHECK(behind.get().value == KVM_API_VERSION);
  CHECK(bench.session.lost_threads() == 1);
  bench.session.close();
  CHECK(running.get().code == EINTR);
}

TEST_CASE("signals take a vCPU out of KVM_RUN, as often as they come" * doctest::skip(no_kvm())) {
  Bench bench(kSpin);
  Run run = kRun;
  run.repeat = 100;

  Answer running = begin(bench.session, run, "vcpu");
  const Result storm = call(bench.session, Signal{"vcpu", kMaxRepeat});

  const Result result = running.get();
  CHECK(result.code == EINTR);
  CHECK_FALSE(result.expired);
  CHECK(result.outcomes.size() == 1);
  CHECK(result.outcomes.at(EINTR) == 100);
  CHECK(storm.value > 0);
}

TEST_CASE("immediate_exit keeps KVM_RUN out of the guest" * doctest::skip(no_kvm())) {
  Bench bench(kOut);
  Run run = kRun;
  run.immediate_exit = true;

  CHECK(call(bench.session, run).code == EINTR);
  CHECK(run_of(call(bench.session, kRun)).exit_reason == KVM_EXIT_IO);
}

TEST_CASE("a VM belongs to the process that made it" * doctest::skip(no_kvm())) {
  Bench bench(kSpin);
  Ioctl ioctl{
      .fd = kVm, .request = KVM_CHECK_EXTENSION, .argument = ValueArgument{KVM_CAP_IRQCHIP}};
  CHECK(call(bench.session, ioctl).value == 1);
  ioctl.in_child = Child{};

  const Result result = call(bench.session, ioctl);

  CHECK(result.value == -1);
  CHECK(result.code == EIO);
}

TEST_CASE("a child becomes another program, without the fds of KVM or with one" *
          doctest::skip(no_kvm())) {
  Bench bench(kSpin);
  Ioctl ioctl{.fd = kSystem,
              .request = KVM_CHECK_EXTENSION,
              .argument = ValueArgument{KVM_CAP_USER_MEMORY},
              .in_child = Child{.exec = Child::Exec::kLeave}};
  CHECK(call(bench.session, ioctl).code == EBADF);
  ioctl.in_child->exec = Child::Exec::kInherit;
  CHECK(call(bench.session, ioctl).value == 1);
  // Its own VM of before is another's now.
  ioctl.in_child->first = KVM_CREATE_VM;
  CHECK(call(bench.session, ioctl).code == EIO);
  ioctl.in_child->first = KVM_CREATE_VCPU;
  CHECK_THROWS_AS(call(bench.session, ioctl), Error);
}

TEST_CASE("another program gets the argument's bytes, and gives them back" *
          doctest::skip(no_kvm())) {
  Bench bench(kSpin);
  Ioctl ioctl{.fd = kSystem,
              .request = kGetMsrIndexList,
              .argument = bytes(std::uint32_t{0}),
              .in_child = Child{.exec = Child::Exec::kInherit}};
  const Result result = call(bench.session, ioctl);
  CHECK(result.code == E2BIG);
  // How many there are.
  std::uint32_t count = 0;
  REQUIRE(result.data.size() == sizeof count);
  std::memcpy(&count, result.data.data(), sizeof count);
  CHECK(count > 0);
  // What this process has at an address is not there.
  ioctl.argument = MemoryArgument{.memory = kRam};
  CHECK_THROWS_AS(call(bench.session, ioctl), Error);
}

TEST_CASE("a child may be left without room for another fd" * doctest::skip(no_kvm())) {
  Bench bench(kSpin);
  const Ioctl ioctl{.fd = kSystem, .request = KVM_CREATE_VM, .in_child = Child{.files = 0}};
  CHECK(call(bench.session, ioctl).code == EMFILE);
}

TEST_CASE("an fd is closed while a call uses it" * doctest::skip(no_kvm())) {
  Bench bench(kSpin);
  Answer running = begin(bench.session, kRun, "vcpu");
  call(bench.session, Signal{"vcpu", 0});

  CHECK(has_open_vcpu());

  CHECK(call(bench.session, Close{kVcpu}).code == 0);

  CHECK_FALSE(has_open_vcpu());

  CHECK_THROWS_AS(call(bench.session, Ioctl{.fd = kVcpu, .request = KVM_GET_REGS}), Error);
  CHECK(call(bench.session, Signal{"vcpu", 1}).value == 1);
  CHECK(running.get().code == EINTR);
}

TEST_CASE("what has no memory behind it reads as EFAULT" * doctest::skip(no_kvm())) {
  Bench bench(kSpin);
  const Result mapped =
      call(bench.session, Map{.fd = kVcpu, .bytes = 0x100000, .shared = true, .as = 50});
  // KVM allows a mapping of any size; there is nothing behind most of it.
  REQUIRE(mapped.code == 0);

  CHECK(call(bench.session, Read{50, 0, 8}).code == 0);
  CHECK(call(bench.session, Read{50, 0xff000, 8}).code == EFAULT);
}

TEST_CASE("calls that cannot be made are errors") {
  Session session;
  CHECK(call(session, Map{.fd = {}, .bytes = 4096, .as = 1}).code == 0);

  CHECK_THROWS_AS(call(session, Map{.fd = {}, .bytes = 4096, .as = 1}), Error);
  CHECK_THROWS_AS(call(session, Read{1, 4090, 7}), Error);
  CHECK_THROWS_AS(call(session, Read{2, 0, 1}), Error);
  CHECK_THROWS_AS(call(session, Read{1, 0, kMaxArgument + 1}), Error);
  CHECK_THROWS_AS(call(session, Ioctl{.fd = 1}), Error);
  CHECK_THROWS_AS(call(session, Signal{"main", 1}), Error);
  session.close();
  CHECK_THROWS_AS(call(session, Read{1, 0, 1}), Error);
}

TEST_CASE("closing answers every call") {
  Session session;
  call(session, Map{.fd = {}, .bytes = 4096, .as = 1});
  // Of a thread that is never there: a call of one that is, however short, would be interrupted,
  // and the wait over.
  Answer waits = begin(session, Signal{"nobody", 1}, "sender", std::chrono::hours{1});
  call(session, Read{1, 0, 1});
  begin(session, Read{1, 0, 1}, "idle").get();

  Answer behind = begin(session, Read{1, 0, 1}, "sender");

  session.close();

  // One that waits expires; one that its thread had not begun yet is refused.
  std::string refusal;
  bool expired = false;
  try {
    expired = waits.get().expired;
  } catch (const Error& error) {
    refusal = error.what();
  }
  CHECK((expired || refusal.find("the session was closed") != std::string::npos));
  CHECK_THROWS_AS(behind.get(), Error);
}

TEST_SUITE_END();

TEST_CASE("raw: a thread more in the process is counted") {
  // A thread that another test has left may end between the two counts.
  bool counted = false;
  for (int tries = 0; tries < 20 && !counted; ++tries) {
    Session session;
    const auto before = call(session, CountThreads{}).value;
    REQUIRE(before >= 2);
    // A call on a thread of its own, which stays.
    begin(session, CountThreads{}, "other").get();
    counted = call(session, CountThreads{}).value == before + 1;
  }
  CHECK(counted);
}

}  // namespace
}  // namespace kvitest::raw
