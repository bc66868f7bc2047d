#include "native/agent/connection.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/reboot.h>
#include <sys/signalfd.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "native/agent/file.h"
#include "native/agent/forked.h"
#include "native/agent/frame.h"
#include "native/agent/process.h"
#include "native/agent/protocol.h"

enum { kReopenMs = 20, kPatienceMs = 1000, kLastFlushMs = 200 };

enum { kServe = -1 };

struct connection {
  int fd;        /* -1 while there is none */
  bool attached; /* HELLO was sent */
  bool greeted;  /* the host's HELLO was seen */
  bool init;     /* the agent is pid 1 of a guest */
  bool held;     /* frames may wait in `in` for room for their replies */
  unsigned char in[KVITEST_FRAME_HEADER + KVITEST_FRAME_PAYLOAD_MAX];
  size_t in_used;
};

static struct connection link_;
static struct outbox out;
static struct process_table table;

void warn(struct warnings* warnings, const char* format, ...) {
  va_list arguments;
  size_t room = sizeof warnings->text - warnings->used;
  if (room < 2) return;
  va_start(arguments, format);
  int length = vsnprintf(warnings->text + warnings->used, room, format, arguments);
  va_end(arguments);
  if (length < 0) return;
  warnings->used += ((size_t)length < room ? (unsigned)length : (unsigned)room - 1) + 1;
  warnings->count++;
}

static void send_hello(const struct agent* agent) {
  static unsigned char payload[WARNINGS_SIZE + 256];
  struct utsname name;
  uname(&name);
  size_t at = 0;
  store_u32(payload, KVITEST_PROTOCOL_VERSION);
  at += 4;
  at += (size_t)snprintf((char*)payload + at, 128, "%.120s", name.release) + 1;
  store_u32(payload + at, agent->warnings.count);
  at += 4;
  memcpy(payload + at, agent->warnings.text, agent->warnings.used);
  at += agent->warnings.used;
  outbox_frame(&out, KVITEST_TO_HOST_HELLO, 0, payload, at);
}

static void send_error(uint32_t id, int code, const char* operation) {
  unsigned char payload[4 + 512];
  store_u32(payload, (uint32_t)code);
  int length = snprintf((char*)payload + 4, sizeof payload - 4, "%s", operation);
  size_t text = (size_t)length < sizeof payload - 5 ? (size_t)length : sizeof payload - 5;
  outbox_frame(&out, KVITEST_TO_HOST_ERROR, id, payload, 4 + text + 1);
}

static void lose_connection(const char* why) {
  if (why) {
    fprintf(stderr, "kvitest-agent: %s: the conversation is over\n", why);
    outbox_flush(&out, link_.fd);
  }
  if (link_.fd >= 0) close(link_.fd);
  link_.fd = -1;
  link_.attached = link_.greeted = link_.held = false;
  link_.in_used = 0;
  outbox_clear(&out);
  process_lose_all(&table);
}

static bool handle_exec(uint32_t id, struct reader* in) {
  struct exec_request request = {.id = id};
  uint32_t arguments, variables;
  request.flags = read_u32(in);
  request.timeout_ms = read_u32(in);
  request.rows = read_u16(in);
  request.columns = read_u16(in);
  request.cwd = read_string(in);
  request.argv = read_strings(in, &arguments);
  request.env = in->bad || !request.argv ? NULL : read_strings(in, &variables);
  bool well_formed = !in->bad && id != 0 && !process_find(&table, id);
  if (well_formed && (!request.argv || !request.env)) {
    send_error(id, ENOMEM, "exec");
  } else if (well_formed) {
    struct exec_failure failure;
    struct process* process = process_start(&table, &request, &failure);
    if (process) {
      unsigned char pid[4];
      store_u32(pid, (uint32_t)process->pid);
      outbox_frame(&out, KVITEST_TO_HOST_STARTED, id, pid, sizeof pid);
    } else {
      send_error(id, failure.code, failure.operation);
    }
  }
  free(request.argv);
  free(request.env);
  return well_formed;
}

static bool handle_file(uint32_t id, struct reader* in) {
  uint32_t mode = read_u32(in);
  uint64_t offset = read_u64(in);
  const char* path = read_string(in);
  if (in->bad) return false;
  char operation[300];
  int code = file_write(path, mode, offset, in->at, (size_t)(in->end - in->at), operation,
                        sizeof operation);
  if (code == 0) {
    outbox_frame(&out, KVITEST_TO_HOST_DONE, id, NULL, 0);
  } else {
    send_error(id, code, operation);
  }
  return true;
}

static bool handle_forked(uint32_t id, struct reader* in) {
  struct forked forked;
  forked.entropy = read_bytes(in, FORKED_ENTROPY_SIZE);
  forked.boot_id = read_bytes(in, FORKED_BOOT_ID_SIZE);
  forked.clock_ns = read_u64(in);
  if (in->bad) return false;
  char operation[300];
  int code = forked_apply(&forked, link_.init, operation, sizeof operation);
  if (code == 0) {
    outbox_frame(&out, KVITEST_TO_HOST_DONE, id, NULL, 0);
  } else {
    send_error(id, code, operation);
  }
  return true;
}

static bool handle_for_process(uint16_t type, uint32_t id, struct reader* in) {
  struct process* process = process_find(&table, id);
  if (type == KVITEST_TO_AGENT_SIGNAL) {
    uint32_t number = read_u32(in);
    if (in->bad || number == 0 || number >= NSIG) return false;
    if (process) process_signal(process, (int)number);
  } else if (type == KVITEST_TO_AGENT_WINSIZE) {
    uint16_t rows = read_u16(in);
    uint16_t columns = read_u16(in);
    if (in->bad) return false;
    if (process) process_resize(process, rows, columns);
  } else if (type == KVITEST_TO_AGENT_STDIN) {
    /* What comes for a process that has just ended is nobody's fault and nobody's input. */
    if (process) return process_stdin(process, in->at, (size_t)(in->end - in->at));
  } else if (process) {
    process_stdin_eof(process);
  }
  return true;
}

/* One frame; false ends the conversation. *command becomes what agent_serve() is to return. */
static bool handle(uint16_t type, uint32_t id, struct reader in, int* command) {
  if (!link_.greeted) {
    if (type != KVITEST_TO_AGENT_HELLO || read_u32(&in) != KVITEST_PROTOCOL_VERSION || in.bad) {
      return false;
    }
    link_.greeted = true;
    return true;
  }
  switch (type) {
    case KVITEST_TO_AGENT_EXEC:
      return handle_exec(id, &in);
    case KVITEST_TO_AGENT_FILE:
      return handle_file(id, &in);
    case KVITEST_TO_AGENT_FORKED:
      return handle_forked(id, &in);
    case KVITEST_TO_AGENT_PING:
      return outbox_frame(&out, KVITEST_TO_HOST_PONG, id, in.at, (size_t)(in.end - in.at));
    case KVITEST_TO_AGENT_STDIN:
    case KVITEST_TO_AGENT_STDIN_EOF:
    case KVITEST_TO_AGENT_SIGNAL:
    case KVITEST_TO_AGENT_WINSIZE:
      return handle_for_process(type, id, &in);
    case KVITEST_TO_AGENT_POWEROFF: {
      uint32_t how = read_u32(&in);
      if (in.bad || how > KVITEST_POWER_REBOOT) return false;
      *command = how == KVITEST_POWER_OFF ? RB_POWER_OFF : RB_AUTOBOOT;
      return true;
    }
    default:
      return false;
  }
}

/* Takes frames while every reply surely fits. */
static bool take_frames(int* command) {
  size_t at = 0;
  bool sound = true;
  link_.held = outbox_room(&out) < OUTBOX_REPLY_ROOM;
  while (sound && *command == kServe && outbox_room(&out) >= OUTBOX_REPLY_ROOM &&
         link_.in_used - at >= KVITEST_FRAME_HEADER) {
    const unsigned char* header = link_.in + at;
    uint32_t length = load_u32(header);
    sound = length <= KVITEST_FRAME_PAYLOAD_MAX && load_u16(header + 6) == 0;
    if (!sound || link_.in_used - at < KVITEST_FRAME_HEADER + length) break;
    const unsigned char* payload = header + KVITEST_FRAME_HEADER;
    struct reader in = {.at = payload, .end = payload + length};
    sound = handle(load_u16(header + 4), load_u32(header + 8), in, command);
    at += KVITEST_FRAME_HEADER + length;
    link_.held = outbox_room(&out) < OUTBOX_REPLY_ROOM;
  }
  link_.in_used -= at;
  memmove(link_.in, link_.in + at, link_.in_used);
  return sound;
}

/* Reads what there is; false when the host is gone. */
static bool read_host(void) {
  size_t room = sizeof link_.in - link_.in_used;
  if (room == 0) return true;
  ssize_t got = read(link_.fd, link_.in + link_.in_used, room);
  if (got > 0) link_.in_used += (size_t)got;
  return got > 0 || (got < 0 && (errno == EAGAIN || errno == EINTR));
}

static void serve_host(short events, int* command) {
  if (!link_.attached) return;
  if (events & (POLLIN | POLLHUP | POLLERR)) {
    if (!read_host()) {
      lose_connection(NULL);
      return;
    }
  }
  if (!take_frames(command)) {
    lose_connection(link_.greeted ? "a malformed frame from the host"
                                  : "no greeting of this protocol version from the host");
    return;
  }
  if (outbox_flush(&out, link_.fd) < 0) lose_connection(NULL);
}

/* Opens the stream, or waits for the host's end of it. */
static void attach(struct agent* agent) {
  if (link_.fd < 0) link_.fd = agent->open_stream(agent->context);
  if (link_.fd < 0) return;
  struct pollfd probe = {.fd = link_.fd, .events = POLLOUT};
  if (poll(&probe, 1, 0) < 0 || probe.revents & (POLLHUP | POLLERR)) return;
  link_.attached = true;
  send_hello(agent);
}

static int open_signals(void) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGCHLD);
  /* What busybox's halt, poweroff and reboot send to init. */
  sigaddset(&set, SIGUSR1);
  sigaddset(&set, SIGUSR2);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  sigprocmask(SIG_BLOCK, &set, NULL);
  signal(SIGPIPE, SIG_IGN);
  return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

static void take_signals(int fd, bool init, int* command) {
  struct signalfd_siginfo info;
  while (read(fd, &info, sizeof info) == (ssize_t)sizeof info) {
    if (info.ssi_signo == SIGCHLD) continue;
    bool restart = info.ssi_signo == SIGTERM || info.ssi_signo == SIGINT;
    *command = !init ? 0 : restart ? RB_AUTOBOOT : RB_POWER_OFF;
  }
  process_reap(&table);
}

/* Ends every process; what was already said still goes out, for a while. */
static void wind_up(void) {
  uint64_t end = clock_ms() + kLastFlushMs;
  while (link_.attached && out.used > 0 && clock_ms() < end) {
    struct pollfd writable = {.fd = link_.fd, .events = POLLOUT};
    if (poll(&writable, 1, 10) < 0 || outbox_flush(&out, link_.fd) < 0) break;
  }
  lose_connection(NULL);
  end = clock_ms() + PROCESS_TERM_GRACE_MS + PROCESS_PIPE_LINGER_MS;
  while (table.count > 0 && clock_ms() < end) {
    poll(NULL, 0, 5);
    process_reap(&table);
    process_advance(&table, &out);
  }
}

int agent_serve(struct agent* agent) {
  enum { kSignals, kDevices, kHost, kProcesses };
  static struct pollfd fds[kProcesses + 3 * PROCESS_MAX];
  int command = kServe;
  int signals = open_signals();
  uint64_t alone_since = clock_ms();
  link_.fd = -1;
  link_.init = agent->init;
  while (command == kServe) {
    /* The dead of an earlier conversation first: their ids may come again. */
    uint64_t now = clock_ms();
    bool settled = table.count == 0 || now - alone_since >= kPatienceMs;
    if (!link_.attached && settled) attach(agent);
    if (link_.attached) alone_since = now;
    if (!link_.attached && !agent->init && now - alone_since > kPatienceMs) command = 0;

    bool replies_fit = outbox_room(&out) >= OUTBOX_REPLY_ROOM;
    bool output_fits = outbox_room(&out) >= OUTBOX_OUTPUT_ROOM;
    short interest = (short)((replies_fit ? POLLIN : 0) | (out.used > 0 ? POLLOUT : 0));
    fds[kSignals] = (struct pollfd){.fd = signals, .events = POLLIN};
    fds[kDevices] = (struct pollfd){.fd = agent->device_events, .events = POLLIN};
    fds[kHost] = (struct pollfd){.fd = link_.attached ? link_.fd : -1, .events = interest};
    unsigned count = kProcesses + process_poll(&table, fds + kProcesses, output_fits);
    int wait = process_wait_ms(&table, &out);
    if (link_.attached && link_.held && replies_fit) wait = 0;
    if (!link_.attached && (wait < 0 || wait > kReopenMs)) wait = kReopenMs;
    if (poll(fds, count, wait) < 0 && errno != EINTR) fds[kHost].revents = 0;

    take_signals(signals, agent->init, &command);
    if (fds[kDevices].revents & POLLIN) agent->on_device_event(agent->device_events);
    serve_host(fds[kHost].revents, &command);
    process_advance(&table, &out);
    if (link_.attached && outbox_flush(&out, link_.fd) < 0) lose_connection(NULL);
  }
  wind_up();
  close(signals);
  return command;
}
