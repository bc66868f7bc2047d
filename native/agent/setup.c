#include "native/agent/setup.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "native/agent/ports.h"
#include "native/agent/process.h"

struct mount_point {
  const char* type;
  const char* path;
  unsigned long flags;
  const char* options;
  bool optional; /* a kernel without it is fine */
};

static const struct mount_point kMounts[] = {
    {"proc", "/proc", MS_NOSUID | MS_NOEXEC | MS_NODEV, NULL, false},
    {"sysfs", "/sys", MS_NOSUID | MS_NOEXEC | MS_NODEV, NULL, false},
    {"devtmpfs", "/dev", MS_NOSUID, "mode=0755", false},
    {"devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "gid=5,mode=0620,ptmxmode=0666", false},
    {"tmpfs", "/dev/shm", MS_NOSUID | MS_NODEV, "mode=1777", false},
    {"tmpfs", "/tmp", MS_NOSUID | MS_NODEV, "mode=1777", false},
    {"tmpfs", "/run", MS_NOSUID | MS_NODEV, "mode=0755", false},
    {"cgroup2", "/sys/fs/cgroup", MS_NOSUID | MS_NOEXEC | MS_NODEV, NULL, true},
    {"debugfs", "/sys/kernel/debug", MS_NOSUID | MS_NOEXEC | MS_NODEV, NULL, true},
    {"tracefs", "/sys/kernel/tracing", MS_NOSUID | MS_NOEXEC | MS_NODEV, NULL, true},
};

static void mount_all(struct warnings* warnings) {
  for (size_t i = 0; i < sizeof kMounts / sizeof kMounts[0]; i++) {
    const struct mount_point* point = &kMounts[i];
    mkdir(point->path, 0755);
    /* EBUSY: the kernel mounted devtmpfs itself. */
    if (mount(point->type, point->path, point->type, point->flags, point->options) < 0 &&
        errno != EBUSY && !point->optional) {
      warn(warnings, "mount %s on %s: %s", point->type, point->path, strerror(errno));
    }
  }
}

static void connect_console(void) {
  int fd = open("/dev/console", O_RDWR | O_NOCTTY);
  if (fd < 0) fd = open("/dev/null", O_RDWR);
  if (fd < 0) return;
  for (int standard = 0; standard < 3; standard++) dup2(fd, standard);
  if (fd > 2) close(fd);
}

static void make_links(struct warnings* warnings) {
  static const char* const kLinks[][2] = {
      {"/proc/self/fd", "/dev/fd"},
      {"/proc/self/fd/0", "/dev/stdin"},
      {"/proc/self/fd/1", "/dev/stdout"},
      {"/proc/self/fd/2", "/dev/stderr"},
  };
  for (size_t i = 0; i < sizeof kLinks / sizeof kLinks[0]; i++) {
    if (symlink(kLinks[i][0], kLinks[i][1]) < 0 && errno != EEXIST) {
      warn(warnings, "link %s: %s", kLinks[i][1], strerror(errno));
    }
  }
}

static void raise_loopback(struct warnings* warnings) {
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  struct ifreq request = {.ifr_name = "lo"};
  /* The kernel adds 127.0.0.1 by itself when the loopback device comes up. */
  if (fd < 0 || ioctl(fd, SIOCGIFFLAGS, &request) < 0 ||
      (request.ifr_flags |= IFF_UP, ioctl(fd, SIOCSIFFLAGS, &request) < 0)) {
    warn(warnings, "bring up lo: %s", strerror(errno));
  }
  if (fd >= 0) close(fd);
}

void setup_system(struct warnings* warnings) {
  umask(022);
  mount_all(warnings);
  connect_console();
  make_links(warnings);
  static const char kHostName[] = "guest";
  if (sethostname(kHostName, sizeof kHostName - 1) < 0) {
    warn(warnings, "set the host name: %s", strerror(errno));
  }
  raise_loopback(warnings);
  mkdir("/root", 0700);
  setenv("PATH", "/bin:/sbin:/usr/bin:/usr/sbin", 1);
  setenv("HOME", "/root", 1);
  setenv("TERM", "linux", 1);
}

static void load_module(const char* path, struct warnings* warnings) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    warn(warnings, "module %s: %s", path, strerror(errno));
    return;
  }
  if (syscall(SYS_finit_module, fd, "", 0) < 0 && errno != EEXIST) {
    warn(warnings, "module %s: %s", path, strerror(errno));
  }
  close(fd);
}

void setup_modules(struct warnings* warnings) {
  FILE* list = fopen("/etc/kvitest/modules", "re");
  if (!list) {
    if (errno != ENOENT) warn(warnings, "read /etc/kvitest/modules: %s", strerror(errno));
    return;
  }
  char* line = NULL;
  size_t size = 0;
  while (getline(&line, &size, list) > 0) {
    line[strcspn(line, "\n")] = 0;
    if (line[0] == '/') load_module(line, warnings);
  }
  free(line);
  fclose(list);
}

static bool read_line(const char* path, char* line, size_t size) {
  FILE* file = fopen(path, "re");
  if (!file) return false;
  bool found = fgets(line, (int)size, file) != NULL;
  fclose(file);
  if (found) line[strcspn(line, "\n")] = 0;
  return found && line[0];
}

/* Name of the block device with that serial. */
static bool find_disk(const char* serial, char* name, size_t size) {
  DIR* disks = opendir("/sys/block");
  if (!disks) return false;
  bool found = false;
  for (struct dirent* entry; !found && (entry = readdir(disks)) != NULL;) {
    char path[300], present[64];
    snprintf(path, sizeof path, "/sys/block/%s/serial", entry->d_name);
    found = read_line(path, present, sizeof present) && strcmp(present, serial) == 0;
    if (found) snprintf(name, size, "%s", entry->d_name);
  }
  closedir(disks);
  return found;
}

void setup_packages(struct warnings* warnings) {
  enum { kLimitMs = 10000, kStepMs = 2 };
  static const char kMountPoint[] = "/lib/kvitest/packages";
  char serial[64], name[256], path[300];
  if (!read_line("/etc/kvitest/packages", serial, sizeof serial)) return;
  uint64_t end = clock_ms() + kLimitMs;
  do {
    if (find_disk(serial, name, sizeof name)) {
      snprintf(path, sizeof path, "/dev/%s", name);
      if (mount(path, kMountPoint, "squashfs", MS_RDONLY | MS_NODEV, NULL) < 0) {
        warn(warnings, "mount the packages (%s): %s", path, strerror(errno));
      }
      return;
    }
    poll(NULL, 0, kStepMs);
  } while (clock_ms() < end);
  warn(warnings, "no disk with the serial %s after %d ms: the packages are not there", serial,
       kLimitMs);
}

static void wait_for_port(const char* name, struct warnings* warnings) {
  enum { kLimitMs = 2000, kStepMs = 2 };
  char path[300];
  uint64_t end = clock_ms() + kLimitMs;
  while (!port_find(name, path, sizeof path)) {
    if (clock_ms() >= end) {
      warn(warnings, "no virtio-serial port %s after %d ms", name, kLimitMs);
      return;
    }
    poll(NULL, 0, kStepMs);
  }
}

void setup_ports(struct warnings* warnings) {
  static const char kKey[] = "kvitest.ports=";
  FILE* file = fopen("/proc/cmdline", "re");
  if (!file) return;
  char* line = NULL;
  size_t size = 0;
  ssize_t length = getline(&line, &size, file);
  fclose(file);
  for (char *rest, *word = strtok_r(length > 0 ? line : NULL, " \n", &rest); length > 0 && word;
       word = strtok_r(NULL, " \n", &rest)) {
    if (strncmp(word, kKey, sizeof kKey - 1) != 0) continue;
    char* more;
    for (char* name = strtok_r(word + sizeof kKey - 1, ",", &more); name;
         name = strtok_r(NULL, ",", &more)) {
      wait_for_port(name, warnings);
    }
  }
  free(line);
}
