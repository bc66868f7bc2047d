/* Files the host sends. */
#ifndef KVITEST_AGENT_FILE_H
#define KVITEST_AGENT_FILE_H

#include <stddef.h>
#include <stdint.h>

/* Writes `length` bytes at `offset`; offset 0 creates or truncates and makes parents (mode 0755).
 * Only regular files. 0, or an errno with the failed operation in `operation`. */
int file_write(const char* path, uint32_t mode, uint64_t offset, const void* bytes, size_t length,
               char* operation, size_t operation_size);

#endif
