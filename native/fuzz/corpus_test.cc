// Every seed and every input that once crashed something, through its target again. Built with
// sanitizers (npm run test:sanitize) this is where a crash that was mended would come back.
#include <doctest/doctest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "native/fuzz/target.h"

namespace kvitest {
namespace {

std::vector<std::byte> content(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  const auto bytes = std::as_bytes(std::span(text));
  return {bytes.begin(), bytes.end()};
}

TEST_CASE("fuzz: every input of the corpus is survived") {
  for (const FuzzTarget& target : fuzz_targets()) {
    const auto folder =
        std::filesystem::path(KVITEST_SOURCE_DIR) / "native/fuzz/corpus" / target.name;
    int inputs = 0;
    for (const auto& entry : std::filesystem::directory_iterator(folder)) {
      CAPTURE(entry.path().string());
      target.run(content(entry.path()));
      ++inputs;
    }
    CAPTURE(std::string(target.name));
    CHECK(inputs >= 1);
    target.run({});
  }
}

}  // namespace
}  // namespace kvitest
