#include "native/state/archive.h"

#include <doctest/doctest.h>

#include <string>

#include "native/error.h"

namespace kvitest {
namespace {

enum class Colour : std::uint8_t { kRed, kBlue };

struct Part {
  std::uint16_t number = 0;
  bool flag = false;
  template <typename Archive>
  void fields(Archive& archive) {
    archive(number, flag);
  }
  bool operator==(const Part&) const = default;
};

struct Whole {
  static constexpr StateTag kTag{"whole", 3};
  std::int32_t negative = 0;
  std::uint64_t large = 0;
  Colour colour = Colour::kRed;
  std::array<std::uint8_t, 3> bytes{};
  std::string text;
  std::vector<std::byte> data;
  std::deque<Part> parts;
  std::optional<Part> maybe;
  std::optional<std::uint32_t> nothing;
  std::map<std::string, std::uint64_t> counts;
  template <typename Archive>
  void fields(Archive& archive) {
    archive(negative, large, colour, bytes, text, data, parts, maybe, nothing, counts);
  }
  bool operator==(const Whole&) const = default;
};

struct Renamed {
  static constexpr StateTag kTag{"other", 3};
  template <typename Archive>
  void fields(Archive&) {}
};

struct Newer {
  static constexpr StateTag kTag{"whole", 4};
  template <typename Archive>
  void fields(Archive&) {}
};

struct Shorter {
  static constexpr StateTag kTag{"whole", 3};
  std::uint8_t only = 0;
  template <typename Archive>
  void fields(Archive& archive) {
    archive(only);
  }
};

Whole sample() {
  return {-5,           0xfedc'ba98'7654'3210,        Colour::kBlue,           {1, 2, 3},
          "text",       {std::byte{9}, std::byte{8}}, {{7, true}, {8, false}}, Part{9, true},
          std::nullopt, {{"a", 1}, {"b", 2}}};
}

std::vector<std::byte> saved() {
  StateWriter writer;
  writer.save(sample());
  return writer.take();
}

std::string refusal(std::span<const std::byte> bytes, auto load) {
  try {
    StateReader reader(bytes);
    load(reader);
    return "";
  } catch (const Error& error) {
    return error.what();
  }
}

TEST_CASE("state: what was saved is loaded") {
  const std::vector<std::byte> bytes = saved();
  StateReader reader(bytes);
  CHECK(reader.load<Whole>() == sample());
  reader.finish();
}

TEST_CASE("state: sections follow one another, and one left over is an error") {
  StateWriter writer;
  writer.save(sample());
  writer.save(Renamed{});
  const std::vector<std::byte> bytes = writer.take();
  StateReader reader(bytes);
  reader.load<Whole>();
  CHECK_THROWS_AS(reader.finish(), Error);
  reader.load<Renamed>();
  reader.finish();
}

TEST_CASE("state: another version, another section and another length are refused by name") {
  const std::vector<std::byte> bytes = saved();
  CHECK(refusal(bytes, [](StateReader& r) { r.load<Newer>(); }) ==
        "load checkpoint: section whole: it has version 3, this program knows version 4 "
        "(Bad message); take the checkpoint again");
  CHECK(refusal(bytes, [](StateReader& r) { r.load<Renamed>(); }).find("section whole is in its") !=
        std::string::npos);
  CHECK(refusal(bytes, [](StateReader& r) { r.load<Shorter>(); }).find("bytes too many") !=
        std::string::npos);
}

TEST_CASE("state: cut anywhere it is refused") {
  const std::vector<std::byte> bytes = saved();
  for (std::size_t length = 0; length < bytes.size(); ++length) {
    CHECK(refusal(std::span(bytes).first(length), [](StateReader& r) { r.load<Whole>(); }) != "");
  }
}

TEST_CASE("state: no changed byte crashes the reader or makes it allocate without bound") {
  std::vector<std::byte> bytes = saved();
  for (std::size_t at = 0; at < bytes.size(); ++at) {
    const std::byte before = bytes[at];
    bytes[at] = std::byte{0xff};
    refusal(bytes, [](StateReader& r) { r.load<Whole>(); });
    bytes[at] = before;
  }
}

}  // namespace
}  // namespace kvitest
