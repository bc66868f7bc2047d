/* The guest agent: /init of every Linux guest. docs/agent-protocol.md says what it speaks.
 * As any other process than pid 1 it needs --port SOCKET, and serves the host on that UNIX socket:
 * so it is tested without a guest. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "native/agent/connection.h"
#include "native/agent/ports.h"
#include "native/agent/process.h"
#include "native/agent/protocol.h"
#include "native/agent/setup.h"

static struct agent agent;

static int open_virtio_port(void* context) {
  char path[300];
  if (!port_find(context, path, sizeof path)) {
    errno = ENOENT;
    return -1;
  }
  return open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
}

static int connect_socket(void* context) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  snprintf(address.sun_path, sizeof address.sun_path, "%s", (const char*)context);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return -1;
  if (connect(fd, (struct sockaddr*)&address, sizeof address) < 0 ||
      fcntl(fd, F_SETFL, O_NONBLOCK) < 0) {
    int code = errno;
    close(fd);
    errno = code;
    return -1;
  }
  return fd;
}

/* An agent that the OOM killer takes is a guest that nobody can ask any more. */
static void be_precious(void) {
  int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
  if (fd < 0) return;
  if (write(fd, "-1000", 5) != 5) warn(&agent.warnings, "oom_score_adj: %s", strerror(errno));
  close(fd);
}

static bool wait_for_agent_port(void) {
  enum { kLimitMs = 10000, kStepMs = 2 };
  uint64_t end = clock_ms() + kLimitMs;
  char path[300];
  while (!port_find(KVITEST_AGENT_PORT, path, sizeof path)) {
    if (clock_ms() >= end) return false;
    poll(NULL, 0, kStepMs);
  }
  return true;
}

static void power(int command) {
  sync();
  reboot(command);
  for (;;) pause();
}

static void run_as_init(void) {
  static char port[] = KVITEST_AGENT_PORT;
  setup_system(&agent.warnings);
  be_precious();
  agent.device_events = ports_open_events();
  agent.on_device_event = ports_on_event;
  if (agent.device_events < 0) {
    warn(&agent.warnings, "listen to device events: %s", strerror(errno));
  }
  setup_modules(&agent.warnings);
  if (!wait_for_agent_port()) {
    printf("kvitest-agent: no port %s\n", KVITEST_AGENT_PORT);
    for (const char* text = agent.warnings.text; text[0]; text += strlen(text) + 1) {
      printf("kvitest-agent: %s\n", text);
    }
    fflush(stdout);
    power(RB_POWER_OFF);
  }
  setup_packages(&agent.warnings);
  setup_ports(&agent.warnings);
  ports_link();
  agent.init = true;
  agent.open_stream = open_virtio_port;
  agent.context = port;
  power(agent_serve(&agent));
}

int main(int argc, char** argv) {
  agent.device_events = -1;
  if (getpid() == 1) run_as_init();
  if (argc != 3 || strcmp(argv[1], "--port") != 0) {
    fprintf(stderr, "usage: agent --port SOCKET\n");
    return 2;
  }
  prctl(PR_SET_CHILD_SUBREAPER, 1);
  agent.open_stream = connect_socket;
  agent.context = argv[2];
  agent_serve(&agent);
  return 0;
}
