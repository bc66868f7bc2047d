/* The processes the host asked for. Every one leads its own session, so that a time-out or a lost
 * connection can end all that it started. */
#ifndef KVITEST_AGENT_PROCESS_H
#define KVITEST_AGENT_PROCESS_H

#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "native/agent/frame.h"

enum {
  PROCESS_MAX = 128,
  PROCESS_STDIN_WINDOW = 64 * 1024,
  PROCESS_TERM_GRACE_MS = 500,
  PROCESS_PIPE_LINGER_MS = 200,
};

/* What a pipe from the process still owes. After the process is gone and the linger time is over,
 * only the bytes that lie in the pipe at that moment are read; a grandchild that keeps writing
 * cannot hold the result back. */
struct stream {
  int fd;          /* -1 when closed */
  bool hung_up;    /* a pty without a slave at this moment: not worth a poll */
  bool last_bytes; /* `left` counts */
  int left;
};

struct process {
  uint32_t id;
  pid_t pid; /* also the session and process group */
  bool pty;
  bool lost; /* its connection is gone: nobody wants to hear of it */
  struct stream out;
  struct stream err;

  int in; /* write end of stdin or the pty; -1 when closed */
  bool in_ended;
  bool in_unread; /* the process closed its stdin: bytes are dropped and credited */
  unsigned char in_bytes[PROCESS_STDIN_WINDOW];
  size_t in_start;
  size_t in_used;
  uint32_t in_credit;     /* what the host may still send */
  uint32_t in_credit_due; /* what it may be told */

  uint64_t started_us;
  uint64_t elapsed_us;
  uint64_t deadline_ms; /* 0: none */
  bool timed_out;
  bool terminated; /* SIGTERM was sent to the session */
  bool killed;     /* SIGKILL too */
  uint64_t kill_at_ms;
  bool reaped;
  int wait_status;
  uint64_t linger_end_ms; /* 0: not lingering yet */
};

struct exec_request {
  uint32_t id;
  uint32_t flags;
  uint32_t timeout_ms;
  uint16_t rows;
  uint16_t columns;
  const char* cwd;
  const char** argv;
  const char** env;
};

struct exec_failure {
  int code; /* errno */
  char operation[256];
};

struct process_table {
  struct process* all[PROCESS_MAX];
  unsigned count;
  unsigned turn; /* whose output is looked at first, so that one flood cannot starve the rest */
};

uint64_t clock_us(void);
uint64_t clock_ms(void);

/* Starts it; NULL with *failure filled when it could not. */
struct process* process_start(struct process_table* table, const struct exec_request* request,
                              struct exec_failure* failure);
struct process* process_find(struct process_table* table, uint32_t id);

/* Takes host bytes for stdin; false when they exceed the credit given. */
bool process_stdin(struct process* process, const unsigned char* bytes, size_t length);
void process_stdin_eof(struct process* process);
void process_signal(struct process* process, int number);
void process_resize(struct process* process, uint16_t rows, uint16_t columns);

/* SIGTERM to everything, SIGKILL later; their output and results are dropped. */
void process_lose_all(struct process_table* table);
/* Reaps every child there is, ours or an orphan. */
void process_reap(struct process_table* table);

/* Adds what to wait for; `output` is false while the host cannot take more. */
unsigned process_poll(const struct process_table* table, struct pollfd* fds, bool output);
/* Moves bytes, fires timers, reports and forgets what is finished. Call after every poll(). */
void process_advance(struct process_table* table, struct outbox* out);
/* Milliseconds until process_advance() must be called anyway; -1 for never. */
int process_wait_ms(const struct process_table* table, const struct outbox* out);

#endif
