/*
 * Buffered input. The buffer goes back to the pool before a wait that begins with nothing pending,
 * so an idle connection holds none; views stay valid until the next call because only a call gives
 * back.
 */
#include "wire/input.h"

#include <string.h>

#include "wire/pool.h"

void wire_input_open(struct wire_input *input, struct stream *stream)
{
    *input = (struct wire_input){.stream = stream};
}

void wire_input_discard(struct wire_input *input)
{
    pool_give(input->buffer);
    input->buffer = NULL;
    input->start = input->end = 0;
}

void wire_input_close(struct wire_input *input)
{
    wire_input_discard(input);
}

bool wire_input_pending(const struct wire_input *input)
{
    return input->start < input->end;
}

struct bytes input_view(const struct wire_input *input)
{
    return input->buffer ? bytes_of(input->buffer + input->start, input->end - input->start)
                         : BYTES_EMPTY;
}

void input_consume(struct wire_input *input, size_t count)
{
    INVARIANT(count <= input->end - input->start);
    input->start += count;
}

enum wire_status wire_status_of(struct io_result result)
{
    switch (result.status) {
    case IO_OK:
        return WIRE_OK;
    case IO_END:
        return WIRE_END;
    case IO_TIMEOUT:
        return WIRE_TIMEOUT;
    case IO_CANCELLED:
        return WIRE_CANCELLED;
    case IO_FAILED:
        return WIRE_FAILED;
    }
    return WIRE_FAILED;
}

/* Waits without a buffer, then takes one. */
static enum wire_status input_wait(struct wire_input *input, uint64_t deadline_us)
{
    wire_input_discard(input);
    const struct io_result ready = stream_wait_readable(input->stream, deadline_us);
    if (ready.status != IO_OK)
        return wire_status_of(ready);
    input->buffer = pool_take();
    return input->buffer ? WIRE_OK : WIRE_FAILED;
}

enum wire_status input_fill(struct wire_input *input, uint64_t deadline_us)
{
    if (!wire_input_pending(input)) {
        const enum wire_status ready = input_wait(input, deadline_us);

        if (ready != WIRE_OK)
            return ready;
    } else if (input->start > 0) {
        memmove(input->buffer, input->buffer + input->start, input->end - input->start);
        input->end -= input->start;
        input->start = 0;
    }
    INVARIANT(input->end < WIRE_BUFFER_BYTES);
    const struct span room = {input->buffer + input->end, WIRE_BUFFER_BYTES - input->end};
    const struct io_result result = stream_read(input->stream, room, deadline_us);
    if (result.status != IO_OK)
        return wire_status_of(result);
    input->end += result.count;
    input->bytes_read += result.count;
    return WIRE_OK;
}

/* ------------------------------------------------------------------ lines */

/* Offset of the true line end's LF at or behind `from`, or count. A lone LF is not one. */
static size_t find_line_end(struct bytes view, size_t from)
{
    while (from < view.count) {
        from += bytes_find_byte(bytes_skip(view, from), '\n');
        if (from < view.count && from > 0 && view.at[from - 1] == '\r')
            return from;
        from += from < view.count;
    }
    return view.count;
}

static bool has_bare_bytes(struct bytes line)
{
    return bytes_find_byte(line, '\n') < line.count || bytes_find_byte(line, '\r') < line.count ||
           bytes_find_byte(line, 0) < line.count;
}

/* The line is over the maximum: drops it up to its true end, holding no more than one byte of it.
 */
static enum wire_status eat_line(struct wire_input *input, uint64_t deadline_us)
{
    for (size_t eaten = 0; eaten < WIRE_ENDLESS_BYTES;) {
        const struct bytes view = input_view(input);
        const size_t end = find_line_end(view, 0);

        if (end < view.count) {
            input_consume(input, end + 1);
            return WIRE_TOO_LONG;
        }
        /* A CR at the end may belong to the line end: it stays. */
        const bool carried = view.count > 0 && view.at[view.count - 1] == '\r';
        input_consume(input, view.count - carried);
        eaten += view.count - carried;
        const enum wire_status filled = input_fill(input, deadline_us);
        if (filled != WIRE_OK)
            return filled;
    }
    wire_input_discard(input);
    return WIRE_END;
}

/* A record of the handshake protocol, version 3.x (RFC 8446 5.1), where a line should begin. */
static bool is_tls_hello(struct bytes view)
{
    return view.count >= 2 && view.at[0] == 0x16 && view.at[1] == 0x03;
}

static enum wire_status take_line(struct wire_input *input, size_t end, struct bytes *line)
{
    const struct bytes whole = bytes_slice(input_view(input), 0, end - 1);

    input_consume(input, end + 1);
    if (whole.count > WIRE_COMMAND_MAX)
        return WIRE_TOO_LONG;
    if (has_bare_bytes(whole))
        return WIRE_MALFORMED;
    *line = whole;
    return WIRE_OK;
}

enum wire_status wire_read_line(struct wire_input *input, uint64_t deadline_us, struct bytes *line)
{
    size_t scanned = 0;

    *line = BYTES_EMPTY;
    for (;;) {
        const struct bytes view = input_view(input);
        const size_t end = find_line_end(view, scanned);

        if (is_tls_hello(view)) {
            *line =
                bytes_slice(view, 0, 2); /* enough to know it by, and the same however it came */
            input_consume(input, view.count);
            return WIRE_OK;
        }
        if (end < view.count)
            return take_line(input, end, line);
        if (view.count > WIRE_COMMAND_MAX + 1)
            return eat_line(input, deadline_us);
        scanned = view.count;
        const enum wire_status filled = input_fill(input, deadline_us);
        if (filled != WIRE_OK)
            return filled;
    }
}

enum wire_status wire_read_raw(struct wire_input *input, size_t most, uint64_t deadline_us,
                               struct bytes *piece)
{
    *piece = BYTES_EMPTY;
    if (most == 0)
        return WIRE_OK;
    if (!wire_input_pending(input)) {
        const enum wire_status filled = input_fill(input, deadline_us);

        if (filled != WIRE_OK)
            return filled;
    }
    *piece = bytes_slice(input_view(input), 0, most);
    input_consume(input, piece->count);
    return WIRE_OK;
}
