/*
 * The addresses of a next hop, in the order to try them: a configured endpoint or host, an address
 * literal, or the MX records of the domain (RFC 5321 5.1), without ourselves and what lies behind
 * us.
 */
#include "deliver/inside.h"

#include <string.h>

static void hops_add(struct next_hops *hops, struct next_hop hop)
{
    if (hops->count < DELIVER_HOPS_MAX)
        hops->hops[hops->count++] = hop;
}

static struct endpoint endpoint_of(const struct ip_address *ip, uint16_t port)
{
    return (struct endpoint){.family = ip->family, .ip = *ip, .port = port};
}

struct verdict lookup_fault(struct deliver_channel *channel, enum cause theirs,
                            const struct lookup *lookup)
{
    const struct deliver *deliver = channel->deliver;
    struct bytes words = BYTES_EMPTY;

    if (lookup->reason == LOOKUP_REASON_BOGUS)
        return verdict_with(CAUSE_TLS_POLICY_UNMET, lookup->detail);
    switch (resolve_canary(deliver->resolver, channel->arena, deliver->config->hostname, &words)) {
    case RESOLVER_MUTE:
        return verdict_with(CAUSE_DNS_RESOLVER_FAILED, words);
    case RESOLVER_STARVED:
        return verdict_with(CAUSE_LOCAL_FAILED, words);
    case RESOLVER_ANSWERS:
        break;
    }
    return verdict_with(theirs, lookup->detail);
}

/* A configured host name: its addresses, never its MX records; the families take turns. */
static struct verdict hops_of_host(struct deliver_channel *channel, struct next_hops *hops)
{
    static const enum dns_type TYPES[] = {DNS_AAAA, DNS_A};
    const struct config_deliver *via = channel->to.via;
    struct lookup failed = lookup_absent();
    struct dns_answer answers[COUNT_OF(TYPES)] = {0};
    unsigned most = 0;

    for (unsigned i = 0; i < COUNT_OF(TYPES); i++) {
        const struct lookup lookup = resolve_ask(channel->deliver->resolver, channel->arena,
                                                 via->host, TYPES[i], &answers[i]);
        if (lookup.status == LOOKUP_FAILED)
            failed = lookup;
        if (lookup.status != LOOKUP_FOUND)
            answers[i].count = 0;
        most = MAX_OF(most, answers[i].count);
    }
    for (unsigned r = 0; r < most * COUNT_OF(TYPES); r++) {
        const struct dns_answer *answer = &answers[r % COUNT_OF(TYPES)];
        if (r / COUNT_OF(TYPES) < answer->count)
            hops_add(hops,
                     (struct next_hop){
                         .name = via->host,
                         .at = endpoint_of(&answer->records[r / COUNT_OF(TYPES)].ip, via->port),
                         .canonical = answer->canonical,
                         .named_secure = true,
                         .secure = answer->secure});
    }
    if (hops->count > 0)
        return verdict_accept();
    /* A configured next hop without an address is a mistake of this host's, not of the sender's. */
    return failed.status == LOOKUP_FAILED ? lookup_fault(channel, CAUSE_DNS_MX_TEMPERROR, &failed)
                                          : verdict_of(CAUSE_MAILBOX_MISCONFIGURED);
}

static bool address_is_ours(const struct config *config, const struct endpoint *at)
{
    for (unsigned i = 0; i < config->listen_count; i++) {
        const struct endpoint *listen = &config->listens[i].address;
        if (listen->port == at->port && listen->family == at->family &&
            ip_equal(&listen->ip, &at->ip))
            return true;
    }
    return false;
}

static bool host_is_ours(const struct config *config, const struct mail_host *host)
{
    if (bytes_equal_text_nocase(host->name, config->hostname))
        return true;
    for (unsigned i = 0; i < host->address_count; i++) {
        const struct endpoint at = endpoint_of(&host->addresses[i], config->smtp_port);
        if (address_is_ours(config, &at))
            return true;
    }
    return false;
}

/* Our own preference, or beyond all when we are no MX of the domain. */
static uint32_t own_preference(const struct config *config, const struct mail_hosts *found)
{
    for (unsigned i = 0; i < found->count; i++) {
        if (host_is_ours(config, &found->hosts[i]))
            return found->hosts[i].preference;
    }
    return UINT32_MAX;
}

static int name_compare(struct bytes a, struct bytes b)
{
    for (size_t i = 0; i < a.count && i < b.count; i++) {
        const int by_letter = ascii_lower(a.at[i]) - ascii_lower(b.at[i]);
        if (by_letter != 0)
            return by_letter;
    }
    return a.count < b.count ? -1 : a.count > b.count;
}

static int name_order(const void *a, const void *b)
{
    const struct mail_host *const *one = a, *const *other = b;
    const int by_preference = (int)(*one)->preference - (int)(*other)->preference;

    return by_preference ? by_preference : name_compare((*one)->name, (*other)->name);
}

/* All hosts before us in an order of their own, as those of one preference come shuffled: "<" parts
 * what is less preferred. */
static struct bytes hops_name_set(struct deliver_channel *channel, const struct mail_hosts *found,
                                  uint32_t own)
{
    CLEANUP(buffer_free) struct buffer text = BUFFER_WITH_LIMIT(64 * KIB);
    const struct mail_host **sorted =
        ARENA_NEW_ARRAY(channel->arena, found->count, const struct mail_host *);
    unsigned count = 0;

    for (unsigned i = 0; sorted && i < found->count; i++)
        if (found->hosts[i].preference < own)
            sorted[count++] = &found->hosts[i];
    if (count > 0)
        qsort(sorted, count, sizeof(*sorted), name_order);
    for (unsigned i = 0; i < count; i++) {
        const bool less = i > 0 && sorted[i]->preference > sorted[i - 1]->preference;
        buffer_print(&text, "%s%.*s", i == 0 ? "" : less ? "<" : ",", BYTES_PRINT(sorted[i]->name));
    }
    return text.failed ? BYTES_EMPTY : arena_copy(channel->arena, buffer_view(&text));
}

static struct verdict hops_of_mail_hosts(struct deliver_channel *channel,
                                         const struct mail_hosts *found, struct next_hops *hops)
{
    const struct config *config = channel->deliver->config;
    const uint32_t own = own_preference(config, found);
    struct lookup failed = lookup_absent();
    bool any_before_us = false;

    for (unsigned i = 0; i < found->count; i++) {
        const struct mail_host *host = &found->hosts[i];
        if (host->preference >= own)
            continue; /* RFC 5321 5.1: nobody who would send it back to us */
        any_before_us = true;
        if (host->lookup.status == LOOKUP_FAILED)
            failed = host->lookup;
        for (unsigned a = 0; a < host->address_count; a++)
            hops_add(hops,
                     (struct next_hop){.name = host->name,
                                       .at = endpoint_of(&host->addresses[a], config->smtp_port),
                                       .canonical = host->canonical,
                                       .named_secure = host->named_secure,
                                       .secure = host->secure,
                                       .host = i});
    }
    hops->set = hops_name_set(channel, found, own);
    if (hops->count > 0)
        return verdict_accept();
    if (!any_before_us && own != UINT32_MAX)
        return verdict_of(CAUSE_ROUTE_LOOP);
    return failed.status == LOOKUP_FAILED ? lookup_fault(channel, CAUSE_DNS_MX_TEMPERROR, &failed)
                                          : verdict_of(CAUSE_DESTINATION_NO_ADDRESS);
}

static struct verdict hops_of_domain(struct deliver_channel *channel, struct next_hops *hops)
{
    struct mail_hosts found = {0};
    const struct lookup lookup = resolve_mail_hosts(channel->deliver->resolver, channel->arena,
                                                    bytes_of_text(channel->to.domain), &found);

    switch (lookup.status) {
    case LOOKUP_FAILED:
        return lookup_fault(channel, CAUSE_DNS_MX_TEMPERROR, &lookup);
    case LOOKUP_ABSENT:
        return verdict_of(found.nxdomain ? CAUSE_DESTINATION_UNKNOWN
                                         : CAUSE_DESTINATION_NO_ADDRESS);
    case LOOKUP_FOUND:
        break;
    }
    if (found.null_mx)
        return verdict_of(CAUSE_DESTINATION_NULL_MX);
    return hops_of_mail_hosts(channel, &found, hops);
}

/* "[192.0.2.1]" or "[IPv6:2001:db8::1]" as domain (RFC 5321 4.1.3). */
static struct verdict hops_of_literal(struct deliver_channel *channel, struct next_hops *hops)
{
    const struct config *config = channel->deliver->config;
    const struct bytes domain = bytes_of_text(channel->to.domain);
    struct bytes inner = bytes_slice(domain, 1, domain.count - 2);
    struct ip_address ip;

    if (bytes_starts_with_nocase(inner, BYTES_LITERAL("IPv6:")))
        inner = bytes_skip(inner, 5);
    if (domain.count < 2 || !ip_parse(inner, &ip))
        return verdict_of(CAUSE_DESTINATION_UNKNOWN);
    const struct endpoint at = endpoint_of(&ip, config->smtp_port);
    if (address_is_ours(config, &at))
        return verdict_of(CAUSE_ROUTE_LOOP);
    hops_add(hops, (struct next_hop){.at = at});
    return verdict_accept();
}

struct verdict hops_find(struct deliver_channel *channel, struct next_hops *hops)
{
    const struct config_deliver *via = channel->to.via;

    hops->count = 0;
    hops->set = BYTES_EMPTY;
    if (via && via->endpoint.family != ENDPOINT_NONE) {
        hops_add(hops, (struct next_hop){.at = via->endpoint});
        return verdict_accept();
    }
    if (!via && channel->to.domain[0] == '[')
        return hops_of_literal(channel, hops);
    if (!channel->deliver->resolver)
        return verdict_with(CAUSE_LOCAL_FAILED, BYTES_LITERAL("no resolver"));
    return via ? hops_of_host(channel, hops) : hops_of_domain(channel, hops);
}

void hop_name(const struct next_hop *hop, char *into, size_t room)
{
    char at[ENDPOINT_TEXT_MAX], ip[ENDPOINT_TEXT_MAX];

    if (hop->name.count > 0)
        snprintf(into, room, "%.*s[%s]:%u", BYTES_PRINT(hop->name),
                 ip_print(&hop->at.ip, ip, sizeof(ip)), hop->at.port);
    else
        snprintf(into, room, "%s", endpoint_print(&hop->at, at, sizeof(at)));
}

/* RFC 1047: the host that may have taken the message is the one that can know it again, so no other
 * address races with it. */
void hops_prefer(const struct deliver_channel *channel, struct next_hops *hops)
{
    char name[sizeof(channel->prefer)];

    for (unsigned i = 0; i < hops->count && channel->prefer[0]; i++) {
        struct next_hop hop = hops->hops[i];
        hop_name(&hop, name, sizeof(name));
        if (strcmp(name, channel->prefer) != 0)
            continue;
        hop.alone = true;
        memmove(&hops->hops[1], &hops->hops[0], i * sizeof(hop));
        hops->hops[0] = hop;
        return;
    }
}
