#include "native/agent/process.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "native/agent/protocol.h"
#include "native/agent/session_kill.h"

enum { kReadSize = 32 * 1024, kCreditBatch = 16 * 1024, kSessionCheckMs = 10 };

uint64_t clock_us(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

uint64_t clock_ms(void) {
  return clock_us() / 1000;
}

static void close_fd(int* fd) {
  if (*fd >= 0) close(*fd);
  *fd = -1;
}

/* A pty has one descriptor for both directions, and it lives as long as its output. */
static void close_stdin(struct process* process) {
  if (process->pty) process->in = -1;
  close_fd(&process->in);
}

struct process* process_find(struct process_table* table, uint32_t id) {
  for (unsigned i = 0; i < table->count; i++) {
    if (table->all[i]->id == id && !table->all[i]->lost) return table->all[i];
  }
  return NULL;
}

bool process_stdin(struct process* process, const unsigned char* bytes, size_t length) {
  if (length > process->in_credit || process->in_ended) return false;
  process->in_credit -= (uint32_t)length;
  if (process->in_unread || process->in < 0) {
    process->in_credit_due += (uint32_t)length;
    return true;
  }
  for (size_t i = 0; i < length;) {
    size_t end = (process->in_start + process->in_used) % PROCESS_STDIN_WINDOW;
    size_t part = PROCESS_STDIN_WINDOW - end;
    if (part > length - i) part = length - i;
    memcpy(process->in_bytes + end, bytes + i, part);
    process->in_used += part;
    i += part;
  }
  return true;
}

void process_stdin_eof(struct process* process) {
  process->in_ended = true;
}

void process_signal(struct process* process, int number) {
  if (process->reaped) return;
  if (number == SIGKILL) {
    session_kill(process->pid, SIGKILL);
  } else {
    kill(-process->pid, number);
  }
}

void process_resize(struct process* process, uint16_t rows, uint16_t columns) {
  struct winsize size = {.ws_row = rows, .ws_col = columns};
  if (process->pty && process->out.fd >= 0) ioctl(process->out.fd, TIOCSWINSZ, &size);
}

static void terminate(struct process* process) {
  if (process->terminated) return;
  process->terminated = true;
  process->kill_at_ms = clock_ms() + PROCESS_TERM_GRACE_MS;
  session_kill(process->pid, SIGTERM);
  /* A stopped process takes its SIGTERM only when it goes on. */
  session_kill(process->pid, SIGCONT);
}

void process_lose_all(struct process_table* table) {
  for (unsigned i = 0; i < table->count; i++) {
    struct process* process = table->all[i];
    process->lost = true;
    terminate(process);
    close_stdin(process);
    close_fd(&process->out.fd);
    close_fd(&process->err.fd);
  }
}

void process_reap(struct process_table* table) {
  for (;;) {
    int status;
    pid_t pid = waitpid(-1, &status, WNOHANG);
    if (pid < 0 && errno == EINTR) continue;
    if (pid <= 0) return;
    for (unsigned i = 0; i < table->count; i++) {
      struct process* process = table->all[i];
      if (process->pid != pid || process->reaped) continue;
      process->reaped = true;
      process->wait_status = status;
      process->elapsed_us = clock_us() - process->started_us;
      process->in_unread = true;
      process->in_used = 0;
      close_stdin(process);
    }
  }
}

unsigned process_poll(const struct process_table* table, struct pollfd* fds, bool output) {
  unsigned count = 0;
  for (unsigned i = 0; i < table->count; i++) {
    const struct process* process = table->all[i];
    if (output && process->out.fd >= 0 && !process->out.hung_up) {
      fds[count++] = (struct pollfd){.fd = process->out.fd, .events = POLLIN};
    }
    if (output && process->err.fd >= 0) {
      fds[count++] = (struct pollfd){.fd = process->err.fd, .events = POLLIN};
    }
    if (process->in >= 0 && process->in_used > 0) {
      fds[count++] = (struct pollfd){.fd = process->in, .events = POLLOUT};
    }
  }
  return count;
}

/* One read, so that everybody has a turn. */
static void forward(struct process* process, struct stream* stream, uint16_t type,
                    struct outbox* out) {
  static unsigned char bytes[kReadSize];
  if (stream->fd < 0 || outbox_room(out) < OUTBOX_OUTPUT_ROOM) return;
  size_t want = kReadSize;
  if (stream->last_bytes && stream->left < kReadSize) want = (size_t)stream->left;
  ssize_t got = want > 0 ? read(stream->fd, bytes, want) : 0;
  if (got < 0 && (errno == EINTR || (errno == EAGAIN && !stream->last_bytes))) return;
  if (got <= 0) {
    /* EIO: the last slave is closed. Many a program closes its stdio before it exits, and closing
     * the pty under it then would kill it with SIGHUP. */
    stream->hung_up = process->pty && !process->reaped && !process->lost;
    if (stream->hung_up) return;
    if (process->pty) close_stdin(process);
    close_fd(&stream->fd);
    return;
  }
  stream->hung_up = false;
  stream->left -= (int)got;
  outbox_frame(out, type, process->id, bytes, (size_t)got);
}

static void feed(struct process* process, struct outbox* out) {
  while (process->in >= 0 && process->in_used > 0) {
    size_t part = PROCESS_STDIN_WINDOW - process->in_start;
    if (part > process->in_used) part = process->in_used;
    ssize_t written = write(process->in, process->in_bytes + process->in_start, part);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0 && errno == EAGAIN) break;
    if (written < 0) {
      written = (ssize_t)process->in_used;
      process->in_unread = true;
      close_stdin(process);
    }
    process->in_start = (process->in_start + (size_t)written) % PROCESS_STDIN_WINDOW;
    process->in_used -= (size_t)written;
    process->in_credit_due += (uint32_t)written;
  }
  if (process->in_ended && process->in_used == 0 && process->in >= 0) {
    /* A terminal knows no closed stdin: its end of file is a character. */
    if (process->pty) {
      const char end_of_file = 4;
      if (write(process->in, &end_of_file, 1) < 0 && errno == EAGAIN) return;
    }
    close_stdin(process);
  }
  bool worth_telling = process->in_credit_due >= kCreditBatch || process->in_used == 0;
  if (process->in_credit_due > 0 && worth_telling && !process->in_ended && !process->lost) {
    unsigned char payload[4];
    store_u32(payload, process->in_credit_due);
    if (outbox_frame(out, KVITEST_TO_HOST_STDIN_CREDIT, process->id, payload, sizeof payload)) {
      process->in_credit += process->in_credit_due;
      process->in_credit_due = 0;
    }
  }
}

/* All that a terminated process started is gone, or was sent SIGKILL. */
static bool session_over(const struct process* process) {
  return !process->terminated || process->killed || !session_alive(process->pid);
}

static void fire_timers(struct process* process, uint64_t now) {
  if (process->deadline_ms > 0 && now >= process->deadline_ms && !process->reaped &&
      !process->timed_out) {
    process->timed_out = true;
    terminate(process);
  }
  if (process->terminated && !process->killed && now >= process->kill_at_ms) {
    process->killed = true;
    session_kill(process->pid, SIGKILL);
  }
  if (!process->reaped || !session_over(process)) return;
  if (process->linger_end_ms == 0) {
    process->linger_end_ms = now + PROCESS_PIPE_LINGER_MS;
  } else if (now >= process->linger_end_ms) {
    struct stream* streams[] = {&process->out, &process->err};
    for (unsigned i = 0; i < 2; i++) {
      if (streams[i]->fd < 0 || streams[i]->last_bytes) continue;
      streams[i]->last_bytes = true;
      if (ioctl(streams[i]->fd, FIONREAD, &streams[i]->left) < 0) streams[i]->left = 0;
    }
  }
}

/* Reports a finished process; true when it may be forgotten. */
static bool finish(struct process* process, struct outbox* out) {
  if (!process->reaped || process->linger_end_ms == 0) return false;
  if (process->out.fd >= 0 || process->err.fd >= 0) return false;
  if (process->lost) return true;
  unsigned char payload[16];
  uint32_t kind = KVITEST_EXIT_EXITED;
  uint32_t value = 0;
  if (WIFSIGNALED(process->wait_status)) {
    kind = KVITEST_EXIT_SIGNALED;
    value = (uint32_t)WTERMSIG(process->wait_status);
  } else if (!process->timed_out) {
    value = (uint32_t)WEXITSTATUS(process->wait_status);
  }
  if (process->timed_out) kind = KVITEST_EXIT_TIMED_OUT;
  store_u32(payload, kind);
  store_u32(payload + 4, value);
  store_u64(payload + 8, process->elapsed_us);
  return outbox_frame(out, KVITEST_TO_HOST_EXIT, process->id, payload, sizeof payload);
}

static void forget(struct process_table* table, unsigned index) {
  struct process* process = table->all[index];
  close_stdin(process);
  free(process);
  table->count--;
  memmove(&table->all[index], &table->all[index + 1],
          (table->count - index) * sizeof table->all[0]);
}

void process_advance(struct process_table* table, struct outbox* out) {
  if (table->count == 0) return;
  uint64_t now = clock_ms();
  table->turn = (table->turn + 1) % table->count;
  for (unsigned i = 0; i < table->count; i++) {
    struct process* process = table->all[(table->turn + i) % table->count];
    feed(process, out);
    forward(process, &process->out, KVITEST_TO_HOST_STDOUT, out);
    forward(process, &process->err, KVITEST_TO_HOST_STDERR, out);
    fire_timers(process, now);
  }
  for (unsigned i = table->count; i-- > 0;) {
    if (finish(table->all[i], out)) forget(table, i);
  }
}

static void sooner(int* wait, uint64_t at, uint64_t now) {
  int milliseconds = at <= now ? 0 : at - now > 60000 ? 60000 : (int)(at - now);
  if (*wait < 0 || milliseconds < *wait) *wait = milliseconds;
}

int process_wait_ms(const struct process_table* table, const struct outbox* out) {
  int wait = -1;
  uint64_t now = clock_ms();
  bool room = outbox_room(out) >= OUTBOX_OUTPUT_ROOM;
  for (unsigned i = 0; i < table->count; i++) {
    const struct process* process = table->all[i];
    bool draining = process->out.last_bytes || process->err.last_bytes;
    if (process->deadline_ms > 0 && !process->timed_out && !process->reaped) {
      sooner(&wait, process->deadline_ms, now);
    }
    if (process->terminated && !process->killed) sooner(&wait, now + kSessionCheckMs, now);
    if (process->out.hung_up && !process->reaped) sooner(&wait, now + kSessionCheckMs, now);
    if (process->in_ended && process->in >= 0 && process->in_used == 0) {
      sooner(&wait, now + kSessionCheckMs, now);
    }
    if (!process->reaped) continue;
    if (process->linger_end_ms == 0) {
      sooner(&wait, now + kSessionCheckMs, now);
    } else if (!draining) {
      sooner(&wait, process->linger_end_ms, now);
    } else if (room) {
      sooner(&wait, now, now);
    }
  }
  return wait;
}
