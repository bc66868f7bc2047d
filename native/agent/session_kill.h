/* Signals for a whole session: a shell with job control gives each of its jobs a process group. */
#ifndef KVITEST_AGENT_SESSION_KILL_H
#define KVITEST_AGENT_SESSION_KILL_H

#include <stdbool.h>
#include <sys/types.h>

void session_kill(pid_t session, int number);
/* Some process of it, not counting zombies, is left. */
bool session_alive(pid_t session);

#endif
