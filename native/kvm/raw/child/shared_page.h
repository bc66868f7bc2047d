// What a child that makes an ioctl and the thread that waits for it share: the first page of a
// memory file. The bytes of the argument, if any, are at the end of the file.
#pragma once

#include <stdint.h>

struct kvitest_child_page {
  int64_t value;   // what the ioctl returned
  int64_t code;    // its errno
  uint64_t stage;  // how far the child came
  // For the program that is executed:
  int64_t fd;
  uint64_t request;
  uint64_t argument;  // by value
  uint64_t bytes;     // of the argument; 0: it is by value
  uint64_t size;      // of the file
};

enum {
  KVITEST_CHILD_BEGUN = 0,
  KVITEST_CHILD_PREPARED = 1,  // the ioctl before is made
  KVITEST_CHILD_LIMITED = 2,   // its limit of fds is set
  KVITEST_CHILD_ANSWERED = 3,
};
