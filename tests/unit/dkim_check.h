/* What the tests of DKIM and ARC share: files with CRLF line ends, verification of a message in memory in pieces. */
#ifndef DKIM_CHECK_H
#define DKIM_CHECK_H

#include <stdlib.h>
#include <string.h>

#include "auth/auth.h"
#include "fake_zone.h"

enum { CHECK_PATH_MAX = 4096 };

static inline const char *shared_path(const char *name, char *into)
{
    const char *shared = getenv("HOLDFAST_SHARED");

    snprintf(into, CHECK_PATH_MAX, "%s/vectors/%s", shared ? shared : "../shared", name);
    return into;
}

/* Bare LF becomes CRLF; what is CRLF stays. */
static inline void add_crlf(struct buffer *into, struct bytes text)
{
    for (size_t i = 0; i < text.count; i++) {
        if (text.at[i] == '\n' && (i == 0 || text.at[i - 1] != '\r'))
            buffer_add_byte(into, '\r');
        buffer_add_byte(into, text.at[i]);
    }
    INVARIANT(!into->failed);
}

static inline bool read_whole(const char *path, struct buffer *into)
{
    uint8_t piece[4096];
    FILE *file = fopen(path, "rb");
    size_t got = 0;

    if (!file)
        return false;
    while ((got = fread(piece, 1, sizeof piece, file)) > 0)
        buffer_add(into, bytes_of(piece, got));
    fclose(file);
    return !into->failed;
}

static inline bool read_message(const char *path, struct buffer *into)
{
    CLEANUP(buffer_free) struct buffer raw = BUFFER_WITH_LIMIT(8 * MIB);

    buffer_clear(into);
    if (!read_whole(path, &raw))
        return false;
    add_crlf(into, buffer_view(&raw));
    return true;
}

/* Everything about one message; the facts live in the arena. */
static inline void verify_in_pieces(struct arena *arena, struct bytes message, size_t piece, struct dkim_report *report,
                                    struct arc_facts *arc)
{
    const struct auth_dns dns = {.arena = arena, .deadline_us = DEADLINE_NEVER};
    struct dkim *dkim = dkim_open(arena);

    INVARIANT(dkim != NULL);
    for (size_t i = 0; i < message.count; i += piece)
        dkim_add(dkim, bytes_slice(message, i, piece));
    dkim_finish(dkim, &dns, report);
    arc_finish(dkim, &dns, arc);
    dkim_close(&dkim);
}

struct memory_source {
    struct bytes message;
};
static inline struct io_result memory_source_read(void *argument, struct span into, uint64_t offset)
{
    const struct memory_source *source = argument;
    const struct bytes part = bytes_slice(source->message, (size_t)offset, into.count);

    if (part.count)
        memcpy(into.at, part.at, part.count);
    return (struct io_result){.status = IO_OK, .count = part.count};
}

#endif
