#include "native/agent/file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int make_parents(const char* path) {
  char parent[PATH_MAX];
  size_t length = strlen(path);
  if (length >= sizeof parent) return ENAMETOOLONG;
  memcpy(parent, path, length + 1);
  for (char* slash = strchr(parent + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
    *slash = 0;
    if (mkdir(parent, 0755) < 0 && errno != EEXIST) return errno;
    *slash = '/';
  }
  return 0;
}

static int write_all(int fd, const unsigned char* bytes, size_t length, uint64_t offset) {
  while (length > 0) {
    ssize_t written = pwrite(fd, bytes, length, (off_t)offset);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return errno;
    bytes += written;
    offset += (uint64_t)written;
    length -= (size_t)written;
  }
  return 0;
}

int file_write(const char* path, uint32_t mode, uint64_t offset, const void* bytes, size_t length,
               char* operation, size_t operation_size) {
  if (path[0] != '/' || offset > INT64_MAX - length) {
    snprintf(operation, operation_size, "write %.200s", path);
    return EINVAL;
  }
  int code = offset == 0 ? make_parents(path) : 0;
  if (code != 0) {
    snprintf(operation, operation_size, "make the parents of %.200s", path);
    return code;
  }
  snprintf(operation, operation_size, "open %.200s", path);
  int flags = O_WRONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
  if (offset == 0) flags |= O_CREAT | O_TRUNC;
  int fd = open(path, flags, 0600);
  if (fd < 0) return errno;
  struct stat status;
  if (fstat(fd, &status) < 0 || !S_ISREG(status.st_mode)) {
    close(fd);
    return EINVAL;
  }
  snprintf(operation, operation_size, "write %.200s", path);
  code = write_all(fd, bytes, length, offset);
  if (code == 0 && fchmod(fd, mode & 07777) < 0) code = errno;
  if (close(fd) < 0 && code == 0) code = errno;
  return code;
}
