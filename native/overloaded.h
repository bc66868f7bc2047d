// One visitor of a std::variant out of several functions.
#pragma once

namespace kvitest {

template <typename... Ts>
struct Overloaded : Ts... {
  using Ts::operator()...;
};
// Clang 14, which builds the fuzzer, does not find this by itself.
template <typename... Ts>
Overloaded(Ts...) -> Overloaded<Ts...>;

}  // namespace kvitest
