/*
 * An arena: memory that is given out piece by piece and freed at once. One per connection, one per
 * transaction (cleared at RSET). It has a maximum, so no input can make it grow without bound.
 */
#ifndef BASE_ARENA_H
#define BASE_ARENA_H

#include "base/bytes.h"

struct arena_chunk;

struct arena {
    struct arena_chunk *newest;
    size_t used_bytes;
    size_t limit_bytes;
    bool failed; /* sticky: an allocation was refused since the last clear */
};

#define ARENA_WITH_LIMIT(bytes_limit) ((struct arena){.limit_bytes = (bytes_limit)})

/* Zeroed memory aligned for any type, or NULL when the limit or the machine's memory is reached. */
MUST_USE void *arena_take(struct arena *arena, size_t size);
MUST_USE void *arena_take_array(struct arena *arena, size_t count, size_t size);

/* A copy with a NUL behind it (not counted). On failure the view is empty and arena->failed is set.
 */
struct bytes arena_copy(struct arena *arena, struct bytes view);
char *arena_text(struct arena *arena, struct bytes view); /* NUL-ended copy, or NULL */
struct bytes arena_print(struct arena *arena, const char *format, ...) PRINTF_LIKE(2, 3);

void arena_clear(struct arena *arena); /* everything given out is gone; the arena stays usable */

#define ARENA_NEW(arena, type) ((type *)arena_take((arena), sizeof(type)))
#define ARENA_NEW_ARRAY(arena, count, type)                                                        \
    ((type *)arena_take_array((arena), (count), sizeof(type)))

#endif
