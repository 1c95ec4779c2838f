/*
 * canary: two names that nobody has heard of, one of them below our own host's. A resolver that
 * works says that they do not exist. Their label is new each second, so that no memory on the way
 * can answer for a resolver that is gone, while all who ask within that second share one question.
 */
#include "resolve/batch.h"

enum { CANARIES = 2 };

/* "holdfast-6f1c03d29a5b": nobody's top-level domain. */
static struct bytes canary_label(struct arena *arena, const char *own_name)
{
    const uint64_t second = (uint64_t)clock_wall_us() / US_PER_S;
    const uint64_t mixed =
        (bytes_hash_nocase(bytes_of_text(own_name)) ^ second) * UINT64_C(0x9e3779b97f4a7c15);

    return arena_print(arena, "holdfast-%012llx", (unsigned long long)(mixed >> 16));
}

enum resolver_state resolve_canary(struct resolver *resolver, struct arena *arena,
                                   const char *own_name, struct bytes *words)
{
    const struct bytes label = canary_label(arena, own_name);
    const struct resolve_question question = {.type = DNS_A, .deadline_us = DEADLINE_NEVER};
    struct resolve_batched asked[CANARIES] = {{question, {0}, {0}}, {question, {0}, {0}}};

    *words = BYTES_LITERAL("no descriptor is left to ask with: the limit of open files is reached");
    if (!process_has_descriptor())
        return RESOLVER_STARVED;
    asked[0].question.name = label;
    asked[1].question.name = arena_print(arena, "%.*s.%s", BYTES_PRINT(label), own_name);
    resolve_ask_all(resolver, arena, asked, CANARIES);
    for (unsigned i = 0; i < CANARIES; i++)
        if (asked[i].lookup.status != LOOKUP_FAILED)
            return RESOLVER_ANSWERS;
    if (!process_has_descriptor())
        return RESOLVER_STARVED;
    *words = asked[0].lookup.detail;
    return asked[0].lookup.reason == LOOKUP_REASON_OVERLOADED ? RESOLVER_STARVED : RESOLVER_MUTE;
}
