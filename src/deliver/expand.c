/* Mail of our own (notifications) goes where RCPT would have sent it: through the aliases. */
#include "deliver/inside.h"

static struct verdict expand_to(struct arena *arena, struct address address,
                                const struct directory_targets *targets, struct envelope *envelope)
{
    const struct address nobody = {BYTES_EMPTY, BYTES_EMPTY};

    envelope->recipients = ARENA_NEW_ARRAY(arena, targets->count + 1, struct recipient);
    if (!envelope->recipients)
        return verdict_with(CAUSE_LOCAL_FAILED, BYTES_LITERAL("out of memory"));
    for (unsigned i = 0; i < targets->count; i++) {
        const struct directory_target *target = &targets->targets[i];
        if (target->file_or_pipe.count > 0)
            continue;
        const bool same = address_equal(target->address, address);
        envelope->recipients[envelope->recipient_count++] =
            (struct recipient){.address = target->address,
                               .asked = same ? nobody : address,
                               .notify = NOTIFY_NEVER,
                               .deliver = target->deliver};
    }
    if (envelope->recipient_count == 0)
        envelope->recipients[envelope->recipient_count++] =
            (struct recipient){.address = address, .notify = NOTIFY_NEVER};
    return verdict_accept();
}

struct verdict deliver_expand(struct deliver *deliver, struct arena *arena, struct address address,
                              struct envelope *envelope)
{
    struct directory_targets targets = {0};
    struct lookup lookup = lookup_absent();

    envelope->recipient_count = 0;
    if (deliver->directory && config_find_domain(deliver->config, address.domain))
        lookup = directory_expand(deliver->directory, arena, address, &targets);
    switch (lookup.status) {
    case LOOKUP_FOUND:
        break;
    case LOOKUP_ABSENT:
        targets = (struct directory_targets){0};
        break;
    case LOOKUP_FAILED:
        return verdict_with(lookup.reason == LOOKUP_REASON_MISCONFIGURED
                                ? CAUSE_DIRECTORY_MISCONFIGURED
                                : CAUSE_DIRECTORY_UNAVAILABLE,
                            lookup.detail);
    }
    return expand_to(arena, address, &targets, envelope);
}
