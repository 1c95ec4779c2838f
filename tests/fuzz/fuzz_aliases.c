/* An aliases file: each alias has a value, or the whole fails with a line. Nothing is included. */
#include "directory/source.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct snapshot snapshot = {.arena = ARENA_WITH_LIMIT(16 * MIB),
                                .state = lookup_found(),
                                .file_count = SNAPSHOT_FILES_MAX};

    snapshot.files[0].path = "aliases";
    aliases_parse(&snapshot, bytes_of(data, size));
    INVARIANT(snapshot.state.status != LOOKUP_ABSENT);
    for (size_t i = 0; i < snapshot.names.room; i++) {
        const struct alias_list *list = snapshot.names.slots[i].value;

        INVARIANT(!list || list->items);
    }
    arena_clear(&snapshot.arena);
    return 0;
}
