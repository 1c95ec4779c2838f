/*
 * Canonical forms (RFC 6376 3.4). The body streams: what may turn out to be nothing (blanks at a
 * line's end, empty lines at the body's end, a CR whose LF is in the next piece) is counted, not
 * kept, so a body of any size takes the same memory.
 */
#include "auth/dkim_inside.h"

#include <string.h>

enum { OUT_BYTES = 2048 };

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

static void emit(struct dkim_body *body, struct bytes run)
{
    body->total += run.count;
    body->any = true;
    if (run.count > OUT_BYTES - body->out_count)
        flush(body);
    if (run.count > OUT_BYTES) {
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

/* How many bytes from the front stay as they are. */
#define EACH_OCTET(octet) (UINT64_C(0x0101010101010101) * (octet))
static bool any_is_zero(uint64_t octets)
{
    return ((octets - EACH_OCTET(1)) & ~octets & EACH_OCTET(0x80)) != 0;
}

/* A tab, or two blanks together? Eight octets at a time: every body passes here. */
static bool has_gap(struct bytes text)
{
    size_t i = 0;

    for (; i + 9 <= text.count; i += 8) {
        uint64_t here, next;
        memcpy(&here, text.at + i, sizeof here);
        memcpy(&next, text.at + i + 1, sizeof next);
        if (any_is_zero(here ^ EACH_OCTET('\t')) ||
            any_is_zero((here ^ EACH_OCTET(' ')) | (next ^ EACH_OCTET(' '))))
            return true;
    }
    for (; i < text.count; i++)
        if (text.at[i] == '\t' ||
            (text.at[i] == ' ' && i + 1 < text.count && text.at[i + 1] == ' '))
            return true;
    return false;
}

static size_t plain_run(const struct dkim_body *body, struct bytes rest)
{
    size_t i = 0;

    if (!body->relaxed)
        return bytes_find_byte(rest, '\r');
    const size_t line = bytes_find_byte(rest, '\r');
    const struct bytes text = bytes_slice(rest, 0, line);
    /* Most lines of most mail hold nothing to change. */
    if (line > 0 && line < rest.count && text.at[line - 1] != ' ' && !has_gap(text))
        return line;
    /* Everything that stops a run is at most a blank; few octets of a text are. */
    for (;; i++) {
        while (i < rest.count && rest.at[i] > ' ')
            i++;
        if (i == rest.count || rest.at[i] == '\r' || rest.at[i] == '\t')
            return i;
        if (rest.at[i] == ' ' && (i + 1 == rest.count || rest.at[i + 1] <= ' '))
            return i;
    }
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
        rest = bytes_skip(rest, take_special(body, rest));
        if (body->pending_cr || (body->relaxed && body->pending_blank && rest.count > 0 &&
                                 (rest.at[0] == ' ' || rest.at[0] == '\t')))
            continue;
        const struct bytes run = bytes_slice(rest, 0, plain_run(body, rest));
        if (run.count == 0)
            continue;
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

static void add_name(struct buffer *into, struct bytes name)
{
    name = bytes_trim(name);
    for (size_t i = 0; i < name.count; i++)
        buffer_add_byte(into, ascii_lower(name.at[i]));
    buffer_add_byte(into, ':');
}

/* The value in one line, runs of blanks as one space, none at its ends. */
static bool is_line_end(struct bytes value, size_t i)
{
    return value.at[i] == '\n' ||
           (value.at[i] == '\r' && i + 1 < value.count && value.at[i + 1] == '\n');
}

static void add_value(struct buffer *into, struct bytes value)
{
    bool blank = false, any = false;

    for (size_t i = 0, end; i < value.count; i = end) {
        end = i + 1;
        if (is_line_end(value, i))
            continue;
        if (is_blank(value.at[i])) {
            blank = true;
            continue;
        }
        while (end < value.count && !is_blank(value.at[end]) && !is_line_end(value, end))
            end++;
        if (blank && any)
            buffer_add_byte(into, ' ');
        buffer_add(into, bytes_slice(value, i, end - i));
        blank = false;
        any = true;
    }
}

void dkim_field_canonical(struct buffer *into, struct bytes whole, bool relaxed)
{
    struct bytes name = BYTES_EMPTY;

    if (whole.count > 0 && whole.at[whole.count - 1] == '\n')
        whole.count--;
    if (whole.count > 0 && whole.at[whole.count - 1] == '\r')
        whole.count--;
    if (relaxed) {
        const struct bytes value = bytes_cut(whole, ':', &name);
        add_name(into, name);
        add_value(into, value);
    } else {
        buffer_add(into, whole);
    }
    buffer_add_text(into, "\r\n");
}
