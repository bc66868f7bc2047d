/* Reading payloads that may be malformed, and the bounded queue of frames towards the host. */
#ifndef KVITEST_AGENT_FRAME_H
#define KVITEST_AGENT_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A cursor over one payload. The first read past the end sets `bad` and every later one yields 0 or
 * NULL, so a parser checks once, at its end. */
struct reader {
  const unsigned char* at;
  const unsigned char* end;
  bool bad;
};

uint16_t read_u16(struct reader* in);
uint32_t read_u32(struct reader* in);
uint64_t read_u64(struct reader* in);
/* `length` bytes inside the payload, or NULL. */
const unsigned char* read_bytes(struct reader* in, size_t length);
/* A NUL-terminated string inside the payload, or NULL. */
const char* read_string(struct reader* in);
/* A str list as a malloc'd, NULL-terminated array of pointers into the payload; NULL when
 * malformed (`bad` is set) or without memory (`bad` is not set). */
const char** read_strings(struct reader* in, uint32_t* count);

uint16_t load_u16(const unsigned char* at);
uint32_t load_u32(const unsigned char* at);
void store_u16(unsigned char* at, uint16_t value);
void store_u32(unsigned char* at, uint32_t value);
void store_u64(unsigned char* at, uint64_t value);

/* Frames on their way to the host. What processes print is queued only while OUTBOX_OUTPUT_ROOM is
 * free, and host frames are taken only while OUTBOX_REPLY_ROOM is: so a reply always fits, and
 * output can never crowd out an EXIT. */
enum {
  OUTBOX_SIZE = 512 * 1024,
  OUTBOX_REPLY_ROOM = 160 * 1024,
  OUTBOX_OUTPUT_ROOM = 256 * 1024,
};

struct outbox {
  unsigned char bytes[OUTBOX_SIZE];
  size_t start; /* of the first byte not yet written */
  size_t used;
};

size_t outbox_room(const struct outbox* out);
void outbox_clear(struct outbox* out);
/* Queues one frame; false, and nothing queued, when it does not fit. */
bool outbox_frame(struct outbox* out, uint16_t type, uint32_t id, const void* payload,
                  size_t length);
/* Writes what fd takes now. 0, or -1 with errno when the connection is gone. */
int outbox_flush(struct outbox* out, int fd);

#endif
