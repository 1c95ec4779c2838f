/*
 * Applying a milter's changes to a header. Pure. The header is a list of fields in which our own
 * Received has its place, since libmilter's positions count it, though no milter sees it
 * (smfi_insheader); occurrences of a name count what milters see (smfi_chgheader).
 */
#include "wire/milter.h"

enum { FIELDS_MAX = 100000 };

struct field {
    struct field *next;
    bool is_received; /* the place of our own */
    bool is_new;      /* made of a name and a value */
    struct bytes name, value, whole;
};

struct field_list {
    struct arena *arena;
    struct field *first;
    unsigned count;
};

/* `place` is where the pointer to the new field goes. */
static struct field *list_put(struct field_list *list, struct field **place)
{
    struct field *field = list->count < FIELDS_MAX ? ARENA_NEW(list->arena, struct field) : NULL;

    if (!field)
        return NULL;
    list->count++;
    field->next = *place;
    *place = field;
    return field;
}

/* Lines that are no field stay with what stands before them. */
static struct field **list_read(struct field_list *list, struct field **place, struct bytes block)
{
    struct header_walk walk = HEADER_WALK_OF(block);
    struct header_field read;

    while (place && header_next(&walk, &read)) {
        struct field *field = list_put(list, place);
        if (!field)
            return NULL;
        field->name = read.name;
        field->whole = read.whole;
        place = &field->next;
    }
    return place;
}

static bool list_fill(struct field_list *list, const struct milter_headers *headers)
{
    struct field **place = list_read(list, &list->first, headers->above);
    struct field *received = place ? list_put(list, place) : NULL;

    if (!received)
        return false;
    received->is_received = true;
    return list_read(list, &received->next, headers->below) != NULL;
}

/* ------------------------------------------------------------------ one change */

static bool insert(struct field_list *list, struct field **place,
                   const struct milter_change *change)
{
    struct field *field = list_put(list, place);

    if (!field)
        return false;
    field->is_new = true;
    field->name = change->name;
    field->value = change->value;
    return true;
}

static struct field **place_at(struct field_list *list, uint32_t index)
{
    struct field **place = &list->first;

    while (*place && index-- > 0)
        place = &(*place)->next;
    return place;
}

static struct field **place_of(struct field_list *list, struct bytes name, uint32_t index)
{
    struct field **place = &list->first;

    for (; *place; place = &(*place)->next)
        if (!(*place)->is_received && bytes_equal_nocase((*place)->name, name) && --index == 0)
            break;
    return place;
}

/* Beyond the last of that name a change adds; deleting what is not there does nothing. */
static bool change_one(struct field_list *list, const struct milter_change *change)
{
    struct field **place = place_of(list, change->name, change->index);

    if (change->value.count == 0) {
        *place = *place ? (*place)->next : NULL;
        return true;
    }
    if (!*place)
        return insert(list, place, change);
    (*place)->is_new = true;
    (*place)->value = change->value;
    return true;
}

static bool apply(struct field_list *list, const struct milter_change *change)
{
    switch (change->kind) {
    case MILTER_HEADER_ADD:
        return insert(list, place_at(list, UINT32_MAX), change);
    case MILTER_HEADER_INSERT:
        return insert(list, place_at(list, change->index), change);
    case MILTER_HEADER_CHANGE:
        return change_one(list, change);
    case MILTER_RECIPIENT_ADD:
    case MILTER_RECIPIENT_DELETE:
    case MILTER_SENDER_CHANGE:
        break;
    }
    return true;
}

/* ------------------------------------------------------------------ the result */

/* A last line without its end would swallow the next field. */
static void print_whole(struct buffer *into, struct bytes whole)
{
    buffer_add(into, whole);
    if (whole.count > 0 && whole.at[whole.count - 1] != '\n')
        buffer_add_text(into, "\r\n");
}

static void print_field(struct buffer *into, const struct field *field)
{
    if (!field->is_new) {
        print_whole(into, field->whole);
        return;
    }
    buffer_add(into, field->name);
    buffer_add_byte(into, ':');
    buffer_add(into, field->value);
    buffer_add_text(into, "\r\n");
}

bool milter_headers_apply(const struct milter_headers *before, const struct milter_changes *changes,
                          struct buffer *above, struct buffer *below)
{
    struct arena arena = ARENA_WITH_LIMIT(16 * MIB);
    struct field_list list = {.arena = &arena};
    struct buffer *into = above;
    bool fine = list_fill(&list, before);

    for (const struct milter_change *change = changes->first; fine && change; change = change->next)
        fine = apply(&list, change);
    for (const struct field *field = list.first; fine && field; field = field->next) {
        if (field->is_received)
            into = below;
        else
            print_field(into, field);
    }
    arena_clear(&arena);
    return fine && !above->failed && !below->failed;
}
