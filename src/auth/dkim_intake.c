/*
 * The message as it arrives: the header is kept up to a bound and indexed once, the body goes
 * through the canonical forms and is gone.
 */
#include "auth/dkim_inside.h"

#include <string.h>

static bool last_line_is_empty(const struct dkim_intake *intake)
{
    const struct bytes line = bytes_skip(buffer_view(&intake->head), intake->line_start);

    return bytes_equal(line, BYTES_LITERAL("\r\n")) || bytes_equal(line, BYTES_LITERAL("\n"));
}

struct bytes dkim_intake_head(struct dkim_intake *intake, struct bytes piece)
{
    while (piece.count > 0 && !intake->head_done) {
        const size_t end = bytes_find_byte(piece, '\n');
        const bool whole = end < piece.count;
        const struct bytes line = bytes_slice(piece, 0, whole ? end + 1 : end);

        if (intake->head.count + line.count > intake->head.limit_bytes)
            intake->too_big = true;
        else
            buffer_add(&intake->head, line);
        piece = bytes_skip(piece, line.count);
        intake->head_done =
            intake->too_big || intake->head.failed || (whole && last_line_is_empty(intake));
        if (whole)
            intake->line_start = intake->head.count;
    }
    return piece;
}

void dkim_intake_close(struct dkim_intake *intake)
{
    buffer_free(&intake->head);
    dkim_bodies_close(&intake->bodies);
}

/* A field has at least one line. */
static unsigned count_lines(struct bytes head)
{
    unsigned count = 0;

    while (count <= DKIM_FIELDS_MAX && head.count > 0) {
        head = bytes_skip(head, bytes_find_byte(head, '\n') + 1);
        count++;
    }
    return MIN_OF(count, (unsigned)DKIM_FIELDS_MAX);
}

enum dkim_index_result dkim_fields_index(struct arena *arena, struct bytes head,
                                         struct dkim_fields *fields)
{
    struct header_walk walk = HEADER_WALK_OF(head);
    struct header_field field;
    const unsigned most = count_lines(head);

    *fields = (struct dkim_fields){0};
    fields->fields = ARENA_NEW_ARRAY(arena, most + 1, struct header_field);
    fields->hashes = ARENA_NEW_ARRAY(arena, most + 1, uint64_t);
    fields->used = ARENA_NEW_ARRAY(arena, most + 1, bool);
    if (!fields->fields || !fields->hashes || !fields->used)
        return DKIM_INDEX_NO_MEMORY;
    while (header_next(&walk, &field)) {
        if (fields->count == most)
            return DKIM_INDEX_TOO_MANY;
        fields->fields[fields->count] = field;
        fields->hashes[fields->count++] = bytes_hash_nocase(field.name);
        fields->from_count += bytes_equal_text_nocase(field.name, "from");
    }
    return DKIM_INDEX_DONE;
}

/* ------------------------------------------------------------------ hashes over the header */

bool dkim_head_hash_open(struct dkim_head_hash *hash, bool relaxed)
{
    *hash = (struct dkim_head_hash){.digest = digest_open(DIGEST_SHA256),
                                    .scratch = BUFFER_WITH_LIMIT(2 * DKIM_HEAD_MAX_BYTES),
                                    .relaxed = relaxed};
    return hash->digest != NULL;
}

void dkim_head_hash_add(struct dkim_head_hash *hash, struct bytes whole)
{
    buffer_clear(&hash->scratch);
    dkim_field_canonical(&hash->scratch, whole, hash->relaxed);
    hash->failed |= hash->scratch.failed;
    digest_add(hash->digest, buffer_view(&hash->scratch));
}

void dkim_head_hash_add_last(struct dkim_head_hash *hash, struct bytes whole, struct bytes raw_b)
{
    CLEANUP(buffer_free) struct buffer emptied = BUFFER_WITH_LIMIT(2 * DKIM_HEAD_MAX_BYTES);
    const size_t before = (size_t)(raw_b.at - whole.at);

    buffer_add(&emptied, bytes_slice(whole, 0, before));
    buffer_add(&emptied, bytes_skip(whole, before + raw_b.count));
    buffer_clear(&hash->scratch);
    dkim_field_canonical(&hash->scratch, buffer_view(&emptied), hash->relaxed);
    hash->failed |= hash->scratch.failed || emptied.failed;
    if (!hash->failed)
        hash->scratch.count -= 2; /* the CRLF that every canonical field ends in */
    digest_add(hash->digest, buffer_view(&hash->scratch));
}

/* The lowest field of that name that was not taken yet; fields->count when there is none. */
static unsigned find_lowest(const struct dkim_fields *fields, struct bytes name, unsigned except)
{
    const uint64_t wanted = bytes_hash_nocase(name);

    for (unsigned i = fields->count; i-- > 0;)
        if (fields->hashes[i] == wanted && !fields->used[i] && i != except &&
            bytes_equal_nocase(fields->fields[i].name, name))
            return i;
    return fields->count;
}

void dkim_head_hash_add_named(struct dkim_head_hash *hash, const struct dkim_fields *fields,
                              struct bytes names, unsigned except)
{
    memset(fields->used, 0, fields->count * sizeof *fields->used);
    while (names.count > 0) {
        struct bytes name = BYTES_EMPTY;
        names = bytes_cut(names, ':', &name);
        const unsigned found = find_lowest(fields, bytes_trim(name), except);
        if (found == fields->count)
            continue;
        fields->used[found] = true;
        dkim_head_hash_add(hash, fields->fields[found].whole);
    }
}

bool dkim_head_hash_finish(struct dkim_head_hash *hash, uint8_t value[DKIM_HASH_OCTETS])
{
    return !hash->failed &&
           digest_finish(hash->digest, (struct span){value, DKIM_HASH_OCTETS}) == DKIM_HASH_OCTETS;
}

void dkim_head_hash_close(struct dkim_head_hash *hash)
{
    digest_close(&hash->digest);
    buffer_free(&hash->scratch);
}
