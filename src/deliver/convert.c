/*
 * A message on its way to a host that takes 7-bit mail only: read from the spool and made fit as it
 * is sent (mail/mime7.h), with memory for a piece. It is read twice before: to find out what each
 * part needs, and how long the result is, since SIZE and BDAT say that in advance.
 */
#include "deliver/inside.h"

#include <string.h>

#define CONVERT_PIECE (16 * KIB)
#define CONVERT_ROOM (256 * KIB) /* what a piece may become */

struct converted {
    struct spool_body *body;
    struct mime7 mime7;
    uint8_t *piece;
    struct buffer out;   /* made, and not asked for yet */
    uint64_t from, read; /* offset of its front in the result; of the source */
    uint64_t size;       /* of the result */
    bool ended;
};

/* The next piece of the source through the pass. */
static struct io_result convert_step(struct converted *converted)
{
    const uint64_t size = spool_body_size(converted->body);

    if (converted->read >= size) {
        if (!converted->ended)
            mime7_end(&converted->mime7, &converted->out);
        converted->ended = true;
        return io_ok(0);
    }
    const struct io_result got = spool_body_read(
        converted->body, (struct span){converted->piece, CONVERT_PIECE}, converted->read);
    if (got.status != IO_OK || got.count == 0)
        return got.status == IO_OK ? io_failed(0) : got;
    mime7_add(&converted->mime7, &converted->out, bytes_of(converted->piece, got.count));
    converted->read += got.count;
    return converted->out.failed ? io_failed(0) : io_ok(got.count);
}

static void convert_rewind(struct converted *converted, bool writes)
{
    mime7_begin(&converted->mime7, writes);
    buffer_clear(&converted->out);
    converted->from = converted->read = 0;
    converted->ended = false;
}

/* The whole source through one pass; what it makes is only counted. */
static struct io_result convert_pass(struct converted *converted, bool writes)
{
    convert_rewind(converted, writes);
    converted->size = 0;
    while (!converted->ended) {
        const struct io_result done = convert_step(converted);
        if (done.status != IO_OK)
            return done;
        converted->size += converted->out.count;
        buffer_clear(&converted->out);
    }
    return io_ok(0);
}

static const char *fault_words(enum mime7_fault fault)
{
    switch (fault) {
    case MIME7_HEADER:
        return "the next hop does not offer 8BITMIME, and the header has octets beyond ASCII";
    case MIME7_SIGNED:
        return "the next hop does not offer 8BITMIME, and what is signed must not be converted";
    case MIME7_UNFIT:
        return "the next hop does not offer 8BITMIME, and a part cannot be converted";
    case MIME7_LIMIT:
        return "the next hop does not offer 8BITMIME, and there are too many parts to convert";
    case MIME7_FINE:
    case MIME7_MEMORY:
        break;
    }
    return "out of memory";
}

static struct verdict convert_survey(struct converted *converted)
{
    struct io_result done = convert_pass(converted, false);
    const enum mime7_fault fault = converted->mime7.fault;

    if (done.status == IO_OK && fault == MIME7_FINE)
        done = convert_pass(converted, true);
    if (done.status == IO_CANCELLED)
        return verdict_of(CAUSE_UNDECIDED);
    if (done.status != IO_OK || fault == MIME7_MEMORY)
        return verdict_with(CAUSE_LOCAL_FAILED,
                            BYTES_LITERAL("the stored body could not be converted"));
    if (fault != MIME7_FINE)
        return verdict_with(CAUSE_REMOTE_NO_8BIT, bytes_of_text(fault_words(fault)));
    convert_rewind(converted, true);
    return verdict_accept();
}

struct verdict converted_open(struct spool_body *body, struct converted **converted)
{
    struct converted *opened = calloc(1, sizeof *opened);

    *converted = opened;
    if (opened)
        opened->piece = malloc(CONVERT_PIECE);
    if (!opened || !opened->piece)
        return verdict_with(CAUSE_LOCAL_FAILED, BYTES_LITERAL("out of memory"));
    opened->body = body;
    opened->out = BUFFER_WITH_LIMIT(CONVERT_ROOM + MIME7_HEADER_MOST);
    return convert_survey(opened);
}

uint64_t converted_size(const struct converted *converted)
{
    return converted->size;
}

struct io_result converted_read(void *argument, struct span into, uint64_t offset)
{
    struct converted *converted = argument;

    if (offset < converted->from)
        convert_rewind(converted, true);
    for (;;) {
        const uint64_t end = converted->from + converted->out.count;
        if (offset < end) {
            const size_t skip = (size_t)(offset - converted->from);
            const size_t count = MIN_OF(into.count, converted->out.count - skip);
            memcpy(into.at, converted->out.at + skip, count);
            buffer_drop_front(&converted->out, skip + count);
            converted->from += skip + count;
            return io_ok(count);
        }
        converted->from = end;
        buffer_clear(&converted->out);
        if (converted->ended)
            return io_ok(0);
        const struct io_result done = convert_step(converted);
        if (done.status != IO_OK)
            return done;
    }
}

struct bytes converted_words(const struct converted *converted, struct arena *arena)
{
    return arena_print(arena, "converted to 7 bits: %u part(s) to quoted-printable, %u to base64",
                       converted->mime7.quoted, converted->mime7.base64);
}

void converted_close(struct converted **converted)
{
    if (!*converted)
        return;
    mime7_free(&(*converted)->mime7);
    buffer_free(&(*converted)->out);
    free((*converted)->piece);
    free(*converted);
    *converted = NULL;
}
