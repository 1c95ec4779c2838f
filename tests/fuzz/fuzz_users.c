/* A users file, and one of secrets: a table in which every user is found by name, or a failure with
 * a line. */
#include "directory/source.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct snapshot snapshot = {.arena = ARENA_WITH_LIMIT(16 * MIB), .state = lookup_found()};

    snapshot.files[0].path = "users";
    users_parse(&snapshot, bytes_of(data, size));
    INVARIANT(snapshot.state.status != LOOKUP_ABSENT);
    for (size_t i = 0; i < snapshot.names.room; i++) {
        const struct name_slot *slot = &snapshot.names.slots[i];

        INVARIANT(!slot->value || name_table_find(&snapshot.names, slot->name) == slot->value);
    }
    arena_clear(&snapshot.arena);
    snapshot = (struct snapshot){.arena = ARENA_WITH_LIMIT(16 * MIB), .state = lookup_found()};
    snapshot.files[0].path = "secrets";
    srs_secrets_parse(&snapshot, bytes_of(data, size));
    INVARIANT(snapshot.state.status != LOOKUP_ABSENT);
    arena_clear(&snapshot.arena);
    return 0;
}
