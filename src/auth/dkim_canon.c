/*
 * Canonical forms (RFC 6376 3.4). The body streams: what may turn out to be nothing (blanks at a
 * line's end, empty lines at the body's end, a CR whose LF is in the next piece) is counted, not
 * kept, so a body of any size takes the same memory.
 */
#include "auth/dkim_inside.h"

#include <string.h>

enum { OUT_BYTES = 2048, DIRECT_BYTES = 512 };

struct dkim_body {
    bool relaxed;
    bool pending_blank, pending_cr;
    bool any;               /* something was emitted */
    uint64_t pending_lines; /* line ends that count only when something follows */
    uint64_t total;         /* canonical octets */
    struct dkim_body_hash *hashes;
    size_t out_count;
    uint8_t out[OUT_BYTES];
};

static void hash_run(struct dkim_body *body, struct bytes run)
{
    for (struct dkim_body_hash *hash = body->hashes; hash; hash = hash->next) {
        const uint64_t room = hash->limit - hash->hashed;
        const struct bytes part = bytes_slice(run, 0, (size_t)MIN_OF((uint64_t)run.count, room));

        digest_add(hash->digest, part);
        hash->hashed += part.count;
    }
}

static void flush(struct dkim_body *body)
{
    hash_run(body, bytes_of(body->out, body->out_count));
    body->out_count = 0;
}

/* Short runs are gathered, long ones hashed where they lie. */
static void emit(struct dkim_body *body, struct bytes run)
{
    body->total += run.count;
    body->any = true;
    if (run.count > DIRECT_BYTES || run.count > OUT_BYTES - body->out_count)
        flush(body);
    if (run.count > DIRECT_BYTES) {
        hash_run(body, run);
        return;
    }
    if (run.count > 0)
        memcpy(body->out + body->out_count, run.at, run.count);
    body->out_count += run.count;
}

static void emit_pending(struct dkim_body *body)
{
    for (; body->pending_lines > 0; body->pending_lines--)
        emit(body, BYTES_LITERAL("\r\n"));
    if (body->pending_blank)
        emit(body, BYTES_LITERAL(" "));
    body->pending_blank = false;
}

/* A CR that no LF followed is a byte like any other. */
static void settle_cr(struct dkim_body *body)
{
    if (!body->pending_cr)
        return;
    body->pending_cr = false;
    emit_pending(body);
    emit(body, BYTES_LITERAL("\r"));
}

/* Sixteen octets at a time: every body passes here, and few octets of a text are to be changed. */
typedef uint8_t octets __attribute__((vector_size(16)));

static octets load(const uint8_t *at)
{
    octets loaded;

    memcpy(&loaded, at, sizeof loaded);
    return loaded;
}

static bool any(octets mask)
{
    uint64_t halves[2];

    memcpy(halves, &mask, sizeof halves);
    return (halves[0] | halves[1]) != 0;
}

/* Where the relaxed form may differ: at a tab, at a blank with a blank or a line's end behind it,
 * at a CR alone; and at the last octet, if what follows could make it one of these. */
static bool may_change(struct bytes rest, size_t i)
{
    const bool last = i + 1 == rest.count;

    switch (rest.at[i]) {
    case '\t':
        return true;
    case ' ':
        return last || rest.at[i + 1] <= ' ';
    case '\r':
        return last || rest.at[i + 1] != '\n';
    default:
        return false;
    }
}

static size_t relaxed_run(struct bytes rest)
{
    size_t i = 0;

    for (; i + sizeof(octets) < rest.count; i += sizeof(octets)) {
        const octets here = load(rest.at + i), next = load(rest.at + i + 1);
        if (any((octets)((here == '\t') | ((here == ' ') & (next <= ' ')) |
                         ((here == '\r') & (next != '\n')))))
            break;
    }
    while (i < rest.count && !may_change(rest, i))
        i++;
    return i;
}

/* Line ends at the end of the run may turn out to be nothing. */
static size_t without_line_ends(struct bytes run)
{
    if (run.count > 0 && run.at[run.count - 1] == '\r')
        run.count--;
    while (run.count > 1 && run.at[run.count - 1] == '\n' && run.at[run.count - 2] == '\r')
        run.count -= 2;
    return run.count;
}

/* How many octets from the front stay as they are, over any number of lines. At the front is
 * nothing that take_special takes, so it is one at least. */
static size_t plain_run(const struct dkim_body *body, struct bytes rest)
{
    const size_t count = body->relaxed ? relaxed_run(rest) : rest.count;

    return without_line_ends(bytes_slice(rest, 0, count));
}

static size_t take_special(struct dkim_body *body, struct bytes rest)
{
    const uint8_t byte = rest.at[0];

    if (body->pending_cr && byte == '\n') {
        body->pending_cr = false;
        body->pending_blank = false;
        body->pending_lines++;
        return 1;
    }
    settle_cr(body);
    if (byte == '\r')
        body->pending_cr = true;
    else if (body->relaxed && (byte == ' ' || byte == '\t'))
        body->pending_blank = true;
    else
        return 0;
    return 1;
}

static void body_add(struct dkim_body *body, struct bytes rest)
{
    while (rest.count > 0) {
        const size_t special = take_special(body, rest);
        if (special > 0) {
            rest = bytes_skip(rest, special);
            continue;
        }
        const struct bytes run = bytes_slice(rest, 0, plain_run(body, rest));
        emit_pending(body);
        emit(body, run);
        rest = bytes_skip(rest, run.count);
    }
}

/* Empty lines at the end go; what is left ends in one CRLF; an empty body is CRLF in the simple
 * form and nothing in the relaxed one. */
static void body_finish(struct dkim_body *body)
{
    settle_cr(body);
    body->pending_lines = 0;
    body->pending_blank = false;
    if (body->any || !body->relaxed)
        emit(body, BYTES_LITERAL("\r\n"));
    flush(body);
    for (struct dkim_body_hash *hash = body->hashes; hash; hash = hash->next)
        hash->done = digest_finish(hash->digest, (struct span){hash->value, DKIM_HASH_OCTETS}) ==
                     DKIM_HASH_OCTETS;
}

struct dkim_body_hash *dkim_bodies_want(struct dkim_bodies *bodies, struct arena *arena,
                                        bool relaxed, uint64_t limit)
{
    struct dkim_body **body = relaxed ? &bodies->relaxed : &bodies->simple;

    if (!*body)
        *body = ARENA_NEW(arena, struct dkim_body);
    if (!*body)
        return NULL;
    (*body)->relaxed = relaxed;
    for (struct dkim_body_hash *hash = (*body)->hashes; hash; hash = hash->next)
        if (hash->limit == limit)
            return hash;
    struct dkim_body_hash *hash = ARENA_NEW(arena, struct dkim_body_hash);
    if (!hash || !(hash->digest = digest_open(DIGEST_SHA256)))
        return NULL;
    hash->limit = limit;
    hash->next = (*body)->hashes;
    (*body)->hashes = hash;
    return hash;
}

void dkim_bodies_add(struct dkim_bodies *bodies, struct bytes piece)
{
    if (bodies->simple)
        body_add(bodies->simple, piece);
    if (bodies->relaxed)
        body_add(bodies->relaxed, piece);
}

void dkim_bodies_finish(struct dkim_bodies *bodies)
{
    if (bodies->simple)
        body_finish(bodies->simple);
    if (bodies->relaxed)
        body_finish(bodies->relaxed);
}

uint64_t dkim_bodies_total(const struct dkim_bodies *bodies, bool relaxed)
{
    const struct dkim_body *body = relaxed ? bodies->relaxed : bodies->simple;

    return body ? body->total : 0;
}

static void body_close(struct dkim_body *body)
{
    for (struct dkim_body_hash *hash = body ? body->hashes : NULL; hash; hash = hash->next)
        digest_close(&hash->digest);
}

void dkim_bodies_close(struct dkim_bodies *bodies)
{
    body_close(bodies->simple);
    body_close(bodies->relaxed);
    *bodies = (struct dkim_bodies){0};
}

/* ------------------------------------------------------------------ header fields */

static bool is_blank(uint8_t byte)
{
    return byte == ' ' || byte == '\t';
}

static bool is_line_end(struct bytes value, size_t i)
{
    return value.at[i] == '\n' ||
           (value.at[i] == '\r' && i + 1 < value.count && value.at[i + 1] == '\n');
}

static size_t put_name(uint8_t *into, struct bytes name)
{
    name = bytes_trim(name);
    for (size_t i = 0; i < name.count; i++)
        into[i] = ascii_lower(name.at[i]);
    into[name.count] = ':';
    return name.count + 1;
}

/* The value in one line, runs of blanks as one space, none at its ends. */
static size_t put_value(uint8_t *into, struct bytes value)
{
    bool blank = false;
    size_t count = 0;

    for (size_t i = 0; i < value.count; i++) {
        const uint8_t octet = value.at[i];
        if (octet <= ' ' && is_line_end(value, i))
            continue;
        if (octet <= ' ' && is_blank(octet)) {
            blank = count > 0;
            continue;
        }
        if (blank)
            into[count++] = ' ';
        into[count++] = octet;
        blank = false;
    }
    return count;
}

static size_t put_relaxed(uint8_t *into, struct bytes field)
{
    struct bytes name = BYTES_EMPTY;
    const struct bytes value = bytes_cut(field, ':', &name);
    const size_t count = put_name(into, name);

    return count + put_value(into + count, value);
}

void dkim_field_canonical(struct buffer *into, struct bytes whole, bool relaxed)
{
    if (whole.count > 0 && whole.at[whole.count - 1] == '\n')
        whole.count--;
    if (whole.count > 0 && whole.at[whole.count - 1] == '\r')
        whole.count--;
    if (relaxed) {
        /* No longer than it was, but for a colon that was not there. */
        uint8_t *room = buffer_reserve(into, whole.count + 1);
        if (room)
            buffer_claim(into, put_relaxed(room, whole));
    } else {
        buffer_add(into, whole);
    }
    buffer_add_text(into, "\r\n");
}
