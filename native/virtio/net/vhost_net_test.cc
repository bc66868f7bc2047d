// What a host says that lacks what vhost-net needs: a /dev of the test's own, with a tun or none.
// What vhost-net does is tested where a kernel has it: src/guest/tap.long.test.ts.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <functional>
#include <string>
#include <thread>

#include "native/error.h"
#include "native/unique_fd.h"
#include "native/virtio/net/test_net.h"

namespace kvitest {
namespace {

NetSpec vhost_spec() {
  NetSpec spec = net_spec();
  spec.tap = "kvitest-tap";
  spec.vhost = true;
  return spec;
}

std::string refusal(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "it was taken";
}

bool no_namespaces() {
  bool made = false;
  std::thread([&] { made = ::unshare(CLONE_NEWNET | CLONE_NEWNS) == 0; }).join();
  return !made || ::access("/dev/net/tun", R_OK | W_OK) != 0;
}

// What making the device says on a host whose /dev is empty, but for a tun.
std::string on_empty_host(bool has_tun) {
  const std::filesystem::path tun = "/dev/net/tun";
  std::string said;
  std::thread([&] {
    REQUIRE(::unshare(CLONE_NEWNET | CLONE_NEWNS) == 0);
    REQUIRE(::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0);
    const UniqueFd real(::open(tun.c_str(), O_PATH | O_CLOEXEC));
    const std::string source = "/proc/thread-self/fd/" + std::to_string(real.get());
    REQUIRE(::mount("none", "/dev", "tmpfs", 0, nullptr) == 0);
    if (has_tun) {
      std::filesystem::create_directory(tun.parent_path());
      REQUIRE(::mknod(tun.c_str(), S_IFREG | 0600, 0) == 0);
      REQUIRE(::mount(source.c_str(), tun.c_str(), nullptr, MS_BIND, nullptr) == 0);
    }
    const GuestMemory memory(1 << 20);
    said = refusal([&] { make_vhost_net(vhost_spec(), memory); });
  }).join();
  return said;
}

TEST_CASE("vhost-net: a host without it is told what to load, or to leave out" *
          doctest::skip(no_namespaces())) {
  CHECK(on_empty_host(true) ==
        "open vhost: /dev/vhost-net of this host, for net0 (No such file or directory); load its "
        "module (modprobe vhost_net), or leave vhost out of its backend");
}

TEST_CASE("vhost-net: a host without taps is told what to load" * doctest::skip(no_namespaces())) {
  CHECK(on_empty_host(false) ==
        "open tap: /dev/net/tun (No such file or directory); load the tun module: modprobe tun");
}

TEST_CASE("vhost-net: it is a tap's, and has one queue pair") {
  NetSpec spec = vhost_spec();
  CHECK_NOTHROW(validate(spec));
  spec.queue_pairs = 2;
  CHECK(refusal([&] { validate(spec); }).find("2 queue pairs with vhost") != std::string::npos);
  spec = vhost_spec();
  spec.tap.clear();
  CHECK(refusal([&] { validate(spec); }).find("vhost without a tap") != std::string::npos);
}

}  // namespace
}  // namespace kvitest
