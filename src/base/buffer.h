/*
 * A growing byte builder with a maximum and a sticky error: append without looking, check once.
 */
#ifndef BASE_BUFFER_H
#define BASE_BUFFER_H

#include "base/bytes.h"

struct buffer {
    uint8_t *at;
    size_t count;
    size_t room;
    size_t limit_bytes;
    bool failed; /* sticky: over the limit or out of memory; what was appended before is intact */
};

#define BUFFER_WITH_LIMIT(bytes_limit) ((struct buffer){.limit_bytes = (bytes_limit)})

void buffer_add(struct buffer *buffer, struct bytes view);
void buffer_add_text(struct buffer *buffer, const char *text);
void buffer_add_byte(struct buffer *buffer, uint8_t byte);
void buffer_print(struct buffer *buffer, const char *format, ...) PRINTF_LIKE(2, 3);
/* Fixed-width integers, big endian (network order). */
void buffer_add_u16(struct buffer *buffer, uint16_t value);
void buffer_add_u32(struct buffer *buffer, uint32_t value);
void buffer_add_u64(struct buffer *buffer, uint64_t value);
/* Memory for `count` more bytes to be written by the caller and then claimed; NULL on failure. */
MUST_USE uint8_t *buffer_reserve(struct buffer *buffer, size_t count);
void buffer_claim(struct buffer *buffer, size_t count);
void buffer_drop_front(struct buffer *buffer, size_t count);
struct bytes buffer_view(const struct buffer *buffer); /* valid until the next change */
void buffer_clear(struct buffer *buffer);              /* keeps the memory, resets failed */
void buffer_free(struct buffer *buffer);               /* fits CLEANUP */

#endif
