/* What a guest must be told when it goes on from a checkpoint that others go on from too. */
#ifndef KVITEST_AGENT_FORKED_H
#define KVITEST_AGENT_FORKED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { FORKED_ENTROPY_SIZE = 64, FORKED_BOOT_ID_SIZE = 16 };

struct forked {
  const unsigned char* entropy; /* FORKED_ENTROPY_SIZE bytes */
  const unsigned char* boot_id; /* FORKED_BOOT_ID_SIZE bytes */
  uint64_t clock_ns;            /* of CLOCK_REALTIME; 0 leaves it alone */
};

/* Gives this guest random numbers and ids of its own. `init` false (a program under test): only the
 * kernel's pool is told, for the ids and the clock would be the whole machine's. 0, or an errno
 * with the failed operation in `operation`. */
int forked_apply(const struct forked* forked, bool init, char* operation, size_t operation_size);

#endif
