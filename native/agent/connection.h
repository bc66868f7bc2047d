/* The conversation with the host over one byte stream, and the loop that serves it. */
#ifndef KVITEST_AGENT_CONNECTION_H
#define KVITEST_AGENT_CONNECTION_H

#include <stdbool.h>

enum { WARNINGS_SIZE = 8 * 1024 };

/* One-line warnings from set-up, each NUL-terminated; too many are cut short. */
struct warnings {
  char text[WARNINGS_SIZE];
  unsigned used;
  unsigned count;
};

__attribute__((format(printf, 2, 3))) void warn(struct warnings* warnings, const char* format, ...);

struct agent {
  bool init; /* pid 1 of a guest; else a program under test */
  struct warnings warnings;
  /* Opens the stream to the host, non-blocking; -1 with errno. */
  int (*open_stream)(void* context);
  void* context;
  /* A descriptor that becomes readable when devices appear, or -1. */
  int device_events;
  void (*on_device_event)(int fd);
};

/* Serves until the host, a signal or (outside a guest) a host that stays away ends it. Returns what
 * to do then: a reboot(2) command, or 0. */
int agent_serve(struct agent* agent);

#endif
