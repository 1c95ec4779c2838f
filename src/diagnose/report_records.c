/*
 * What DNS says of both sides: the hosts of the site, our addresses with their reverse names, and
 * our own records as several resolvers and each authoritative server have them.
 */
#include "diagnose/report.h"

#include <string.h>

enum { DOMAINS_MAX = 2, ADDRESSES_MAX = 8, PATIENCE_S = 20 };

static const char *domain_behind(const char *address)
{
    const char *at = strrchr(address, '@');

    return at ? at + 1 : "";
}

/* ------------------------------------------------------------------ the site */

static void add_mx(struct arena *arena, const struct report_request *request, json_t *report)
{
    const char *domain = diagnose_word(report, "domain");
    struct mail_hosts found = {0};
    json_t *list = json_array();
    char text[ENDPOINT_TEXT_MAX];

    if (*domain) {
        const struct lookup lookup =
            resolve_mail_hosts(request->resolver, arena, bytes_of_text(domain), &found);
        if (lookup.status == LOOKUP_FAILED)
            json_object_set_new(report, "mx_failed", diagnose_text(lookup.detail));
    }
    for (unsigned i = 0; i < found.count; i++) {
        json_t *addresses = json_array();
        for (unsigned k = 0; k < found.hosts[i].address_count; k++)
            json_array_append_new(
                addresses, json_string(ip_print(&found.hosts[i].addresses[k], text, sizeof text)));
        json_array_append_new(
            list, json_pack("{s:o, s:i, s:o}", "host", diagnose_text(found.hosts[i].name),
                            "preference", (int)found.hosts[i].preference, "addresses", addresses));
    }
    json_object_set_new(report, "mx", list);
}

/* ------------------------------------------------------------------ ourselves */

static unsigned own_addresses(struct arena *arena, const struct report_request *request,
                              struct ip_address ips[ADDRESSES_MAX])
{
    static const enum dns_type TYPES[] = {DNS_A, DNS_AAAA};
    unsigned count = 0;

    for (unsigned i = 0; i < request->ip_count && count < ADDRESSES_MAX; i++)
        ips[count++] = request->ips[i];
    for (size_t t = 0; request->ip_count == 0 && t < COUNT_OF(TYPES); t++) {
        struct dns_answer answer = {0};
        const struct lookup lookup =
            resolve_ask(request->resolver, arena, bytes_of_text(request->place->config->hostname),
                        TYPES[t], &answer);
        for (unsigned r = 0; lookup.status == LOOKUP_FOUND && r < answer.count; r++)
            if (count < ADDRESSES_MAX)
                ips[count++] = answer.records[r].ip;
    }
    return count;
}

static const char *confirmed_word(struct lookup lookup)
{
    switch (lookup.status) {
    case LOOKUP_FOUND:
        return "confirmed";
    case LOOKUP_ABSENT:
        return "none, or it does not point back";
    case LOOKUP_FAILED:
        break;
    }
    return "could not be looked up";
}

static void add_addresses(struct arena *arena, const struct report_request *request,
                          const struct ip_address *ips, unsigned count, json_t *report)
{
    json_t *list = json_array();
    char text[ENDPOINT_TEXT_MAX];

    for (unsigned i = 0; i < count; i++) {
        struct bytes name = BYTES_EMPTY;
        const struct lookup lookup = resolve_reverse(request->resolver, arena, &ips[i], &name);
        json_array_append_new(
            list, json_pack("{s:s, s:o, s:s}", "ip", ip_print(&ips[i], text, sizeof text), "name",
                            diagnose_text(name), "reverse", confirmed_word(lookup)));
    }
    json_object_set_new(report, "addresses", list);
}

/* ------------------------------------------------------------------ our records */

static void add_record(struct arena *arena, const struct report_request *request, json_t *records,
                       const char *what, struct bytes name, const char *type)
{
    const struct dns_propagation_request question = {.resolver = request->resolver,
                                                     .name = name,
                                                     .types = &type,
                                                     .type_count = 1,
                                                     .servers = request->servers,
                                                     .server_count = request->server_count,
                                                     .resolvers = request->resolvers,
                                                     .resolver_count = request->resolver_count,
                                                     .deadline_us =
                                                         deadline_in(PATIENCE_S * US_PER_S)};
    json_t *answer = diagnose_dns_propagation(arena, &question);

    if (!answer)
        return;
    json_object_set_new(answer, "what", json_string(what));
    json_object_set_new(answer, "type", json_string(type));
    json_array_append_new(records, answer);
}

static struct bytes reverse_name(struct arena *arena, const struct ip_address *ip)
{
    struct buffer name = BUFFER_WITH_LIMIT(256);

    if (ip->family == ENDPOINT_IPV4)
        buffer_print(&name, "%u.%u.%u.%u.in-addr.arpa", ip->octets[3], ip->octets[2], ip->octets[1],
                     ip->octets[0]);
    for (int i = 15; ip->family == ENDPOINT_IPV6 && i >= 0; i--)
        buffer_print(&name, "%x.%x.%s", ip->octets[i] & 15, ip->octets[i] >> 4,
                     i == 0 ? "ip6.arpa" : "");
    const struct bytes kept = arena_copy(arena, buffer_view(&name));
    buffer_free(&name);
    return kept;
}

/* The senders' domains: whose records the other side looks at. */
static unsigned sender_domains(const json_t *report, const char *domains[DOMAINS_MAX])
{
    const json_t *senders = json_object_get(report, "senders");
    unsigned count = 0;

    for (size_t i = 0; i < json_array_size(senders) && count < DOMAINS_MAX; i++) {
        const char *domain = domain_behind(diagnose_word(json_array_get(senders, i), "sender"));
        const bool again = count == 1 && strcmp(domains[0], domain) == 0;
        if (*domain && *domain != '[' && !again)
            domains[count++] = domain;
    }
    return count;
}

static void add_check(struct arena *arena, const struct report_request *request,
                      const struct dns_check_request *check, json_t *report)
{
    json_t *answer = diagnose_dns_check(arena, check);
    json_t *spf = json_object_get(report, "spf"), *findings = json_object_get(report, "findings");
    size_t i;
    json_t *finding;

    (void)request;
    if (!answer)
        return;
    json_array_append_new(
        spf,
        json_pack("{s:o, s:I, s:I}", "domain", diagnose_text(check->domain), "lookups",
                  (json_int_t)diagnose_number(json_object_get(answer, "spf"), "lookups"),
                  "void_lookups",
                  (json_int_t)diagnose_number(json_object_get(answer, "spf"), "void_lookups")));
    json_array_foreach(json_object_get(answer, "findings"), i, finding)
    {
        if (strcmp(diagnose_word(finding, "severity"), "error") == 0)
            json_array_append(findings, finding);
    }
    json_decref(answer);
}

static void add_domain(struct arena *arena, const struct report_request *request,
                       const struct dns_check_request *base, json_t *report)
{
    const struct config *config = request->place->config;
    const struct bytes domain = base->domain;
    json_t *records = json_object_get(report, "records");

    add_check(arena, request, base, report);
    add_record(arena, request, records, "SPF", domain, "TXT");
    add_record(arena, request, records, "MX", domain, "MX");
    add_record(arena, request, records, "DMARC",
               arena_print(arena, "_dmarc.%.*s", BYTES_PRINT(domain)), "TXT");
    for (unsigned i = 0; i < config->sign_count; i++)
        if (bytes_equal_text_nocase(domain, config->signs[i].domain))
            add_record(arena, request, records, "DKIM",
                       arena_print(arena, "%s._domainkey.%.*s", config->signs[i].selector,
                                   BYTES_PRINT(domain)),
                       "TXT");
}

void report_add_records(struct arena *arena, const struct report_request *request, json_t *report)
{
    struct ip_address ips[ADDRESSES_MAX];
    const char *domains[DOMAINS_MAX];
    const unsigned count = own_addresses(arena, request, ips);
    const unsigned domain_count = sender_domains(report, domains);
    json_t *records = json_array();

    json_object_set_new(report, "records", records);
    json_object_set_new(report, "spf", json_array());
    json_object_set_new(report, "findings", json_array());
    add_mx(arena, request, report);
    add_addresses(arena, request, ips, count, report);
    for (unsigned i = 0; i < domain_count; i++) {
        const struct dns_check_request check = {.resolver = request->resolver,
                                                .domain = bytes_of_text(domains[i]),
                                                .ips = ips,
                                                .ip_count = count,
                                                .deadline_us = deadline_in(PATIENCE_S * US_PER_S)};
        add_domain(arena, request, &check, report);
    }
    for (unsigned i = 0; i < count; i++)
        add_record(arena, request, records, "PTR", reverse_name(arena, &ips[i]), "PTR");
}
