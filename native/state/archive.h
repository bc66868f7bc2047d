// Saving and loading what a component remembers, for checkpoints.
//
// A component declares its state once, as a struct apart from its logic:
//
//   struct SerialState {
//     static constexpr StateTag kTag{"serial", 1};
//     std::uint8_t line_control = 0;
//     std::deque<std::byte> received;
//     template <typename Archive>
//     void fields(Archive& archive) {
//       archive(line_control, received);
//     }
//   };
//
// kTag.version changes whenever fields() does: a checkpoint of another version is refused, never
// guessed at. Structs without kTag may be parts of others. Values are little-endian and of fixed
// width, so that a checkpoint means the same on every host.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace kvitest {

struct StateTag {
  const char* name;
  std::uint32_t version;
};

namespace state_detail {

template <typename T>
concept Scalar = std::is_integral_v<T> || std::is_enum_v<T>;
template <typename T>
concept Sequence = requires(T t) {
  typename T::value_type;
  t.push_back(typename T::value_type{});
};
template <typename T, typename Archive>
concept Struct = requires(T t, Archive& archive) {
  t.fields(archive);
};

}  // namespace state_detail

class StateWriter {
 public:
  // Appends one section: the tag, the length, the fields.
  template <typename State>
  void save(const State& state) {
    const std::size_t start = begin_section(State::kTag);
    // fields() is one function for both directions and so not const; writing changes nothing.
    const_cast<State&>(state).fields(*this);
    end_section(start);
  }
  std::vector<std::byte> take() { return std::move(bytes_); }

  template <typename... Ts>
  void operator()(const Ts&... values) {
    (put(values), ...);
  }

 private:
  std::size_t begin_section(const StateTag& tag);
  void end_section(std::size_t start);
  void number(std::uint64_t value, std::size_t width);
  void raw(std::span<const std::byte> bytes);

  template <typename T>
  void put(const T& value) {
    if constexpr (state_detail::Scalar<T>) {
      number(static_cast<std::uint64_t>(value), sizeof(T));
    } else if constexpr (state_detail::Struct<T, StateWriter>) {
      const_cast<T&>(value).fields(*this);
    } else {
      static_assert(state_detail::Sequence<T>, "a state field of a type without a format");
      number(value.size(), 8);
      for (const auto& element : value) put(element);
    }
  }
  template <typename T, std::size_t N>
  void put(const std::array<T, N>& values) {
    for (const T& element : values) put(element);
  }
  template <typename T>
  void put(const std::optional<T>& value) {
    put(value.has_value());
    if (value) put(*value);
  }
  template <typename K, typename V>
  void put(const std::map<K, V>& values) {
    number(values.size(), 8);
    for (const auto& [key, value] : values) {
      put(key);
      put(value);
    }
  }
  template <typename A, typename B>
  void put(const std::pair<A, B>& value) {
    put(value.first);
    put(value.second);
  }
  void put(const std::vector<std::byte>& bytes) {
    number(bytes.size(), 8);
    raw(bytes);
  }

  std::vector<std::byte> bytes_;
};

// Nothing in a checkpoint is believed: lengths are checked against what is there before anything is
// allocated. Every failure throws Error (EBADMSG) that names the section.
class StateReader {
 public:
  // The bytes must outlive the reader.
  explicit StateReader(std::span<const std::byte> bytes) : rest_(bytes) {}

  // The next section, which must be State's, of its version, and end where its fields end.
  template <typename State>
  State load() {
    begin_section(State::kTag);
    State state{};
    state.fields(*this);
    end_section();
    return state;
  }
  // Throws unless every section was loaded.
  void finish() const;
  // For a component that finds what it loaded impossible: names the section loaded last.
  [[noreturn]] void fail(const std::string& why) const;

  template <typename... Ts>
  void operator()(Ts&... values) {
    (get(values), ...);
  }

 private:
  void begin_section(const StateTag& tag);
  void end_section();
  std::uint64_t number(std::size_t width);
  // How many elements of at least `least` bytes follow.
  std::size_t count(std::size_t least);
  void raw(std::span<std::byte> out);

  template <typename T>
  void get(T& value) {
    if constexpr (std::is_same_v<T, bool>) {
      const std::uint64_t read = number(1);
      if (read > 1) fail("a truth value of " + std::to_string(read));
      value = read != 0;
    } else if constexpr (state_detail::Scalar<T>) {
      value = static_cast<T>(number(sizeof(T)));
    } else if constexpr (state_detail::Struct<T, StateReader>) {
      value.fields(*this);
    } else {
      static_assert(state_detail::Sequence<T>, "a state field of a type without a format");
      const std::size_t elements = count(1);
      value.clear();
      for (std::size_t i = 0; i < elements; ++i) {
        typename T::value_type element{};
        get(element);
        value.push_back(std::move(element));
      }
    }
  }
  template <typename T, std::size_t N>
  void get(std::array<T, N>& values) {
    for (T& element : values) get(element);
  }
  template <typename T>
  void get(std::optional<T>& value) {
    bool present = false;
    get(present);
    value.reset();
    if (!present) return;
    T element{};
    get(element);
    value = std::move(element);
  }
  template <typename K, typename V>
  void get(std::map<K, V>& values) {
    const std::size_t elements = count(1);
    values.clear();
    for (std::size_t i = 0; i < elements; ++i) {
      std::pair<K, V> element{};
      get(element);
      values.insert(std::move(element));
    }
  }
  template <typename A, typename B>
  void get(std::pair<A, B>& value) {
    get(value.first);
    get(value.second);
  }
  void get(std::vector<std::byte>& bytes) {
    bytes.resize(count(1));
    raw(bytes);
  }

  std::span<const std::byte> rest_;     // of the current section, then of the whole
  std::span<const std::byte> outside_;  // what follows the current section
  std::string section_ = "checkpoint";
};

}  // namespace kvitest
