/* What pid 1 makes of a bare initramfs before it listens. */
#ifndef KVITEST_AGENT_SETUP_H
#define KVITEST_AGENT_SETUP_H

#include "native/agent/connection.h"

/* Mounts, devices, names, the loopback interface. */
void setup_system(struct warnings* warnings);
/* Loads the modules that /etc/kvitest/modules names: one absolute path a line, in order. */
void setup_modules(struct warnings* warnings);
/* Mounts the disk whose serial /etc/kvitest/packages names, if it names one. */
void setup_packages(struct warnings* warnings);
/* Waits for the ports that `kvitest.ports=A,B` on the kernel command line names. */
void setup_ports(struct warnings* warnings);

#endif
