/* The rest of the resolver's seam, for a test with a resolve_ask of its own: no memory, no hurry.
 */
#ifndef TESTS_FAKE_RESOLVER_H
#define TESTS_FAKE_RESOLVER_H

#include "resolve/resolve.h"

struct lookup resolve_ask_by(struct resolver *resolver, struct arena *arena,
                             const struct resolve_question *question, struct dns_answer *answer)
{
    return resolve_ask(resolver, arena, question->name, question->type, answer);
}

uint64_t resolver_patience_end(const struct resolver *resolver UNUSED)
{
    return DEADLINE_NEVER;
}

struct lookup resolve_recall(struct resolver *resolver UNUSED, struct arena *arena UNUSED,
                             struct bytes name UNUSED, enum dns_type type UNUSED,
                             struct dns_answer *answer)
{
    *answer = (struct dns_answer){0};
    return lookup_failed(LOOKUP_REASON_UNAVAILABLE, BYTES_EMPTY);
}

#endif
