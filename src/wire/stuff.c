/*
 * The writer of DATA (RFC 5321 4.5.2): whatever the body holds, on the wire every line ends in CR
 * LF, a line's first dot is doubled and no NUL appears, so that even a lax receiver sees one
 * message.
 */
#include "wire/wire.h"

#include <string.h>

enum stuff_state { STUFF_LINE_START = 0, STUFF_IN_LINE, STUFF_AFTER_CR };

static void stuff_byte(struct wire_stuffer *stuffer, struct buffer *into, uint8_t byte)
{
    if (byte == 0)
        return;
    if (byte == '\n' && stuffer->state == STUFF_AFTER_CR) {
        stuffer->state = STUFF_LINE_START; /* the line end was written at the CR */
        return;
    }
    if (byte == '\r' || byte == '\n') {
        buffer_add_text(into, "\r\n");
        stuffer->state = byte == '\r' ? STUFF_AFTER_CR : STUFF_LINE_START;
        return;
    }
    if (byte == '.' && stuffer->state != STUFF_IN_LINE)
        buffer_add_byte(into, '.');
    buffer_add_byte(into, byte);
    stuffer->state = STUFF_IN_LINE;
}

/* How far ahead a line end is looked for, so that a body of bare CRs or LFs costs no square. */
enum { LOOK_AHEAD = 1024 };

/*
 * Length of the front that can go out as it is: whole lines that end well and begin with no dot.
 * The state tells whether the front begins a line.
 */
static size_t clean_length(int state, struct bytes piece)
{
    size_t at = 0;

    while (at < piece.count && state != STUFF_AFTER_CR) {
        const uint8_t *from = piece.at + at;
        const uint8_t *lf = memchr(from, '\n', MIN_OF(piece.count - at, (size_t)LOOK_AHEAD));

        if ((state == STUFF_LINE_START && *from == '.') || !lf || lf == from ||
            memchr(from, '\r', (size_t)(lf - from)) != lf - 1)
            return at;
        at = (size_t)(lf + 1 - piece.at);
        state = STUFF_LINE_START;
    }
    return at;
}

/* Length of the front, within a line, that holds nothing special. */
static size_t plain_length(struct bytes piece)
{
    const struct bytes near = bytes_slice(piece, 0, LOOK_AHEAD);

    return bytes_find_byte(bytes_slice(near, 0, bytes_find_byte(near, '\n')), '\r');
}

static void stuff_without_nul(struct wire_stuffer *stuffer, struct buffer *into, struct bytes piece)
{
    while (piece.count > 0 && !into->failed) {
        const size_t clean = clean_length(stuffer->state, piece);
        const size_t plain =
            clean == 0 && stuffer->state == STUFF_IN_LINE ? plain_length(piece) : 0;

        buffer_add(into, bytes_slice(piece, 0, clean + plain));
        if (clean > 0)
            stuffer->state = STUFF_LINE_START;
        if (clean + plain == 0)
            stuff_byte(stuffer, into, piece.at[0]);
        piece = bytes_skip(piece, MAX_OF(clean + plain, (size_t)1));
    }
}

void wire_stuff(struct wire_stuffer *stuffer, struct buffer *into, struct bytes piece)
{
    while (piece.count > 0) {
        struct bytes without = BYTES_EMPTY;

        piece = bytes_cut(piece, 0, &without);
        stuff_without_nul(stuffer, into, without);
    }
}

void wire_stuff_end(struct wire_stuffer *stuffer, struct buffer *into)
{
    if (stuffer->state == STUFF_IN_LINE)
        buffer_add_text(into, "\r\n");
    buffer_add_text(into, ".\r\n");
    stuffer->state = STUFF_LINE_START;
}
