#include "base/buffer.h"

#include <stdarg.h>
#include <string.h>

static bool buffer_grow(struct buffer *buffer, size_t needed)
{
    size_t room = MAX_OF(buffer->room * 2, MAX_OF(needed, (size_t)64));

    room = MIN_OF(room, buffer->limit_bytes);
    uint8_t *memory = realloc(buffer->at, room);
    if (!memory)
        return false;
    buffer->at = memory;
    buffer->room = room;
    return true;
}

uint8_t *buffer_reserve(struct buffer *buffer, size_t count)
{
    if (buffer->failed ||
        count > buffer->limit_bytes - MIN_OF(buffer->count, buffer->limit_bytes)) {
        buffer->failed = true;
        return NULL;
    }
    if (buffer->room - buffer->count < count || !buffer->at) {
        if (!buffer_grow(buffer, buffer->count + count)) {
            buffer->failed = true;
            return NULL;
        }
    }
    return buffer->at + buffer->count;
}

void buffer_claim(struct buffer *buffer, size_t count)
{
    INVARIANT(count <= buffer->room - buffer->count);
    buffer->count += count;
}

void buffer_add(struct buffer *buffer, struct bytes view)
{
    if (view.count == 0)
        return;
    uint8_t *memory = buffer_reserve(buffer, view.count);
    if (!memory)
        return;
    memcpy(memory, view.at, view.count);
    buffer->count += view.count;
}

void buffer_add_text(struct buffer *buffer, const char *text)
{
    buffer_add(buffer, bytes_of_text(text));
}

void buffer_add_byte(struct buffer *buffer, uint8_t byte)
{
    buffer_add(buffer, bytes_of(&byte, 1));
}

/* Most of what is printed fits the room that is there, and is then formatted once. */
void buffer_print(struct buffer *buffer, const char *format, ...)
{
    const size_t room = buffer->failed ? 0 : buffer->room - buffer->count;
    va_list arguments;

    va_start(arguments, format);
    const int count =
        vsnprintf(room > 0 ? (char *)buffer->at + buffer->count : NULL, room, format, arguments);
    va_end(arguments);
    /* One more byte for the NUL that vsnprintf writes; it is not claimed. */
    uint8_t *memory = count < 0 ? NULL : buffer_reserve(buffer, (size_t)count + 1);
    if (!memory)
        return;
    if ((size_t)count >= room) {
        va_start(arguments, format);
        vsnprintf((char *)memory, (size_t)count + 1, format, arguments);
        va_end(arguments);
    }
    buffer->count += (size_t)count;
}

static void buffer_add_big_endian(struct buffer *buffer, uint64_t value, unsigned octets)
{
    for (unsigned i = octets; i-- > 0;)
        buffer_add_byte(buffer, (uint8_t)(value >> (8 * i)));
}

void buffer_add_u16(struct buffer *buffer, uint16_t value)
{
    buffer_add_big_endian(buffer, value, 2);
}

void buffer_add_u32(struct buffer *buffer, uint32_t value)
{
    buffer_add_big_endian(buffer, value, 4);
}

void buffer_add_u64(struct buffer *buffer, uint64_t value)
{
    buffer_add_big_endian(buffer, value, 8);
}

void buffer_drop_front(struct buffer *buffer, size_t count)
{
    const size_t dropped = MIN_OF(count, buffer->count);

    if (dropped == 0)
        return;
    buffer->count -= dropped;
    memmove(buffer->at, buffer->at + dropped, buffer->count);
}

struct bytes buffer_view(const struct buffer *buffer)
{
    return (struct bytes){buffer->at, buffer->count};
}

void buffer_clear(struct buffer *buffer)
{
    buffer->count = 0;
    buffer->failed = false;
}

void buffer_free(struct buffer *buffer)
{
    free(buffer->at);
    *buffer = BUFFER_WITH_LIMIT(buffer->limit_bytes);
}
