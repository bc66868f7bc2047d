// Threads of our own inside somebody else's process.
#pragma once

#include <signal.h>

#include <string>
#include <system_error>
#include <thread>
#include <utility>

#include "native/error.h"

namespace kvitest {

// A thread on which none of the process's signals lands. `what` names it in the Error that is
// thrown when the process may have no more threads, or no memory or mapping for the stack.
template <typename Body>
std::thread quiet_thread(const std::string& what, Body body) {
  // A new thread inherits the mask: with all signals blocked around its creation there is no moment
  // in which one could land on it.
  sigset_t all;
  sigset_t before;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  try {
    std::thread thread(std::move(body));
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
    return thread;
  } catch (const std::system_error& error) {
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
    throw Error("pthread_create", error.code().value(), what,
                "have fewer guests at once, or raise vm.max_map_count or the limit of threads");
  }
}

}  // namespace kvitest
