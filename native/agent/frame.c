#include "native/agent/frame.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

#include "native/agent/protocol.h"

uint16_t load_u16(const unsigned char* at) {
  return (uint16_t)(at[0] | at[1] << 8);
}

uint32_t load_u32(const unsigned char* at) {
  return load_u16(at) | (uint32_t)load_u16(at + 2) << 16;
}

void store_u16(unsigned char* at, uint16_t value) {
  at[0] = (unsigned char)value;
  at[1] = (unsigned char)(value >> 8);
}

void store_u32(unsigned char* at, uint32_t value) {
  store_u16(at, (uint16_t)value);
  store_u16(at + 2, (uint16_t)(value >> 16));
}

void store_u64(unsigned char* at, uint64_t value) {
  store_u32(at, (uint32_t)value);
  store_u32(at + 4, (uint32_t)(value >> 32));
}

static const unsigned char* take(struct reader* in, size_t length) {
  if (in->bad || (size_t)(in->end - in->at) < length) {
    in->bad = true;
    return NULL;
  }
  const unsigned char* at = in->at;
  in->at += length;
  return at;
}

uint16_t read_u16(struct reader* in) {
  const unsigned char* at = take(in, 2);
  return at ? load_u16(at) : 0;
}

uint32_t read_u32(struct reader* in) {
  const unsigned char* at = take(in, 4);
  return at ? load_u32(at) : 0;
}

uint64_t read_u64(struct reader* in) {
  const unsigned char* at = take(in, 8);
  return at ? load_u32(at) | (uint64_t)load_u32(at + 4) << 32 : 0;
}

const unsigned char* read_bytes(struct reader* in, size_t length) {
  return take(in, length);
}

const char* read_string(struct reader* in) {
  if (in->bad) return NULL;
  const unsigned char* zero = memchr(in->at, 0, (size_t)(in->end - in->at));
  if (!zero) {
    in->bad = true;
    return NULL;
  }
  return (const char*)take(in, (size_t)(zero - in->at) + 1);
}

const char** read_strings(struct reader* in, uint32_t* count) {
  *count = read_u32(in);
  /* Each string takes at least its NUL, which bounds the allocation by the payload. */
  if (in->bad || *count > (size_t)(in->end - in->at)) {
    in->bad = true;
    return NULL;
  }
  const char** list = calloc((size_t)*count + 1, sizeof *list);
  if (!list) return NULL;
  for (uint32_t i = 0; i < *count; i++) list[i] = read_string(in);
  if (in->bad) {
    free(list);
    return NULL;
  }
  return list;
}

size_t outbox_room(const struct outbox* out) {
  return OUTBOX_SIZE - out->used;
}

void outbox_clear(struct outbox* out) {
  out->start = out->used = 0;
}

static void append(struct outbox* out, const void* bytes, size_t length) {
  size_t end = (out->start + out->used) % OUTBOX_SIZE;
  size_t first = length < OUTBOX_SIZE - end ? length : OUTBOX_SIZE - end;
  memcpy(out->bytes + end, bytes, first);
  memcpy(out->bytes, (const unsigned char*)bytes + first, length - first);
  out->used += length;
}

bool outbox_frame(struct outbox* out, uint16_t type, uint32_t id, const void* payload,
                  size_t length) {
  if (length > KVITEST_FRAME_PAYLOAD_MAX || outbox_room(out) < KVITEST_FRAME_HEADER + length) {
    return false;
  }
  unsigned char header[KVITEST_FRAME_HEADER];
  store_u32(header, (uint32_t)length);
  store_u16(header + 4, type);
  store_u16(header + 6, 0);
  store_u32(header + 8, id);
  append(out, header, sizeof header);
  if (length > 0) append(out, payload, length);
  return true;
}

int outbox_flush(struct outbox* out, int fd) {
  while (out->used > 0) {
    size_t tail = OUTBOX_SIZE - out->start;
    size_t first = out->used < tail ? out->used : tail;
    struct iovec parts[2] = {
        {.iov_base = out->bytes + out->start, .iov_len = first},
        {.iov_base = out->bytes, .iov_len = out->used - first},
    };
    ssize_t written = writev(fd, parts, parts[1].iov_len > 0 ? 2 : 1);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0 && errno == EAGAIN) return 0;
    if (written < 0) return -1;
    /* A virtio port whose host side is closed takes nothing and reports no error. */
    if (written == 0) return 0;
    out->start = (out->start + (size_t)written) % OUTBOX_SIZE;
    out->used -= (size_t)written;
  }
  return 0;
}
