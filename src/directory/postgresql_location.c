/*
 * postgresql_location: the setting of a PostgreSQL source: what is ours of it, and the query whose
 * :address, :local and :domain become bound parameters. Pure.
 */
#include <string.h>

#include "directory/remote.h"

/* ------------------------------------------------------------------ the query */

static const char *const NAMES[3] = {"address", "local", "domain"};

/* Length of the parameter's name behind a colon, or 0: neither "::text" nor an unknown word. */
static size_t parameter_at(struct bytes rest, size_t *which)
{
    for (size_t i = 0; i < COUNT_OF(NAMES); i++) {
        const struct bytes name = bytes_of_text(NAMES[i]);
        const struct bytes after = bytes_skip(rest, name.count);

        if (!bytes_starts_with(rest, name))
            continue;
        if (after.count > 0 && (ascii_is_alnum(after.at[0]) || after.at[0] == '_'))
            continue;
        *which = i;
        return name.count;
    }
    return 0;
}

/* Copies what is quoted ('...' or "...") from its opening on; returns its length. */
static size_t copy_quoted(struct buffer *into, struct bytes rest)
{
    size_t end = 1;

    while (end < rest.count && rest.at[end] != rest.at[0])
        end++;
    end = MIN_OF(end + 1, rest.count);
    buffer_add(into, bytes_slice(rest, 0, end));
    return end;
}

static void translate(struct buffer *into, struct bytes query, bool *uses)
{
    size_t at = 0;

    while (at < query.count) {
        const struct bytes rest = bytes_skip(query, at);
        const bool doubled = at > 0 && query.at[at - 1] == ':';
        size_t which = 0, name = 0;

        if (rest.at[0] == '\'' || rest.at[0] == '"') {
            at += copy_quoted(into, rest);
            continue;
        }
        if (rest.at[0] == ':' && !doubled)
            name = parameter_at(bytes_skip(rest, 1), &which);
        if (name > 0) {
            buffer_print(into, "$%zu", which + 1);
            uses[which] = true;
            at += 1 + name;
            continue;
        }
        buffer_add_byte(into, rest.at[0]);
        at++;
    }
}

static const char *query_read(struct arena *arena, struct bytes query,
                              struct postgresql_location *location)
{
    struct buffer text = BUFFER_WITH_LIMIT(REMOTE_QUERY_MAX);

    translate(&text, query, location->uses);
    location->query = text.failed ? NULL : arena_text(arena, buffer_view(&text));
    buffer_free(&text);
    if (!location->query || query.count == 0)
        return "bad query";
    if (!location->uses[0] && !location->uses[1])
        return "the query needs :address or :local";
    return NULL;
}

static const char *table_read(struct arena *arena, struct bytes table, bool of_aliases,
                              struct postgresql_location *location)
{
    if (!table_name_is_fine(table))
        return "a table's name has letters, digits and _ only";
    return query_read(arena,
                      arena_print(arena,
                                  "SELECT * FROM \"%.*s\" WHERE lower(address) = :address LIMIT %d",
                                  BYTES_PRINT(table), of_aliases ? 1001 : 1),
                      location);
}

/* ------------------------------------------------------------------ the URI */

/* What is neither table= nor query= goes on to libpq, as it stands. */
static const char *option_read(struct arena *arena, struct bytes option, struct bytes *ours,
                               struct buffer *uri)
{
    const bool table = bytes_starts_with(option, BYTES_LITERAL("table="));

    if (!table && !bytes_starts_with(option, BYTES_LITERAL("query="))) {
        buffer_add_byte(uri, bytes_find_byte(buffer_view(uri), '?') < uri->count ? '&' : '?');
        buffer_add(uri, option);
        return NULL;
    }
    if (!percent_decode(arena, bytes_skip(option, 6), &ours[table ? 0 : 1]))
        return "a percent sign is followed by two hexadecimal digits";
    return NULL;
}

static const char *uri_read(struct arena *arena, struct bytes text, struct bytes *ours,
                            struct buffer *uri)
{
    struct bytes front;
    struct bytes options = bytes_cut(text, '?', &front);
    const char *wrong = NULL;

    buffer_add(uri, front);
    while (options.count > 0 && !wrong) {
        struct bytes option;

        options = bytes_cut(options, '&', &option);
        if (option.count > 0)
            wrong = option_read(arena, option, ours, uri);
    }
    return wrong;
}

const char *postgresql_location_read(struct arena *arena, struct bytes text, bool of_aliases,
                                     struct postgresql_location *location)
{
    struct buffer uri = BUFFER_WITH_LIMIT(REMOTE_QUERY_MAX);
    struct bytes ours[2] = {{0}}; /* table, query */

    *location = (struct postgresql_location){0};
    if (!bytes_starts_with(text, BYTES_LITERAL("postgresql://")) ||
        (text.count && memchr(text.at, 0, text.count)))
        return "it has to be postgresql://USER@HOST:PORT/DATABASE?table=NAME (or ?query=...)";
    const char *wrong = uri_read(arena, text, ours, &uri);

    location->uri = uri.failed ? NULL : arena_text(arena, buffer_view(&uri));
    buffer_free(&uri);
    if (!wrong && !location->uri)
        wrong = "the URI is too long";
    if (!wrong && ours[1].count > 0)
        wrong = query_read(arena, ours[1], location);
    else if (!wrong)
        wrong = table_read(arena,
                           ours[0].count ? ours[0]
                           : of_aliases  ? BYTES_LITERAL("aliases")
                                         : BYTES_LITERAL("users"),
                           of_aliases, location);
    return arena->failed ? "out of memory" : wrong;
}
