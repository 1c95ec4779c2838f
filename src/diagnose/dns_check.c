/*
 * `dns check`: one domain's records as receivers and senders see them. The parts fill the answer's
 * members; here are the hosts that take its mail and the addresses that send it.
 */
#include <string.h>

#include "diagnose/dns_inside.h"

struct bytes dns_number(struct arena *arena, uint64_t number)
{
    return arena_print(arena, "%llu", (unsigned long long)number);
}

enum lookup_status dns_check_ask(struct dns_check *check, struct bytes name, enum dns_type type,
                                 struct dns_answer *answer)
{
    struct lookup lookup = lookup_failed(LOOKUP_REASON_TIMEOUT, BYTES_EMPTY);

    *answer = (struct dns_answer){0};
    if (clock_now_us() < check->request->deadline_us)
        lookup = resolve_ask(check->request->resolver, check->arena, name, type, answer);
    if (lookup.status == LOOKUP_FAILED)
        dns_find(&check->findings, FINDING_DNS_LOOKUP_FAILED, name,
                 arena_print(check->arena, "%s%s%.*s", lookup_reason_name(lookup.reason),
                             lookup.detail.count > 0 ? ", " : "", BYTES_PRINT(lookup.detail)));
    return lookup.status;
}

/* ------------------------------------------------------------------ MX (RFC 5321 5.1, RFC 7505) */

bool dns_check_is_private(const struct ip_address *ip)
{
    static const char *const networks[] = {
        "0.0.0.0/8",     "10.0.0.0/8",     "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16",
        "172.16.0.0/12", "192.168.0.0/16", "::1/128",       "fc00::/7",    "fe80::/10"};
    struct ip_network network;

    for (size_t i = 0; i < COUNT_OF(networks); i++)
        if (ip_network_parse(bytes_of_text(networks[i]), &network) &&
            ip_network_contains(&network, ip))
            return true;
    return false;
}

static unsigned add_addresses(struct dns_check *check, struct bytes host, enum dns_type type,
                              json_t *list)
{
    struct dns_answer answer;
    char text[ENDPOINT_TEXT_MAX];

    if (dns_check_ask(check, host, type, &answer) == LOOKUP_FAILED)
        return 1; /* not known, so not "none" */
    for (unsigned i = 0; i < answer.count; i++) {
        ip_print(&answer.records[i].ip, text, sizeof text);
        json_array_append_new(list, json_string(text));
        if (dns_check_is_private(&answer.records[i].ip))
            dns_find(&check->findings, FINDING_MX_PRIVATE, host, bytes_of_text(text));
    }
    return answer.count;
}

static unsigned add_host(struct dns_check *check, struct bytes host, unsigned preference)
{
    json_t *addresses = json_array();
    struct dns_answer alias;
    struct ip_address literal;
    unsigned count = 0;
    const bool is_literal = ip_parse(host, &literal);

    const bool is_alias =
        !is_literal && dns_check_ask(check, host, DNS_CNAME, &alias) == LOOKUP_FOUND;
    if (!is_literal)
        count = add_addresses(check, host, DNS_AAAA, addresses) +
                add_addresses(check, host, DNS_A, addresses);
    json_array_append_new(json_object_get(check->answer, "mx"),
                          json_pack("{s:i, s:o, s:o, s:b}", "preference", (int)preference, "host",
                                    diagnose_text(host), "addresses", addresses, "alias",
                                    is_alias));
    if (is_alias)
        dns_find(&check->findings, FINDING_MX_CNAME, check->request->domain, host);
    if (is_literal)
        dns_find(&check->findings, FINDING_MX_ADDRESS_LITERAL, check->request->domain, host);
    return is_literal ? 1 : count;
}

/* Without an MX the domain's own address takes the mail. */
static void take_implicit(struct dns_check *check, bool nxdomain)
{
    struct dns_answer ipv4, ipv6;
    const struct bytes domain = check->request->domain;

    if (nxdomain) {
        dns_find(&check->findings, FINDING_DOMAIN_MISSING, domain, BYTES_EMPTY);
        return;
    }
    const bool none = dns_check_ask(check, domain, DNS_A, &ipv4) == LOOKUP_ABSENT &&
                      dns_check_ask(check, domain, DNS_AAAA, &ipv6) == LOOKUP_ABSENT;
    dns_find(&check->findings, none ? FINDING_MX_NONE : FINDING_MX_IMPLICIT, domain, BYTES_EMPTY);
    if (!none)
        add_host(check, domain, 0);
}

static int order_of_hosts(const void *a, const void *b)
{
    const struct dns_record *one = a, *other = b;

    if (one->preference != other->preference)
        return one->preference < other->preference ? -1 : 1;
    return bytes_compare(one->name, other->name);
}

static void take_hosts(struct dns_check *check, const struct dns_answer *mx)
{
    const struct bytes domain = check->request->domain;
    unsigned nulls = 0;

    qsort(mx->records, mx->count, sizeof *mx->records, order_of_hosts);
    for (unsigned i = 0; i < mx->count; i++)
        nulls += mx->records[i].name.count == 0;
    check->null_mx = nulls == mx->count;
    if (check->null_mx)
        dns_find(&check->findings, FINDING_MX_NULL, domain, BYTES_EMPTY);
    else if (nulls > 0)
        dns_find(&check->findings, FINDING_MX_NULL_MIXED, domain, BYTES_EMPTY);
    for (unsigned i = 0; i < mx->count; i++) {
        const struct bytes host = mx->records[i].name;
        if (host.count > 0 && add_host(check, host, mx->records[i].preference) == 0)
            dns_find(&check->findings, FINDING_MX_NO_ADDRESS, domain, host);
    }
}

void dns_check_mx(struct dns_check *check)
{
    struct dns_answer mx;

    json_object_set_new(check->answer, "mx", json_array());
    switch (dns_check_ask(check, check->request->domain, DNS_MX, &mx)) {
    case LOOKUP_FOUND:
        take_hosts(check, &mx);
        break;
    case LOOKUP_ABSENT:
        take_implicit(check, mx.nxdomain);
        break;
    case LOOKUP_FAILED:
        break;
    }
}

/* ------------------------------------------------------------------ PTR */

/* Three octets of the address in its name: "host-192-0-2-1.isp.example". */
static bool looks_generic(struct bytes name, const struct ip_address *ip)
{
    unsigned hits = 0;

    if (ip->family != ENDPOINT_IPV4)
        return false;
    for (size_t at = 0; at < name.count;) {
        size_t end = at;
        uint64_t value = 0;
        while (end < name.count && ascii_is_digit(name.at[end]))
            end++;
        if (bytes_to_u64(bytes_slice(name, at, end - at), &value))
            for (unsigned i = 0; i < 4; i++)
                if (value == ip->octets[i]) {
                    hits++;
                    break;
                }
        at = end + 1;
    }
    return hits >= 3;
}

static void check_address(struct dns_check *check, const struct ip_address *ip)
{
    char text[ENDPOINT_TEXT_MAX], question[ENDPOINT_TEXT_MAX];
    struct bytes name = BYTES_EMPTY;
    struct dns_answer names;

    ip_print(ip, text, sizeof text);
    ip_reverse_name(ip, "in-addr.arpa", "ip6.arpa",
                    (struct span){(uint8_t *)question, sizeof question});
    const struct bytes reverse = arena_copy(check->arena, bytes_of_text(question));
    const enum lookup_status status = dns_check_ask(check, reverse, DNS_PTR, &names);
    if (status == LOOKUP_ABSENT)
        dns_find(&check->findings, FINDING_PTR_MISSING, reverse, bytes_of_text(text));
    if (status != LOOKUP_FOUND)
        return;
    const struct lookup confirmed =
        resolve_reverse(check->request->resolver, check->arena, ip, &name);
    if (confirmed.status == LOOKUP_ABSENT)
        dns_find(&check->findings, FINDING_PTR_UNCONFIRMED, reverse, bytes_of_text(text));
    if (confirmed.status == LOOKUP_FAILED)
        dns_find(&check->findings, FINDING_DNS_LOOKUP_FAILED, reverse,
                 bytes_of_text(lookup_reason_name(confirmed.reason)));
    if (confirmed.status == LOOKUP_FOUND)
        dns_find(&check->findings,
                 looks_generic(name, ip) ? FINDING_PTR_GENERIC : FINDING_PTR_CONFIRMED, reverse,
                 name);
}

void dns_check_reverse(struct dns_check *check)
{
    for (unsigned i = 0; i < check->request->ip_count; i++)
        check_address(check, &check->request->ips[i]);
}

/* ------------------------------------------------------------------ the whole */

json_t *diagnose_dns_check(struct arena *arena, const struct dns_check_request *request)
{
    struct dns_check check = {.request = request, .arena = arena};

    check.answer = json_pack("{s:o, s:[]}", "domain", diagnose_text(request->domain), "findings");
    if (!check.answer)
        return NULL;
    check.findings = (struct dns_findings){.list = json_object_get(check.answer, "findings"),
                                           .domain = request->domain};
    dns_check_mx(&check);
    dns_check_reverse(&check);
    dns_check_spf(&check);
    dns_check_dmarc(&check);
    dns_check_learn(&check);
    dns_check_dkim(&check);
    dns_check_sts(&check);
    dns_check_dane(&check);
    dns_check_tlsrpt(&check);
    dns_check_dnssec(&check);
    dns_check_own(&check);
    return check.answer;
}

bool diagnose_dns_has_error(const json_t *answer)
{
    return dns_findings_have_error(json_object_get(answer, "findings"));
}
