// Exceptions that another thread than theirs shall have.
#pragma once

#include <exception>
#include <utility>

namespace kvitest {

// What `action` throws, or none. Whoever has the answer is its only owner and may move it to
// another thread: a catch block that passed std::current_exception() on would own it too, until it
// ends, and might be the one to free what the other thread reads.
template <typename Action>
std::exception_ptr thrown_by(Action&& action) {
  try {
    std::forward<Action>(action)();
  } catch (...) {
    return std::current_exception();
  }
  return nullptr;
}

}  // namespace kvitest
