#include "native/agent/forked.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/random.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static const char kBootId[] = "/proc/sys/kernel/random/boot_id";
static const char kOwnBootId[] = "/run/kvitest/boot_id";
static const char kMachineId[] = "/etc/machine-id";

static int stir(const unsigned char* entropy, char* operation, size_t operation_size) {
  struct {
    struct rand_pool_info info;
    unsigned char bytes[FORKED_ENTROPY_SIZE];
  } pool = {.info = {.entropy_count = FORKED_ENTROPY_SIZE * 8, .buf_size = FORKED_ENTROPY_SIZE}};
  memcpy(pool.info.buf, entropy, FORKED_ENTROPY_SIZE);
  snprintf(operation, operation_size, "open /dev/urandom");
  int fd = open("/dev/urandom", O_WRONLY | O_CLOEXEC);
  if (fd < 0) return errno;
  int code = 0;
  snprintf(operation, operation_size, "RNDADDENTROPY");
  if (ioctl(fd, RNDADDENTROPY, &pool) < 0) code = errno;
  /* The pool alone changes nothing yet: until its next reseed, up to a minute away, the generator
   * of every fork would go on from the same key. */
  if (code == 0) {
    snprintf(operation, operation_size, "RNDRESEEDCRNG");
    if (ioctl(fd, RNDRESEEDCRNG) < 0) code = errno;
  }
  close(fd);
  return code;
}

static int write_whole(const char* path, int flags, mode_t mode, const char* text, size_t length) {
  int fd = open(path, flags | O_WRONLY | O_CLOEXEC | O_NOFOLLOW, mode);
  if (fd < 0) return errno;
  ssize_t written = write(fd, text, length);
  int code = written < 0 ? errno : (size_t)written != length ? EIO : 0;
  if (close(fd) < 0 && code == 0) code = errno;
  return code;
}

/* The kernel makes its boot id once and for all, and random.c offers no way to change it: a file of
 * our own lies over it. A fork of a fork has one already and only writes it anew. */
static int replace_boot_id(const unsigned char* id, char* operation, size_t operation_size) {
  static bool is_mounted;
  unsigned char b[FORKED_BOOT_ID_SIZE];
  memcpy(b, id, sizeof b);
  b[6] = (unsigned char)((b[6] & 0x0f) | 0x40); /* RFC 9562, section 5.4: a random UUID */
  b[8] = (unsigned char)((b[8] & 0x3f) | 0x80);
  char text[40];
  int length = snprintf(text, sizeof text,
                        "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x\n",
                        b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11],
                        b[12], b[13], b[14], b[15]);
  mkdir("/run/kvitest", 0755);
  snprintf(operation, operation_size, "write %s", kOwnBootId);
  int code = write_whole(kOwnBootId, O_CREAT, 0444, text, (size_t)length);
  if (code != 0 || is_mounted) return code;
  snprintf(operation, operation_size, "mount %s", kBootId);
  if (mount(kOwnBootId, kBootId, NULL, MS_BIND, NULL) < 0) return errno;
  is_mounted = true;
  return 0;
}

/* After the reseed, so that the number is this fork's own. */
static int replace_machine_id(char* operation, size_t operation_size) {
  struct stat status;
  if (lstat(kMachineId, &status) < 0 || !S_ISREG(status.st_mode)) return 0;
  unsigned char id[16];
  snprintf(operation, operation_size, "getrandom");
  if (getrandom(id, sizeof id, 0) != sizeof id) return errno;
  char text[2 * sizeof id + 2];
  for (size_t i = 0; i < sizeof id; i++) snprintf(text + 2 * i, 3, "%02x", id[i]);
  text[2 * sizeof id] = '\n';
  snprintf(operation, operation_size, "write %s", kMachineId);
  return write_whole(kMachineId, O_TRUNC, 0, text, 2 * sizeof id + 1);
}

int forked_apply(const struct forked* forked, bool init, char* operation, size_t operation_size) {
  int code = stir(forked->entropy, operation, operation_size);
  if (!init) return code;
  if (code == 0) code = replace_boot_id(forked->boot_id, operation, operation_size);
  if (code == 0) code = replace_machine_id(operation, operation_size);
  if (code == 0 && forked->clock_ns != 0) {
    struct timespec now = {.tv_sec = (time_t)(forked->clock_ns / 1000000000u),
                           .tv_nsec = (long)(forked->clock_ns % 1000000000u)};
    snprintf(operation, operation_size, "clock_settime");
    if (clock_settime(CLOCK_REALTIME, &now) < 0) code = errno;
  }
  return code;
}
