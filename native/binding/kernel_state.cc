#include "native/binding/kernel_state.h"

#include <fcntl.h>
#include <linux/random.h>
#include <sys/ioctl.h>
#include <time.h>
#include <x86intrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <vector>

#include "native/binding/convert.h"
#include "native/error.h"
#include "native/unique_fd.h"

namespace kvitest {
namespace {

// One call of the kernel takes this much; more adds nothing to a pool of 256 bits.
constexpr std::size_t kMaxEntropy = 4096;

// Year 9999, the last one that JavaScript and we write with four digits.
constexpr std::uint64_t kMaxMilliseconds = 253402300799999;

void add_entropy(const std::vector<std::byte>& data) {
  constexpr const char* kOperation = "addEntropy";
  if (data.empty() || data.size() > kMaxEntropy) {
    throw Error(kOperation, EINVAL, "between 1 and 4096 bytes");
  }
  const UniqueFd pool(::open("/dev/urandom", O_RDWR | O_CLOEXEC));
  if (!pool) throw Error(kOperation, errno, "/dev/urandom");
  // struct rand_pool_info ends in a flexible array: header and bytes in one block of words.
  std::vector<std::uint32_t> block(2 + (data.size() + 3) / 4);
  auto* info = reinterpret_cast<rand_pool_info*>(block.data());
  info->entropy_count = static_cast<int>(data.size() * 8);
  info->buf_size = static_cast<int>(data.size());
  std::memcpy(block.data() + 2, data.data(), data.size());
  if (::ioctl(pool.get(), RNDADDENTROPY, info) != 0)
    throw Error(kOperation, errno, "RNDADDENTROPY");
  // The pool feeds the generator once a minute only (random(4)): without this the next numbers
  // would still be those of before.
  if (::ioctl(pool.get(), RNDRESEEDCRNG) != 0) throw Error(kOperation, errno, "RNDRESEEDCRNG");
}

void set_clock(std::uint64_t milliseconds) {
  const timespec now{.tv_sec = static_cast<time_t>(milliseconds / 1000),
                     .tv_nsec = static_cast<long>(milliseconds % 1000) * 1000000};
  if (::clock_settime(CLOCK_REALTIME, &now) != 0) throw Error("setClock", errno, "CLOCK_REALTIME");
}

std::uint64_t raw_nanoseconds() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC_RAW, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000 +
         static_cast<std::uint64_t>(now.tv_nsec);
}

struct TscReading {
  std::uint64_t ticks;
  std::uint64_t nanoseconds;
};

// The closest of a few: a thread that is put aside between the two would tell them apart.
TscReading read_tsc() {
  constexpr int kTries = 16;
  TscReading best{};
  std::uint64_t least = ~std::uint64_t{0};
  for (int i = 0; i < kTries; ++i) {
    const std::uint64_t before = raw_nanoseconds();
    const std::uint64_t ticks = __rdtsc();
    const std::uint64_t after = raw_nanoseconds();
    if (after - before >= least) continue;
    least = after - before;
    best = {ticks, before + (after - before) / 2};
  }
  return best;
}

template <typename Body>
void throwing_to_js(Napi::Env env, Body body) {
  std::exception_ptr error;
  try {
    body();
    return;
  } catch (const Error&) {
    error = std::current_exception();
  }
  throw Napi::Error(env, to_js(env, error));
}

}  // namespace

void export_kernel_state(Napi::Env env, Napi::Object exports) {
  const auto entropy = [](const Napi::CallbackInfo& info) {
    throwing_to_js(info.Env(), [&] { add_entropy(bytes_of(info[0], "addEntropy")); });
  };
  const auto clock = [](const Napi::CallbackInfo& info) {
    throwing_to_js(info.Env(), [&] {
      set_clock(integer_of(info[0], "setClock", "the time", 0, kMaxMilliseconds));
    });
  };
  const auto tsc = [](const Napi::CallbackInfo& info) -> Napi::Value {
    const TscReading reading = read_tsc();
    Napi::Object answer = Napi::Object::New(info.Env());
    answer.Set("ticks", Napi::BigInt::New(info.Env(), reading.ticks));
    answer.Set("nanoseconds", Napi::BigInt::New(info.Env(), reading.nanoseconds));
    return answer;
  };
  exports.Set("readTsc", Napi::Function::New(env, tsc, "readTsc"));
  exports.Set("addEntropy", Napi::Function::New(env, entropy, "addEntropy"));
  exports.Set("setClock", Napi::Function::New(env, clock, "setClock"));
}

}  // namespace kvitest
