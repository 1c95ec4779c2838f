/* Values as a table or a directory of others gives them: who an alias leads to, and how a user's
 * mail is delivered. Nothing of it is a command, a file of this machine or an include. */
#include "directory/source.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct arena arena = ARENA_WITH_LIMIT(16 * MIB);
    const struct bytes text = bytes_of(data, MIN_OF(size, (size_t)65536));
    struct alias_list *list = NULL;
    struct config_deliver way;

    if (alias_values_parse(&arena, text, &list) == NULL && list)
        for (const struct alias_item *item = list->items; item; item = item->next)
            INVARIANT(item->kind != ALIAS_PROGRAM && item->kind != ALIAS_INCLUDE);
    if (user_deliver_check(text) == NULL && config_parse_deliver(text, &way))
        INVARIANT(way.kind != DELIVER_PIPE);
    arena_clear(&arena);
    return 0;
}
