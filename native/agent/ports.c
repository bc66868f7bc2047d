#include "native/agent/ports.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

static const char kClass[] = "/sys/class/virtio-ports";
static const char kLinks[] = "/dev/virtio-ports";

enum { kNameSize = 256, kPathSize = 600 };

/* False for a port without a name, such as the first moments of any port. */
static bool read_name(const char* device, char* name, size_t size) {
  char path[kPathSize];
  snprintf(path, sizeof path, "%s/%s/name", kClass, device);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  ssize_t got = read(fd, name, size - 1);
  close(fd);
  if (got <= 0) return false;
  name[got] = 0;
  name[strcspn(name, "\n")] = 0;
  return name[0] != 0;
}

bool port_find(const char* name, char* path, size_t size) {
  DIR* ports = opendir(kClass);
  if (!ports) return false;
  bool found = false;
  for (struct dirent* entry; !found && (entry = readdir(ports)) != NULL;) {
    char candidate[kNameSize];
    if (entry->d_name[0] == '.' || !read_name(entry->d_name, candidate, sizeof candidate)) continue;
    found = strcmp(candidate, name) == 0;
    if (found) snprintf(path, size, "/dev/%s", entry->d_name);
  }
  closedir(ports);
  return found;
}

static void remove_stale_links(void) {
  DIR* links = opendir(kLinks);
  if (!links) return;
  for (struct dirent* entry; (entry = readdir(links)) != NULL;) {
    if (entry->d_name[0] == '.') continue;
    struct stat status;
    /* fstatat follows the link: its node went with the port. */
    if (fstatat(dirfd(links), entry->d_name, &status, 0) < 0 && errno == ENOENT) {
      unlinkat(dirfd(links), entry->d_name, 0);
    }
  }
  closedir(links);
}

static void link_port(const char* name, const char* device) {
  char path[kPathSize], target[kPathSize], present[kPathSize];
  /* The name comes from the host and may be any text; in /dev it must stay one file. */
  if (strchr(name, '/') || name[0] == '.') return;
  snprintf(path, sizeof path, "%s/%s", kLinks, name);
  snprintf(target, sizeof target, "../%s", device);
  ssize_t length = readlink(path, present, sizeof present - 1);
  if (length >= 0) {
    present[length] = 0;
    if (strcmp(present, target) == 0) return;
    unlink(path);
  }
  if (symlink(target, path) < 0 && errno != EEXIST) {
    fprintf(stderr, "kvitest-agent: link %s: %s\n", path, strerror(errno));
  }
}

void ports_link(void) {
  DIR* ports = opendir(kClass);
  if (!ports) return;
  mkdir(kLinks, 0755);
  remove_stale_links();
  for (struct dirent* entry; (entry = readdir(ports)) != NULL;) {
    char name[kNameSize];
    if (entry->d_name[0] == '.' || !read_name(entry->d_name, name, sizeof name)) continue;
    link_port(name, entry->d_name);
  }
  closedir(ports);
}

int ports_open_events(void) {
  int fd = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_KOBJECT_UEVENT);
  if (fd < 0) return -1;
  struct sockaddr_nl kernel_events = {.nl_family = AF_NETLINK, .nl_groups = 1};
  if (bind(fd, (struct sockaddr*)&kernel_events, sizeof kernel_events) < 0) {
    int code = errno;
    close(fd);
    errno = code;
    return -1;
  }
  return fd;
}

void ports_on_event(int fd) {
  bool look = false;
  for (;;) {
    char event[4096];
    ssize_t got = recv(fd, event, sizeof event - 1, 0);
    if (got < 0 && errno == EINTR) continue;
    /* Events were lost: look, since one of them may have been ours. */
    if (got < 0 && errno == ENOBUFS) {
      look = true;
      continue;
    }
    if (got <= 0) break;
    event[got] = 0;
    /* ACTION@DEVPATH */
    look = look || strstr(event, "/virtio-ports/") != NULL;
  }
  if (look) ports_link();
}
