/*
 * The message between filters: the original stays where it is, and what a filter changed stands in
 * front of it. Only the commit writes a changed message, once.
 */
#include "policy/filter.h"

#include <string.h>

#define HEADER_MOST (1 * MIB)

/* ------------------------------------------------------------------ reading */

static struct io_result original_read(void *argument, struct span into, uint64_t offset)
{
    struct filtering *filtering = argument;
    const struct message_source *source = &filtering->original.source;
    const struct io_result result = source->read(source->argument, into, offset);

    filtering->source_failed = filtering->source_failed || result.status == IO_FAILED;
    return result;
}

static struct io_result body_read(void *argument, struct span into, uint64_t offset)
{
    const struct filtering *filtering = argument;

    return original_read(argument, into, filtering->body_offset + offset);
}

static struct bytes below_with_end(const struct filtering *filtering)
{
    return buffer_view(&filtering->below);
}

/* The changed header, and behind it the body. */
static struct io_result changed_read(void *argument, struct span into, uint64_t offset)
{
    struct filtering *filtering = argument;
    const struct bytes header = below_with_end(filtering);

    if (offset >= header.count)
        return filtering->body.read(filtering->body.argument, into, offset - header.count);
    const struct bytes piece = bytes_slice(header, (size_t)offset, into.count);
    memcpy(into.at, piece.at, piece.count);
    return io_ok(piece.count);
}

/* ------------------------------------------------------------------ open and close */

/* A message that begins with anything but a field is all body (RFC 5321 6.4 leaves that to us). */
static bool has_fields(struct bytes head)
{
    struct header_walk walk = HEADER_WALK_OF(head);
    struct header_field field;

    return header_next(&walk, &field);
}

/* Splits the original in header and body; `below` keeps the empty line. */
static void split(struct filtering *filtering)
{
    const struct bytes head = filtering->original.head;
    const bool all_body = !has_fields(head) && !bytes_starts_with(head, BYTES_LITERAL("\r\n"));
    const size_t end = all_body ? 0 : header_end(head);
    const uint64_t size = filtering->original.source.size_bytes;

    filtering->header_is_whole = end < head.count || size <= head.count;
    filtering->body_offset = end;
    buffer_add(&filtering->below, bytes_slice(head, 0, end));
    if (all_body || (end == head.count && !bytes_ends_with_nocase(head, BYTES_LITERAL("\r\n\r\n"))))
        buffer_add_text(&filtering->below, "\r\n");
    filtering->body = (struct message_source){body_read, filtering, size > end ? size - end : 0};
}

struct filtering *filtering_open(struct transaction *transaction,
                                 const struct policy_message *message)
{
    struct filtering *filtering = calloc(1, sizeof *filtering);

    filtering_close(transaction->filtering);
    transaction->filtering = filtering;
    transaction->rewrite = (struct message_rewrite){0};
    if (!filtering)
        return NULL;
    filtering->original = *message;
    filtering->above = filtering->below = BUFFER_WITH_LIMIT(HEADER_MOST);
    split(filtering);
    filtering->now = *message;
    filtering->now.source.read = original_read;
    filtering->now.source.argument = filtering;
    return filtering->below.failed ? NULL : filtering;
}

void filtering_close(struct filtering *filtering)
{
    if (!filtering)
        return;
    buffer_free(&filtering->above);
    buffer_free(&filtering->below);
    free(filtering);
}

/* ------------------------------------------------------------------ changes */

struct milter_headers filtering_headers(const struct filtering *filtering)
{
    const struct bytes below = below_with_end(filtering);

    return (struct milter_headers){buffer_view(&filtering->above),
                                   bytes_slice(below, 0, below.count - 2)};
}

/* What is read, and what will be written, is the changed message from now on. */
static void show_changed(struct transaction *transaction, struct filtering *filtering)
{
    const struct bytes header = below_with_end(filtering);

    filtering->changed = true;
    filtering->now.source =
        (struct message_source){changed_read, filtering, header.count + filtering->body.size_bytes};
    filtering->now.head = header;
    transaction->rewrite = (struct message_rewrite){.changed = true,
                                                    .above = buffer_view(&filtering->above),
                                                    .header = header,
                                                    .body = &filtering->body};
}

bool filtering_change(struct transaction *transaction, const struct milter_changes *changes,
                      const struct message_source *body)
{
    struct filtering *filtering = transaction->filtering;
    const struct milter_headers before = filtering_headers(filtering);
    struct buffer above = BUFFER_WITH_LIMIT(HEADER_MOST), below = BUFFER_WITH_LIMIT(HEADER_MOST);

    if (!milter_headers_apply(&before, changes, &above, &below) ||
        (buffer_add_text(&below, "\r\n"), below.failed)) {
        buffer_free(&above);
        buffer_free(&below);
        return false;
    }
    buffer_free(&filtering->above);
    buffer_free(&filtering->below);
    filtering->above = above;
    filtering->below = below;
    if (body)
        filtering->body = *body;
    show_changed(transaction, filtering);
    return true;
}

bool filtering_drop_fields(struct transaction *transaction, const char *prefix)
{
    struct milter_change *first = NULL;
    struct milter_changes changes = {0};
    struct header_walk walk = HEADER_WALK_OF(filtering_headers(transaction->filtering).below);
    struct header_field field;

    while (header_next(&walk, &field)) {
        if (!bytes_starts_with_nocase(field.name, bytes_of_text(prefix)))
            continue;
        struct milter_change *change = ARENA_NEW(transaction->arena, struct milter_change);
        if (!change)
            return false;
        *change = (struct milter_change){
            .next = first, .kind = MILTER_HEADER_CHANGE, .index = 1, .name = field.name};
        first = change;
    }
    changes.first = first;
    return !first || filtering_change(transaction, &changes, NULL);
}

/* ------------------------------------------------------------------ a message from memory */

static struct io_result pattern_read(void *argument, struct span into, uint64_t offset)
{
    const struct bytes whole = *(const struct bytes *)argument;
    const struct bytes piece = bytes_slice(whole, (size_t)offset, into.count);

    for (size_t i = 0; i < piece.count; i++)
        into.at[i] = piece.at[i];
    return io_ok(piece.count);
}

struct message_source filter_pattern(struct bytes *pattern)
{
    return (struct message_source){pattern_read, pattern, pattern->count};
}
