/*
 * Reading Authentication-Results as a relying party does (RFC 8601 2.2): comments, folding, quoted
 * strings and any case are understood, so that a forged field cannot hide behind its spelling.
 */
#include "auth/auth.h"

struct cursor {
    struct bytes rest;
    bool bad;
};

static uint8_t front(const struct cursor *cursor)
{
    return cursor->rest.count > 0 ? cursor->rest.at[0] : 0;
}

static void step(struct cursor *cursor, size_t count)
{
    cursor->rest = bytes_skip(cursor->rest, count);
}

static void skip_comment(struct cursor *cursor)
{
    unsigned depth = 0;

    while (cursor->rest.count > 0) {
        const uint8_t byte = front(cursor);
        step(cursor, byte == '\\' ? 2 : 1);
        if (byte == '(')
            depth++;
        else if (byte == ')' && --depth == 0)
            return;
    }
    cursor->bad = true;
}

/* Comments and folding white space (RFC 5322 3.2.2). */
static void skip_gap(struct cursor *cursor)
{
    for (;;) {
        const uint8_t byte = front(cursor);
        if (byte == '(')
            skip_comment(cursor);
        else if (byte == ' ' || byte == '\t' || byte == '\r' || byte == '\n')
            step(cursor, 1);
        else
            return;
    }
}

static struct bytes read_quoted(struct cursor *cursor, struct arena *arena)
{
    CLEANUP(buffer_free) struct buffer text = BUFFER_WITH_LIMIT(4096);

    step(cursor, 1);
    while (cursor->rest.count > 0 && front(cursor) != '"') {
        if (front(cursor) == '\\')
            step(cursor, 1);
        if (front(cursor) != '\r' && front(cursor) != '\n')
            buffer_add_byte(&text, front(cursor));
        step(cursor, 1);
    }
    cursor->bad = cursor->bad || cursor->rest.count == 0 || text.failed;
    step(cursor, 1);
    return arena_copy(arena, buffer_view(&text));
}

static bool ends_word(uint8_t byte, bool in_value)
{
    if (byte == ' ' || byte == '\t' || byte == '\r' || byte == '\n' || byte == ';' || byte == '(' ||
        byte == '"')
        return true;
    return !in_value && (byte == '=' || byte == '/');
}

static struct bytes read_word(struct cursor *cursor, struct arena *arena, bool in_value)
{
    size_t end = 0;

    skip_gap(cursor);
    if (front(cursor) == '"')
        return read_quoted(cursor, arena);
    while (end < cursor->rest.count && !ends_word(cursor->rest.at[end], in_value))
        end++;
    const struct bytes word = bytes_slice(cursor->rest, 0, end);
    step(cursor, end);
    return word;
}

static bool take(struct cursor *cursor, uint8_t byte)
{
    skip_gap(cursor);
    if (front(cursor) != byte)
        return false;
    step(cursor, 1);
    return true;
}

/* The id, and the version that may follow it. */
static struct bytes read_id(struct cursor *cursor, struct arena *arena)
{
    const struct bytes id = read_word(cursor, arena, true);

    skip_gap(cursor);
    if (ascii_is_digit(front(cursor)))
        read_word(cursor, arena, true);
    return id;
}

bool authres_claims(struct bytes value, const char *authserv_id)
{
    struct arena arena = ARENA_WITH_LIMIT(64 * KIB);
    struct cursor cursor = {.rest = value};
    struct bytes id = read_id(&cursor, &arena);

    if (id.count > 0 && id.at[id.count - 1] == '.')
        id.count--;
    const bool claims = cursor.bad || arena.failed || bytes_equal_text_nocase(id, authserv_id);
    arena_clear(&arena);
    return claims;
}

/* "reason=..." and properties behind a result: read and passed over. */
static void skip_properties(struct cursor *cursor, struct arena *arena)
{
    for (;;) {
        skip_gap(cursor);
        if (cursor->bad || cursor->rest.count == 0 || front(cursor) == ';')
            return;
        const size_t before = cursor->rest.count;
        read_word(cursor, arena, false);
        if (take(cursor, '='))
            read_word(cursor, arena, true);
        if (cursor->rest.count == before)
            cursor->bad = true;
    }
}

static bool read_result(struct cursor *cursor, struct arena *arena, struct authres_item *item)
{
    item->method = read_word(cursor, arena, false);
    if (item->method.count == 0)
        return false;
    if (take(cursor, '/'))
        read_word(cursor, arena, false);
    if (!take(cursor, '='))
        return bytes_equal_text_nocase(item->method, "none");
    item->result = read_word(cursor, arena, true);
    skip_properties(cursor, arena);
    return item->result.count > 0 && !cursor->bad;
}

bool authres_parse(struct arena *arena, struct bytes value, struct bytes *authserv_id,
                   struct authres_item *items, unsigned *count)
{
    struct cursor cursor = {.rest = value};
    const unsigned room = *count;

    *count = 0;
    *authserv_id = read_id(&cursor, arena);
    while (take(&cursor, ';') && !cursor.bad) {
        struct authres_item item = {0};
        skip_gap(&cursor);
        if (cursor.rest.count == 0)
            break;
        if (!read_result(&cursor, arena, &item))
            return false;
        if (item.result.count > 0 && *count < room)
            items[(*count)++] = item;
    }
    skip_gap(&cursor);
    return !cursor.bad && !arena->failed && cursor.rest.count == 0;
}
