#include "native/agent/session_kill.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* True when /proc/PID/stat says that pid is a live member of the session. */
static bool is_member(const char* pid, pid_t session) {
  char path[64];
  char text[512];
  snprintf(path, sizeof path, "/proc/%.20s/stat", pid);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  ssize_t got = read(fd, text, sizeof text - 1);
  close(fd);
  if (got <= 0) return false;
  text[got] = 0;
  /* The name in parentheses may itself hold parentheses and blanks (proc(5)). */
  const char* after_name = strrchr(text, ')');
  char state;
  int parent, group, sid;
  if (!after_name || sscanf(after_name + 1, " %c %d %d %d", &state, &parent, &group, &sid) != 4) {
    return false;
  }
  return sid == session && state != 'Z' && state != 'X';
}

/* Calls each member's signal, or only looks when number is 0; says whether there was one. */
static bool each_member(pid_t session, int number) {
  DIR* proc = opendir("/proc");
  if (!proc) return false;
  bool found = false;
  for (struct dirent* entry; (entry = readdir(proc)) != NULL;) {
    if (entry->d_name[0] < '1' || entry->d_name[0] > '9') continue;
    if (!is_member(entry->d_name, session)) continue;
    found = true;
    if (number == 0) break;
    kill(atoi(entry->d_name), number);
  }
  closedir(proc);
  return found;
}

void session_kill(pid_t session, int number) {
  enum { kRounds = 8 };
  kill(-session, number);
  /* What forks while we look escapes one look; SIGKILL repeats until nobody is left. */
  for (int round = 0; each_member(session, number) && number == SIGKILL && round < kRounds;
       round++) {
  }
}

bool session_alive(pid_t session) {
  return each_member(session, 0);
}
