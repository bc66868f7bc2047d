/* Named virtio-serial ports: finding them and naming them in /dev. */
#ifndef KVITEST_AGENT_PORTS_H
#define KVITEST_AGENT_PORTS_H

#include <stdbool.h>
#include <stddef.h>

/* The path of the port's device node; false when no port has this name (yet). */
bool port_find(const char* name, char* path, size_t size);
/* Makes /dev/virtio-ports/NAME -> ../vportXpY for every port, and removes links of ports that are
 * gone. */
void ports_link(void);
/* A uevent socket, non-blocking; -1 with errno. */
int ports_open_events(void);
/* Empties the socket and links again when a port came, was named or went. */
void ports_on_event(int fd);

#endif
