/*
 * mail_hosts: where mail for a domain goes: MX by RFC 5321 5.1, the null MX of RFC 7505, the
 * implicit MX. ABSENT only when every look-up that could have named a host gave an authoritative
 * answer.
 */
#include "resolve/batch.h"

enum { MAIL_HOSTS_MAX = RESOLVE_BATCH_MAX / 2 };

/* ------------------------------------------------------------------ the MX set */

static int host_order(const struct mail_host *a, const struct mail_host *b)
{
    return (a->preference > b->preference) - (a->preference < b->preference);
}

static void host_swap(struct mail_host *a, struct mail_host *b)
{
    const struct mail_host kept = *a;

    *a = *b;
    *b = kept;
}

/* Fisher-Yates, then a stable sort: hosts of one preference share the load (RFC 5321 5.1). */
static void hosts_arrange(struct mail_host *hosts, unsigned count)
{
    for (unsigned i = count; i > 1; i--)
        host_swap(&hosts[i - 1], &hosts[random_u64() % i]);
    for (unsigned i = 1; i < count; i++)
        for (unsigned j = i; j > 0 && host_order(&hosts[j - 1], &hosts[j]) > 0; j--)
            host_swap(&hosts[j - 1], &hosts[j]);
}

static bool hosts_take(struct arena *arena, const struct dns_answer *mx, struct mail_hosts *hosts)
{
    hosts->hosts = ARENA_NEW_ARRAY(arena, mx->count + 1u, struct mail_host);
    if (!hosts->hosts)
        return false;
    for (unsigned i = 0; i < mx->count; i++)
        if (mx->records[i].name.count > 0)
            hosts->hosts[hosts->count++] =
                (struct mail_host){.name = mx->records[i].name,
                                   .preference = mx->records[i].preference,
                                   .named_secure = mx->secure};
    hosts->null_mx = hosts->count == 0;
    hosts_arrange(hosts->hosts, hosts->count);
    hosts->count = MIN_OF(hosts->count, (unsigned)MAIL_HOSTS_MAX);
    return true;
}

static bool hosts_take_implicit(struct arena *arena, struct bytes domain, bool secure,
                                struct mail_hosts *hosts)
{
    hosts->hosts = ARENA_NEW(arena, struct mail_host);
    if (!hosts->hosts)
        return false;
    hosts->hosts[0] = (struct mail_host){.name = arena_copy(arena, domain), .named_secure = secure};
    hosts->count = 1;
    hosts->implicit = true;
    return true;
}

/* ------------------------------------------------------------------ addresses */

/* One answer of each family, interleaved, IPv6 first (RFC 8305 in spirit). */
static void host_take_addresses(struct arena *arena, struct mail_host *host,
                                const struct dns_answer *v6, const struct dns_answer *v4)
{
    host->addresses = ARENA_NEW_ARRAY(arena, v6->count + v4->count + 1u, struct ip_address);
    if (!host->addresses)
        return;
    for (unsigned i = 0; i < MAX_OF(v6->count, v4->count); i++) {
        if (i < v6->count)
            host->addresses[host->address_count++] = v6->records[i].ip;
        if (i < v4->count)
            host->addresses[host->address_count++] = v4->records[i].ip;
    }
}

/* Either family suffices; without any, a failure of one outweighs the other's absence. */
static struct lookup family_lookup(const struct resolve_batched *v6,
                                   const struct resolve_batched *v4)
{
    if (v6->lookup.status == LOOKUP_FOUND || v4->lookup.status == LOOKUP_FOUND)
        return lookup_found();
    if (v6->lookup.status == LOOKUP_FAILED)
        return v6->lookup;
    return v4->lookup;
}

static void hosts_ask(struct resolver *resolver, struct arena *arena, struct mail_hosts *hosts)
{
    struct resolve_batched *questions =
        ARENA_NEW_ARRAY(arena, 2u * hosts->count + 1u, struct resolve_batched);

    if (!questions)
        return; /* the hosts' zeroed look-ups say FAILED */
    for (unsigned i = 0; i < hosts->count; i++) {
        questions[2 * i].question = (struct resolve_question){hosts->hosts[i].name, DNS_AAAA,
                                                              .deadline_us = DEADLINE_NEVER};
        questions[2 * i + 1].question =
            (struct resolve_question){hosts->hosts[i].name, DNS_A, .deadline_us = DEADLINE_NEVER};
    }
    resolve_ask_all(resolver, arena, questions, 2 * hosts->count);
    for (unsigned i = 0; i < hosts->count; i++) {
        struct mail_host *host = &hosts->hosts[i];
        const struct resolve_batched *v6 = &questions[2 * i], *v4 = &questions[2 * i + 1];

        host->lookup = family_lookup(v6, v4);
        host_take_addresses(arena, host, &v6->answer, &v4->answer);
        host->canonical = v4->answer.count > 0 ? v4->answer.canonical : v6->answer.canonical;
        host->secure = host->named_secure && (v6->answer.count == 0 || v6->answer.secure) &&
                       (v4->answer.count == 0 || v4->answer.secure);
    }
}

static struct lookup hosts_lookup(const struct mail_hosts *hosts)
{
    struct lookup worst = lookup_absent();

    for (unsigned i = 0; i < hosts->count; i++) {
        if (hosts->hosts[i].address_count > 0)
            return lookup_found();
        if (hosts->hosts[i].lookup.status != LOOKUP_ABSENT)
            worst = lookup_failed(hosts->hosts[i].lookup.reason, hosts->hosts[i].lookup.detail);
    }
    return worst;
}

struct lookup resolve_mail_hosts(struct resolver *resolver, struct arena *arena,
                                 struct bytes domain, struct mail_hosts *hosts)
{
    struct dns_answer mx;
    const struct lookup lookup = resolve_ask(resolver, arena, domain, DNS_MX, &mx);
    bool taken = false;

    *hosts = (struct mail_hosts){0};
    switch (lookup.status) {
    case LOOKUP_FAILED:
        return lookup;
    case LOOKUP_FOUND:
        taken = hosts_take(arena, &mx, hosts);
        break;
    case LOOKUP_ABSENT:
        hosts->nxdomain = mx.nxdomain;
        if (mx.nxdomain)
            return lookup;
        taken = hosts_take_implicit(arena, domain, mx.secure, hosts);
        break;
    }
    if (!taken)
        return lookup_failed(LOOKUP_REASON_OVERLOADED, BYTES_LITERAL("out of memory"));
    if (hosts->null_mx)
        return lookup_found();
    hosts_ask(resolver, arena, hosts);
    return hosts_lookup(hosts);
}
