#define _GNU_SOURCE /* pipe2, unlockpt */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include "native/agent/process.h"
#include "native/agent/protocol.h"

extern char** environ;

/* What the child tells through a close-on-exec pipe when it does not get to its program. */
struct child_report {
  int code;
  enum { kChdir, kExec, kStdio } step;
};

struct plumbing {
  int child_in, child_out, child_err;
  int in, out, err;
  int report_read, report_write;
};

static void close_all(struct plumbing* pipes) {
  int* fds = (int*)pipes;
  for (size_t i = 0; i < sizeof *pipes / sizeof(int); i++) {
    if (fds[i] >= 0) close(fds[i]);
    fds[i] = -1;
  }
}

static int make_pipe(int* read_end, int* write_end) {
  int fds[2];
  if (pipe2(fds, O_CLOEXEC) < 0) return -1;
  *read_end = fds[0];
  *write_end = fds[1];
  return 0;
}

static int non_blocking(int fd) {
  return fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
}

static int open_pty(struct plumbing* pipes, const struct exec_request* request) {
  struct winsize size = {.ws_row = request->rows, .ws_col = request->columns};
  pipes->out = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
  if (pipes->out < 0 || unlockpt(pipes->out) < 0) return -1;
  pipes->child_in = ioctl(pipes->out, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
  if (pipes->child_in < 0) return -1;
  return ioctl(pipes->out, TIOCSWINSZ, &size);
}

static int open_pipes(struct plumbing* pipes, uint32_t flags) {
  if (flags & KVITEST_EXEC_STDIN) {
    if (make_pipe(&pipes->child_in, &pipes->in) < 0 || non_blocking(pipes->in) < 0) return -1;
  } else {
    pipes->child_in = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (pipes->child_in < 0) return -1;
  }
  if (make_pipe(&pipes->out, &pipes->child_out) < 0 || non_blocking(pipes->out) < 0) return -1;
  if (flags & KVITEST_EXEC_MERGE) return 0;
  if (make_pipe(&pipes->err, &pipes->child_err) < 0) return -1;
  return non_blocking(pipes->err);
}

static int connect_stdio(const struct plumbing* pipes, bool pty) {
  if (pty) {
    if (ioctl(pipes->child_in, TIOCSCTTY, 0) < 0) return -1;
    return dup2(pipes->child_in, 0) < 0 || dup2(pipes->child_in, 1) < 0 ||
                   dup2(pipes->child_in, 2) < 0
               ? -1
               : 0;
  }
  if (dup2(pipes->child_in, 0) < 0 || dup2(pipes->child_out, 1) < 0) return -1;
  return dup2(pipes->child_err >= 0 ? pipes->child_err : 1, 2) < 0 ? -1 : 0;
}

static void ordinary_oom_score(void) {
  int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
  if (fd < 0) return;
  if (write(fd, "0", 1) != 1) {
    /* Without /proc the child stays as precious as the agent: worse luck only under OOM. */
  }
  close(fd);
}

static void run_child(const struct plumbing* pipes, const struct exec_request* request) {
  struct child_report report = {.step = kStdio};
  sigset_t none;
  setsid();
  for (int number = 1; number < NSIG; number++) signal(number, SIG_DFL);
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
  ordinary_oom_score();
  if (connect_stdio(pipes, request->flags & KVITEST_EXEC_PTY) < 0) goto failed;
  report.step = kChdir;
  if (chdir(request->cwd[0] ? request->cwd : "/") < 0) goto failed;
  report.step = kExec;
  for (const char** entry = request->env; *entry; entry++) {
    if (strchr(*entry, '=')) putenv((char*)*entry);
  }
  execvp(request->argv[0], (char* const*)request->argv);
failed:
  report.code = errno;
  if (write(pipes->report_write, &report, sizeof report) < 0) _exit(126);
  _exit(127);
}

static struct process* fail(struct exec_failure* failure, int code, const char* what,
                            const char* on) {
  failure->code = code;
  snprintf(failure->operation, sizeof failure->operation, "%s %.200s", what, on);
  return NULL;
}

struct process* process_start(struct process_table* table, const struct exec_request* request,
                              struct exec_failure* failure) {
  const char* program = request->argv[0];
  if (!program) return fail(failure, EINVAL, "exec", "(no command)");
  if (table->count == PROCESS_MAX) return fail(failure, EAGAIN, "exec", program);
  struct process* process = calloc(1, sizeof *process);
  if (!process) return fail(failure, ENOMEM, "exec", program);

  struct plumbing pipes;
  memset(&pipes, -1, sizeof pipes);
  bool pty = request->flags & KVITEST_EXEC_PTY;
  pid_t pid = -1;
  if (make_pipe(&pipes.report_read, &pipes.report_write) == 0 &&
      (pty ? open_pty(&pipes, request) : open_pipes(&pipes, request->flags)) == 0) {
    process->started_us = clock_us();
    pid = fork();
    if (pid == 0) run_child(&pipes, request);
  }
  if (pid < 0) {
    int code = errno;
    close_all(&pipes);
    free(process);
    return fail(failure, code, pty ? "open a terminal for" : "fork for", program);
  }

  close(pipes.report_write);
  pipes.report_write = -1;
  struct child_report report;
  ssize_t got;
  do {
    got = read(pipes.report_read, &report, sizeof report);
  } while (got < 0 && errno == EINTR);
  if (got == (ssize_t)sizeof report) {
    /* The child is reaped with the orphans. */
    close_all(&pipes);
    free(process);
    if (report.step == kChdir) return fail(failure, report.code, "chdir", request->cwd);
    return fail(failure, report.code, report.step == kExec ? "exec" : "set up stdio of", program);
  }

  process->id = request->id;
  process->pid = pid;
  process->pty = pty;
  process->out.fd = pipes.out;
  process->err.fd = pipes.err;
  process->in = -1;
  if (request->flags & KVITEST_EXEC_STDIN) {
    process->in = pty ? pipes.out : pipes.in;
    process->in_credit_due = PROCESS_STDIN_WINDOW;
  }
  if (request->timeout_ms > 0) process->deadline_ms = clock_ms() + request->timeout_ms;
  pipes.in = pipes.out = pipes.err = -1;
  close_all(&pipes);
  table->all[table->count++] = process;
  return process;
}
