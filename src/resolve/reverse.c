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

static struct lookup confirm(struct resolver *resolver, struct arena *arena,
                             const struct dns_answer *names, const struct ip_address *ip,
                             struct bytes *name)
{
    struct resolve_question questions[REVERSE_NAMES_MAX];
    const unsigned count = MIN_OF(names->count, (unsigned)REVERSE_NAMES_MAX);
    struct lookup outcome = lookup_absent();

    for (unsigned i = 0; i < count; i++)
        questions[i] = (struct resolve_question){
            .name = names->records[i].name, .type = ip->family == ENDPOINT_IPV4 ? DNS_A : DNS_AAAA};
    resolve_ask_all(resolver, arena, questions, count);
    for (unsigned i = 0; i < count; i++) {
        if (questions[i].lookup.status == LOOKUP_FOUND && answer_holds(&questions[i].answer, ip)) {
            *name = questions[i].name;
            return lookup_found();
        }
        if (questions[i].lookup.status == LOOKUP_FAILED)
            outcome = questions[i].lookup;
    }
    if (outcome.status == LOOKUP_ABSENT)
        outcome.detail = BYTES_LITERAL("the reverse name does not lead back to the address");
    return outcome;
}

struct lookup resolve_reverse(struct resolver *resolver, struct arena *arena,
                              const struct ip_address *ip, struct bytes *name)
{
    char question[128];
    struct dns_answer names;

    *name = BYTES_EMPTY;
    ip_reverse_name(ip, "in-addr.arpa", "ip6.arpa",
                    (struct span){(uint8_t *)question, sizeof question});
    const struct lookup lookup =
        resolve_ask(resolver, arena, bytes_of_text(question), DNS_PTR, &names);

    if (lookup.status != LOOKUP_FOUND)
        return lookup;
    return confirm(resolver, arena, &names, ip, name);
}
