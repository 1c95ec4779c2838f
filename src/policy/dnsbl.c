/*
 * DNS block lists (RFC 5782): is the client's address on one of them?
 *
 * Sleeps: on DNS. Only an answer within 127.0.0.0/8 means listed; 127.255.255.0/24 is how lists say
 * that they will not be asked like this. Fails: a list that cannot be asked stops nobody; it leaves
 * a note, and all lists together have the resolver's patience, so that dead ones do not add up.
 */
#include "policy/inside.h"

/* The list's codes, "127.0.0.2 127.0.0.4"; empty: not listed. */
static struct bytes dnsbl_codes(struct arena *arena, const struct dns_answer *answer)
{
    struct bytes codes = BYTES_EMPTY;

    for (unsigned i = 0; i < answer->count && i < 8; i++) {
        const uint8_t *octets = answer->records[i].ip.octets;

        if (octets[0] == 127 && !(octets[1] == 255 && octets[2] == 255))
            codes = arena_print(arena, "%.*s 127.%u.%u.%u", BYTES_PRINT(codes), octets[1],
                                octets[2], octets[3]);
    }
    return codes;
}

MUST_USE static struct verdict dnsbl_ask(struct policy *policy, struct client_facts *client,
                                         const struct config_dnsbl *list, uint64_t by_us)
{
    char name[512];
    struct dns_answer answer = {0};
    const struct bytes question = bytes_of_text(ip_reverse_name(
        &client->remote.ip, list->name, list->name, (struct span){(uint8_t *)name, sizeof name}));
    struct lookup lookup;

    if (!resolver_is_down(policy, client->arena, &lookup))
        lookup = resolve_ask_by(policy->settings.resolver, client->arena,
                                &(struct resolve_question){question, DNS_A, by_us}, &answer);
    if (lookup.status == LOOKUP_FAILED)
        observe_note(LOG_WARNING, "policy", "dnsbl %s could not be asked: %.*s", list->name,
                     BYTES_PRINT(lookup.detail));
    const struct bytes codes =
        lookup.status == LOOKUP_FOUND ? dnsbl_codes(client->arena, &answer) : BYTES_EMPTY;
    if (codes.count == 0)
        return verdict_accept();
    return verdict_with(CAUSE_DNSBL_LISTED,
                        arena_print(client->arena, "%s:%.*s", list->name, BYTES_PRINT(codes)));
}

struct verdict policy_check_lists(struct policy *policy, struct client_facts *client)
{
    const struct config *config = policy->settings.config;
    const uint64_t by_us =
        config->dnsbl_count > 0 ? resolver_patience_end(policy->settings.resolver) : 0;

    for (unsigned i = 0; i < config->dnsbl_count; i++) {
        const struct config_dnsbl *list = &config->dnsbls[i];

        if (list->mode == CHECK_OFF)
            continue;
        const struct verdict verdict = dnsbl_ask(policy, client, list, by_us);
        if (!verdict_accepts(&verdict) && list->mode == CHECK_ENFORCE)
            return verdict;
        if (!verdict_accepts(&verdict))
            observe_note(LOG_INFO, "policy", "%.*s would have been answered %s",
                         BYTES_PRINT(verdict.detail), cause_name(verdict.cause));
    }
    return verdict_accept();
}
