/*
 * aliases: sendmail's /etc/aliases. `name: value, value` with continuation lines that begin with a
 * blank, `#` comments, quoted strings, `\user`, "|command", "/file" and :include:/file. Names
 * ignore case. A malformed line fails the whole file; an included file that cannot be read fails
 * only the aliases that include it.
 */
#include <string.h>

#include "directory/source.h"

enum { INCLUDE_DEPTH_MAX = 4, ALIAS_ITEMS_MAX = 100000 };

/* ------------------------------------------------------------------ items */

struct alias_parser {
    struct arena *arena;
    struct snapshot *snapshot; /* NULL: the values come from a table */
    unsigned depth;            /* of included files */
    unsigned items;
};

static const char *list_read(struct alias_parser *parser, struct alias_list *list,
                             struct bytes values);

/* Removes quotes and the backslashes within them; blanks outside of quotes are an error. */
static const char *item_unquote(struct arena *arena, struct bytes item, struct bytes *plain)
{
    uint8_t *into = arena_take(arena, item.count + 1);
    size_t length = 0;
    bool quoted = false;

    if (!into)
        return "out of memory";
    for (size_t i = 0; i < item.count; i++) {
        if (item.at[i] == '"') {
            quoted = !quoted;
            continue;
        }
        if (!quoted && (item.at[i] == ' ' || item.at[i] == '\t'))
            return "a blank within a value needs quotes";
        if (quoted && item.at[i] == '\\' && i + 1 < item.count)
            i++;
        into[length++] = item.at[i];
    }
    *plain = bytes_of(into, length);
    return quoted ? "a quote is not closed" : NULL;
}

static void list_add(struct alias_list *list, struct alias_item *item)
{
    *list->end = item;
    list->end = &item->next;
}

static struct alias_list *list_new(struct arena *arena, struct bytes name)
{
    struct alias_list *list = ARENA_NEW(arena, struct alias_list);

    if (list) {
        *list = (struct alias_list){.name = name, .state = lookup_found()};
        list->end = &list->items;
    }
    return list;
}

/* An included file has a value or several a line; it may include further ones. Sleeps. */
static struct lookup include_read(struct alias_parser *parser, struct alias_list *list,
                                  struct bytes path)
{
    struct arena *arena = parser->arena;
    const char *name = arena_text(arena, path);
    struct bytes text;

    if (!name || parser->depth == INCLUDE_DEPTH_MAX)
        return lookup_failed(LOOKUP_REASON_MISCONFIGURED, BYTES_LITERAL("includes are too deep"));
    const struct lookup lookup = snapshot_read(parser->snapshot, name, &text);

    if (lookup.status != LOOKUP_FOUND)
        return lookup;
    parser->depth++;
    for (unsigned number = 1; text.count > 0; number++) {
        struct bytes line;

        text = bytes_cut(text, '\n', &line);
        line = bytes_trim(line);
        if (line.count == 0 || line.at[0] == '#')
            continue;
        const char *wrong = list_read(parser, list, line);

        if (wrong) {
            parser->depth--;
            return lookup_failed(LOOKUP_REASON_MISCONFIGURED,
                                 arena_print(arena, "%s:%u: %s", name, number, wrong));
        }
    }
    parser->depth--;
    return lookup;
}

static const char *item_include(struct alias_parser *parser, struct alias_item *item)
{
    const struct bytes path = bytes_skip(item->text, sizeof ":include:" - 1);

    if (!parser->snapshot)
        return "only a file may include a file";
    item->kind = ALIAS_INCLUDE;
    item->list = list_new(parser->arena, path);
    if (!item->list)
        return "out of memory";
    if (path.count == 0 || path.at[0] != '/')
        return "an included file needs a path from the root";
    item->list->state = include_read(parser, item->list, path);
    return NULL;
}

static const char *item_address(struct alias_parser *parser, struct alias_item *item)
{
    struct bytes text = item->text;

    if (text.count > 2 && text.at[0] == '<' && text.at[text.count - 1] == '>')
        text = bytes_slice(text, 1, text.count - 2);
    item->kind = ALIAS_ADDRESS;
    return address_parse(parser->arena, text, &item->address) ? NULL : "this is no address";
}

/* What an unquoted value means, by its first byte. NULL or what is wrong. */
static const char *item_classify(struct alias_parser *parser, struct alias_item *item, bool escaped)
{
    const struct bytes text = item->text;

    if (text.count == 0)
        return "an empty value";
    if (escaped) {
        item->kind = ALIAS_USER;
        return NULL;
    }
    if (bytes_starts_with_nocase(text, BYTES_LITERAL(":include:")))
        return item_include(parser, item);
    if (text.at[0] == '|' || text.at[0] == '/') {
        item->kind = ALIAS_PROGRAM;
        return parser->snapshot ? NULL : "only a file may name a command or a file";
    }
    if (bytes_find_byte(text, '@') < text.count)
        return item_address(parser, item);
    item->kind = ALIAS_NAME;
    return text.at[0] == ':' ? "unknown directive (only :include: is known)" : NULL;
}

static const char *item_read(struct alias_parser *parser, struct alias_list *list,
                             struct bytes text)
{
    struct arena *arena = parser->arena;
    struct alias_item *item = ARENA_NEW(arena, struct alias_item);
    const bool escaped = text.at[0] == '\\';

    if (!item || parser->items++ == ALIAS_ITEMS_MAX)
        return "too many values";
    const char *wrong = item_unquote(arena, bytes_skip(text, escaped), &item->text);

    if (!wrong)
        wrong = item_classify(parser, item, escaped);
    if (!wrong)
        list_add(list, item);
    return wrong;
}

/* Index of the first `stop` outside of quotes, or text.count. */
static size_t find_unquoted(struct bytes text, uint8_t stop)
{
    bool quoted = false;

    for (size_t i = 0; i < text.count; i++) {
        if (text.at[i] == '"')
            quoted = !quoted;
        else if (quoted && text.at[i] == '\\')
            i++;
        else if (!quoted && text.at[i] == stop)
            return i;
    }
    return text.count;
}

static const char *list_read(struct alias_parser *parser, struct alias_list *list,
                             struct bytes values)
{
    while (values.count > 0) {
        const size_t comma = find_unquoted(values, ',');
        const struct bytes value = bytes_trim(bytes_slice(values, 0, comma));

        values = bytes_skip(values, comma + 1);
        if (value.count == 0)
            continue;
        const char *wrong = item_read(parser, list, value);

        if (wrong)
            return wrong;
    }
    return NULL;
}

/* ------------------------------------------------------------------ lines */

/* "name: values"; NULL or what is wrong. */
static const char *entry_read(struct alias_parser *parser, struct bytes entry)
{
    struct arena *arena = parser->arena;
    const size_t colon = find_unquoted(entry, ':');
    struct bytes name;
    const char *wrong = item_unquote(arena, bytes_trim(bytes_slice(entry, 0, colon)), &name);

    if (wrong)
        return wrong;
    if (colon == entry.count || name.count == 0)
        return "an alias is `name: value`";
    struct alias_list *list = list_new(arena, name);

    if (!list)
        return "out of memory";
    wrong = list_read(parser, list, bytes_skip(entry, colon + 1));
    if (!wrong && !list->items)
        wrong = "an alias without values";
    if (!wrong && !name_table_add(&parser->snapshot->names, name, list))
        wrong = "this alias is there twice";
    return wrong;
}

/* An entry gathered from its first line and the continuations. */
struct alias_entry {
    struct buffer text;
    unsigned line;
};

static bool entry_finish(struct alias_parser *parser, struct alias_entry *entry)
{
    struct snapshot *snapshot = parser->snapshot;
    const char *wrong = NULL;

    if (entry->text.failed)
        wrong = "an alias that is too long";
    else if (entry->text.count > 0)
        wrong = entry_read(parser, arena_copy(&snapshot->arena, buffer_view(&entry->text)));
    if (wrong)
        snapshot_malformed(snapshot, entry->line, wrong);
    buffer_clear(&entry->text);
    return !wrong;
}

static bool line_is_comment(struct bytes line)
{
    const struct bytes text = bytes_trim(line);

    return text.count == 0 || text.at[0] == '#';
}

static bool lines_read(struct alias_parser *parser, struct alias_entry *entry, struct bytes text)
{
    for (unsigned number = 1; text.count > 0; number++) {
        struct bytes line;

        text = bytes_cut(text, '\n', &line);
        if (line_is_comment(line))
            continue;
        const bool continues = line.at[0] == ' ' || line.at[0] == '\t';

        if (continues && entry->text.count == 0) {
            snapshot_malformed(parser->snapshot, number, "a continuation of nothing");
            return false;
        }
        if (!continues) {
            if (!entry_finish(parser, entry))
                return false;
            entry->line = number;
        }
        buffer_add(&entry->text, bytes_trim(line));
        buffer_add_byte(&entry->text, ' ');
    }
    return entry_finish(parser, entry);
}

void aliases_parse(struct snapshot *snapshot, struct bytes text)
{
    struct alias_parser parser = {.arena = &snapshot->arena, .snapshot = snapshot};
    struct alias_entry entry = {.text = BUFFER_WITH_LIMIT(4 * MIB)};
    size_t lines = 1;

    for (size_t i = 0; i < text.count; i++)
        lines += text.at[i] == '\n';
    if (memchr(text.count ? text.at : (const uint8_t *)"x", '\0', text.count))
        snapshot_malformed(snapshot, 1, "NUL bytes: this is no text file");
    else if (name_table_open(&snapshot->names, &snapshot->arena, lines))
        lines_read(&parser, &entry, text); /* what is wrong is in the snapshot's state */
    buffer_free(&entry.text);
}

/* ------------------------------------------------------------------ values from elsewhere */

const char *alias_values_parse(struct arena *arena, struct bytes values, struct alias_list **list)
{
    struct alias_parser parser = {.arena = arena};
    const char *wrong = NULL;

    *list = list_new(arena, BYTES_EMPTY);
    if (!*list)
        return "out of memory";
    while (values.count > 0 && !wrong) {
        struct bytes line;

        values = bytes_cut(values, '\n', &line);
        wrong = list_read(&parser, *list, bytes_trim(line));
    }
    return !wrong && !(*list)->items ? "an alias without values" : wrong;
}
