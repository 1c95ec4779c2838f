/* Several questions at once, one fiber each, on the caller's loop. */
#ifndef RESOLVE_BATCH_H
#define RESOLVE_BATCH_H

#include "resolve/resolve.h"

#define RESOLVE_BATCH_MAX 40

struct resolve_batched {
    struct resolve_question question;
    struct lookup lookup; /* zero is FAILED: a question that was never asked is no answer */
    struct dns_answer answer;
};

/*
 * Asks all of them side by side, so that the whole takes as long as its slowest question. The arena
 * may be shared: the fibers run on one loop and nothing sleeps within an allocation. Sleeps.
 */
void resolve_ask_all(struct resolver *resolver, struct arena *arena,
                     struct resolve_batched *questions, unsigned count);

#endif
