/* table: names to values, filled once and then only read; open addressing in an arena. */
#include "directory/source.h"

bool name_table_open(struct name_table *table, struct arena *arena, size_t most)
{
    size_t room = 16;

    while (room < 2 * most + 2)
        room *= 2;
    *table =
        (struct name_table){.slots = ARENA_NEW_ARRAY(arena, room, struct name_slot), .room = room};
    return table->slots != NULL;
}

/* The slot that holds the name, or the free one where it belongs. */
static struct name_slot *table_slot(const struct name_table *table, struct bytes name)
{
    size_t at = (size_t)bytes_hash_nocase(name) & (table->room - 1);

    while (table->slots[at].value && !bytes_equal_nocase(table->slots[at].name, name))
        at = (at + 1) & (table->room - 1);
    return &table->slots[at];
}

bool name_table_add(struct name_table *table, struct bytes name, void *value)
{
    if (2 * (table->count + 1) > table->room)
        return false;
    struct name_slot *slot = table_slot(table, name);

    if (slot->value)
        return false;
    *slot = (struct name_slot){.name = name, .value = value};
    table->count++;
    return true;
}

void *name_table_find(const struct name_table *table, struct bytes name)
{
    return table->slots ? table_slot(table, name)->value : NULL;
}
