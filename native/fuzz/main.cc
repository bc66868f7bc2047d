// libFuzzer's way in: KVITEST_FUZZ_TARGET names the target.
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "native/fuzz/target.h"

namespace {

const kvitest::FuzzTarget& chosen() {
  const char* name = std::getenv("KVITEST_FUZZ_TARGET");
  for (const auto& target : kvitest::fuzz_targets()) {
    if (name != nullptr && target.name == name) return target;
  }
  std::fprintf(stderr, "KVITEST_FUZZ_TARGET=%s: no such target; use npm run fuzz\n",
               name == nullptr ? "" : name);
  std::exit(2);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  static const kvitest::FuzzTarget& target = chosen();
  target.run(std::as_bytes(std::span(data, size)));
  return 0;
}
