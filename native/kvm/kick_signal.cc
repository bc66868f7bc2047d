#include "native/kvm/kick_signal.h"

#include <pthread.h>
#include <signal.h>

#include <cerrno>

#include "native/error.h"

namespace kvitest {
namespace {

void on_kick(int) {}

int take_free_signal() {
  for (int number = SIGRTMIN; number <= SIGRTMAX; ++number) {
    struct sigaction present {};
    if (::sigaction(number, nullptr, &present) != 0) continue;
    if ((present.sa_flags & SA_SIGINFO) != 0 || present.sa_handler != SIG_DFL) continue;
    struct sigaction ours {};
    ours.sa_handler = on_kick;
    ::sigemptyset(&ours.sa_mask);
    if (::sigaction(number, &ours, nullptr) == 0) return number;
  }
  throw Error("sigaction", EBUSY, "every real-time signal of this process has a handler");
}

}  // namespace

int kick_signal() {
  static const int number = take_free_signal();
  return number;
}

void block_all_but_kick() {
  sigset_t set;
  ::sigfillset(&set);
  ::sigdelset(&set, kick_signal());
  const int code = ::pthread_sigmask(SIG_SETMASK, &set, nullptr);
  if (code != 0) throw Error("pthread_sigmask", code, "a vCPU thread");
}

}  // namespace kvitest
