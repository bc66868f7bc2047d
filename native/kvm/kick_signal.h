// The real-time signal that takes a thread out of KVM_RUN.
#pragma once

namespace kvitest {

// The first real-time signal that nobody in this process handles, taken on the first call for good.
// Its handler is empty and installed without SA_RESTART, so that KVM_RUN answers EINTR. Throws
// Error (EBUSY).
int kick_signal();

// Blocks every signal of the calling thread but the kick: the process's signals belong to its own
// threads. Throws Error.
void block_all_but_kick();

}  // namespace kvitest
