#include "base/arena.h"

#include <stdarg.h>
#include <string.h>

enum { CHUNK_BYTES = 4096 - 32 };

struct arena_chunk {
    struct arena_chunk *older;
    size_t used, room;
    _Alignas(max_align_t) uint8_t memory[];
};

static size_t round_up(size_t size)
{
    return (size + _Alignof(max_align_t) - 1) & ~(_Alignof(max_align_t) - 1);
}

static struct arena_chunk *chunk_add(struct arena *arena, size_t size)
{
    const size_t room = MAX_OF(size, (size_t)CHUNK_BYTES - sizeof(struct arena_chunk));
    struct arena_chunk *chunk = malloc(sizeof *chunk + room);

    if (!chunk)
        return NULL;
    *chunk = (struct arena_chunk){.older = arena->newest, .room = room};
    arena->newest = chunk;
    return chunk;
}

void *arena_take(struct arena *arena, size_t size)
{
    const size_t rounded = round_up(MAX_OF(size, (size_t)1));
    struct arena_chunk *chunk = arena->newest;

    if (rounded < size ||
        rounded > arena->limit_bytes - MIN_OF(arena->used_bytes, arena->limit_bytes))
        chunk = NULL;
    else if (!chunk || chunk->room - chunk->used < rounded)
        chunk = chunk_add(arena, rounded);
    if (!chunk || chunk->room - chunk->used < rounded) {
        arena->failed = true;
        return NULL;
    }
    void *memory = chunk->memory + chunk->used;
    chunk->used += rounded;
    arena->used_bytes += rounded;
    return memset(memory, 0, rounded);
}

void *arena_take_array(struct arena *arena, size_t count, size_t size)
{
    size_t total = 0;

    if (__builtin_mul_overflow(count, size, &total)) {
        arena->failed = true;
        return NULL;
    }
    return arena_take(arena, total);
}

char *arena_text(struct arena *arena, struct bytes view)
{
    char *text = view.count < SIZE_MAX ? arena_take(arena, view.count + 1) : NULL;

    if (text && view.count)
        memcpy(text, view.at, view.count);
    return text;
}

struct bytes arena_copy(struct arena *arena, struct bytes view)
{
    const char *text = arena_text(arena, view);

    return text ? (struct bytes){(const uint8_t *)text, view.count} : BYTES_EMPTY;
}

/* Most of what is printed is short, and is then formatted once. */
struct bytes arena_print(struct arena *arena, const char *format, ...)
{
    char brief[256];
    va_list arguments;

    va_start(arguments, format);
    const int count = vsnprintf(brief, sizeof brief, format, arguments);
    va_end(arguments);
    if (count >= 0 && (size_t)count < sizeof brief)
        return arena_copy(arena, bytes_of(brief, (size_t)count));
    char *text = count < 0 ? NULL : arena_take(arena, (size_t)count + 1);
    if (!text)
        return BYTES_EMPTY;
    va_start(arguments, format);
    vsnprintf(text, (size_t)count + 1, format, arguments);
    va_end(arguments);
    return (struct bytes){(const uint8_t *)text, (size_t)count};
}

void arena_clear(struct arena *arena)
{
    while (arena->newest) {
        struct arena_chunk *older = arena->newest->older;
        free(arena->newest);
        arena->newest = older;
    }
    arena->used_bytes = 0;
    arena->failed = false;
}
