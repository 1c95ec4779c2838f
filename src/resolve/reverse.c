/*
 * reverse: the name of an address, confirmed forward. FOUND only when a PTR name leads back to the
 * address; ABSENT only when every question had an authoritative answer.
 */
#include "resolve/batch.h"

enum { REVERSE_NAMES_MAX = 10 }; /* as RFC 7208 4.6.4 limits "ptr" */

static bool answer_holds(const struct dns_answer *answer, const struct ip_address *ip)
{
    for (unsigned i = 0; i < answer->count; i++)
        if (ip_equal(&answer->records[i].ip, ip))
            return true;
    return false;
}

/* The outcome of one question, or what was last known in its place. */
static struct lookup settle(struct resolver *resolver, struct arena *arena,
                            const struct resolve_question *question, struct lookup lookup,
                            struct dns_answer *answer)
{
    struct dns_answer recalled;

    if (lookup.status != LOOKUP_FAILED || lookup.reason == LOOKUP_REASON_CANCELLED ||
        lookup.reason == LOOKUP_REASON_BOGUS)
        return lookup;
    const struct lookup known =
        resolve_recall(resolver, arena, question->name, question->type, &recalled);

    if (known.status == LOOKUP_FOUND) {
        *answer = recalled;
        return known;
    }
    return lookup;
}

static void ask_forward(struct resolver *resolver, struct arena *arena,
                        const struct dns_answer *names, struct resolve_batched *asked,
                        const struct resolve_question *like)
{
    const unsigned count = MIN_OF(names->count, (unsigned)REVERSE_NAMES_MAX);

    for (unsigned i = 0; i < count; i++) {
        asked[i] = (struct resolve_batched){.question = *like};
        asked[i].question.name = names->records[i].name;
    }
    resolve_ask_all(resolver, arena, asked, count);
    for (unsigned i = 0; i < count; i++)
        asked[i].lookup =
            settle(resolver, arena, &asked[i].question, asked[i].lookup, &asked[i].answer);
}

/* Names that are stale may confirm an address; that they do not says nothing. */
static struct lookup confirm(const struct resolve_batched *asked, const struct dns_answer *names,
                             const struct ip_address *ip, struct bytes *name)
{
    const unsigned count = MIN_OF(names->count, (unsigned)REVERSE_NAMES_MAX);
    struct lookup outcome = lookup_absent();
    bool stale = names->stale;

    for (unsigned i = 0; i < count; i++) {
        if (asked[i].lookup.status == LOOKUP_FOUND && answer_holds(&asked[i].answer, ip)) {
            *name = asked[i].question.name;
            return lookup_found();
        }
        stale = stale || asked[i].answer.stale;
        if (asked[i].lookup.status == LOOKUP_FAILED)
            outcome = asked[i].lookup;
    }
    if (outcome.status == LOOKUP_ABSENT && stale)
        return lookup_failed(LOOKUP_REASON_UNAVAILABLE, BYTES_LITERAL("what is known is too old"));
    if (outcome.status == LOOKUP_ABSENT)
        outcome.detail = BYTES_LITERAL("the reverse name does not lead back to the address");
    return outcome;
}

struct lookup resolve_reverse(struct resolver *resolver, struct arena *arena,
                              const struct ip_address *ip, struct bytes *name)
{
    struct resolve_batched asked[REVERSE_NAMES_MAX];
    struct dns_answer names;
    char text[128];
    struct resolve_question question = {.type = DNS_PTR,
                                        .deadline_us = resolver_patience_end(resolver)};

    *name = BYTES_EMPTY;
    ip_reverse_name(ip, "in-addr.arpa", "ip6.arpa", (struct span){(uint8_t *)text, sizeof text});
    question.name = bytes_of_text(text);
    struct lookup lookup = resolve_ask_by(resolver, arena, &question, &names);

    lookup = settle(resolver, arena, &question, lookup, &names);
    if (lookup.status != LOOKUP_FOUND)
        return lookup;
    question.type = ip->family == ENDPOINT_IPV4 ? DNS_A : DNS_AAAA;
    ask_forward(resolver, arena, &names, asked, &question);
    return confirm(asked, &names, ip, name);
}
