/*
 * What a milter changes, read from one packet each. Pure. Names and values are made safe to stand
 * in a header: a value cannot begin a field of its own, nor end the header.
 */
#include "wire/milter.h"

/* A field's name: printable, no colon (RFC 5322 3.6.8). */
static bool name_is_valid(struct bytes name)
{
    for (size_t i = 0; i < name.count; i++)
        if (name.at[i] <= ' ' || name.at[i] >= 0x7f || name.at[i] == ':')
            return false;
    return name.count > 0 && name.count <= 512;
}

static void add_without_cr(struct buffer *into, struct bytes line)
{
    for (size_t i = 0; i < line.count; i++)
        if (line.at[i] != '\r')
            buffer_add_byte(into, line.at[i]);
}

/*
 * Lines end in LF here, or CR LF; each but the first has to begin with a blank. Folded lines of
 * blanks alone are left out: some readers take them for the end of the header.
 */
static void add_value(struct buffer *into, struct bytes value)
{
    struct bytes line;

    value = bytes_cut(value, '\n', &line);
    add_without_cr(into, line);
    while (value.count > 0) {
        value = bytes_cut(value, '\n', &line);
        if (bytes_trim(line).count == 0)
            continue;
        buffer_add_text(into, "\r\n");
        if (line.at[0] != ' ' && line.at[0] != '\t')
            buffer_add_byte(into, '\t');
        add_without_cr(into, line);
    }
}

static struct bytes value_of(struct arena *arena, const struct milter *milter, struct bytes value)
{
    CLEANUP(buffer_free) struct buffer text = BUFFER_WITH_LIMIT(MILTER_PACKET_MAX * 2);

    if (value.count == 0)
        return BYTES_EMPTY;
    if (!(milter->steps & MILTER_LEADING_SPACE))
        buffer_add_byte(&text, ' ');
    add_value(&text, value);
    arena->failed = arena->failed || text.failed;
    return arena_copy(arena, buffer_view(&text));
}

/* ------------------------------------------------------------------ the list */

static struct milter_change *change_add(struct arena *arena, struct milter_changes *changes,
                                        enum milter_change_kind kind)
{
    struct milter_change *change =
        changes->count < MILTER_CHANGES_MAX ? ARENA_NEW(arena, struct milter_change) : NULL;

    if (!change)
        return NULL;
    change->kind = kind;
    if (changes->last)
        changes->last->next = change;
    else
        changes->first = change;
    changes->last = change;
    changes->count++;
    return change;
}

static bool header_change(struct arena *arena, const struct milter *milter, struct reader *reader,
                          struct milter_change *change)
{
    if (change->kind != MILTER_HEADER_ADD)
        change->index = reader_u32(reader);
    const struct bytes name = reader_until(reader, 0), value = reader_until(reader, 0);

    change->name = arena_copy(arena, name);
    change->value = value_of(arena, milter, value);
    return name_is_valid(name) && (change->kind != MILTER_HEADER_CHANGE || change->index > 0);
}

static bool path_change(struct arena *arena, struct reader *reader, struct milter_change *change)
{
    const struct bytes path = reader_until(reader, 0);

    change->name = arena_copy(arena, path);
    if (!reader_at_end(reader))
        change->value = arena_copy(arena, reader_until(reader, 0));
    return path.count > 0 || change->kind == MILTER_SENDER_CHANGE;
}

static bool quarantine(struct arena *arena, struct reader *reader, struct milter_changes *changes)
{
    const struct bytes why = reader_until(reader, 0);

    changes->quarantined = true;
    changes->quarantine_why = arena_copy(arena, why);
    return why.count > 0;
}

/* ------------------------------------------------------------------ by kind of packet */

static const struct {
    uint8_t says;
    enum milter_change_kind kind;
    unsigned action;
} KINDS[] = {
    {MILTER_SAYS_ADD_HEADER, MILTER_HEADER_ADD, MILTER_MAY_ADD_HEADERS},
    {MILTER_SAYS_INSERT_HEADER, MILTER_HEADER_INSERT, MILTER_MAY_ADD_HEADERS},
    {MILTER_SAYS_CHANGE_HEADER, MILTER_HEADER_CHANGE, MILTER_MAY_CHANGE_HEADERS},
    {MILTER_SAYS_ADD_RECIPIENT, MILTER_RECIPIENT_ADD, MILTER_MAY_ADD_RECIPIENTS},
    {MILTER_SAYS_ADD_WITH_PARAMETERS, MILTER_RECIPIENT_ADD, MILTER_MAY_ADD_WITH_PARAMETERS},
    {MILTER_SAYS_DELETE_RECIPIENT, MILTER_RECIPIENT_DELETE, MILTER_MAY_DELETE_RECIPIENTS},
    {MILTER_SAYS_CHANGE_SENDER, MILTER_SENDER_CHANGE, MILTER_MAY_CHANGE_SENDER},
};

static bool change_read(struct arena *arena, const struct milter *milter, struct reader *reader,
                        struct milter_change *change)
{
    if (change->kind <= MILTER_HEADER_CHANGE)
        return header_change(arena, milter, reader, change);
    return path_change(arena, reader, change);
}

static enum milter_parsed parsed(struct arena *arena, const struct reader *reader, bool fine,
                                 const char **why)
{
    if (arena->failed)
        *why = "changes too much";
    else if (!fine || reader->failed || !reader_at_end(reader))
        *why = "a malformed change";
    else
        return MILTER_PARSED_CHANGE;
    return MILTER_PARSED_BAD;
}

static enum milter_parsed refused(const char *what, const char **why)
{
    *why = what;
    return MILTER_PARSED_BAD;
}

enum milter_parsed milter_parse_change(struct arena *arena, const struct milter *milter,
                                       const struct milter_packet *packet,
                                       struct milter_changes *changes, const char **why)
{
    struct reader reader = READER_OF(packet->data);

    if (packet->kind == MILTER_SAYS_QUARANTINE) {
        if (!(milter->actions & MILTER_MAY_QUARANTINE))
            return refused("a change that was not agreed upon", why);
        return parsed(arena, &reader, quarantine(arena, &reader, changes), why);
    }
    for (size_t i = 0; i < COUNT_OF(KINDS); i++) {
        if (KINDS[i].says != packet->kind)
            continue;
        if (!(milter->actions & KINDS[i].action))
            return refused("a change that was not agreed upon", why);
        struct milter_change *change = change_add(arena, changes, KINDS[i].kind);
        if (!change)
            return refused("changes too much", why);
        return parsed(arena, &reader, change_read(arena, milter, &reader, change), why);
    }
    return MILTER_PARSED_OTHER;
}
