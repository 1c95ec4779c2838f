/*
 * SPF: check_host() of RFC 7208 4 with its limits of look-ups (4.6.4).
 *
 * Sleeps: on DNS. Fails: temperror when a look-up failed, permerror when the record or a limit is
 * broken.
 */
#include "auth/spf_inside.h"

enum {
    MX_HOSTS_MAX = 10,
    PTR_NAMES_MAX = 10,
    DEPTH_MAX = 20,
    NAME_OCTETS_MAX = 253,
    LABEL_OCTETS_MAX = 63
};

static enum auth_result check_host(struct spf_run *run, struct bytes domain);

static enum auth_result permanent(struct spf_run *run, struct bytes problem)
{
    run->facts->problem = problem;
    return AUTH_PERMERROR;
}

struct lookup spf_ask(struct spf_run *run, struct bytes name, enum dns_type type,
                      struct dns_answer *answer)
{
    *answer = (struct dns_answer){0};
    if (clock_now_us() >= run->dns->deadline_us)
        return lookup_failed(LOOKUP_REASON_TIMEOUT, BYTES_LITERAL("the time for SPF is spent"));
    return resolve_ask(run->dns->resolver, run->dns->arena, name, type, answer);
}

static enum auth_result temporary(struct spf_run *run, struct bytes name, struct lookup lookup)
{
    run->facts->problem = arena_print(run->dns->arena, "look-up of %.*s: %s", BYTES_PRINT(name),
                                      lookup_reason_name(lookup.reason));
    return AUTH_TEMPERROR;
}

/* ------------------------------------------------------------------ names */

/* A domain that may be asked: several labels, each of 1 to 63 octets, 253 in all. */
static bool is_checkable_domain(struct bytes domain)
{
    size_t labels = 0;

    if (domain.count > 0 && domain.at[domain.count - 1] == '.')
        domain.count--;
    if (domain.count == 0 || domain.count > NAME_OCTETS_MAX || domain.at[0] == '[')
        return false;
    for (struct bytes rest = domain, label; rest.count > 0; labels++) {
        const size_t before = rest.count;
        rest = bytes_cut(rest, '.', &label);
        if (label.count == 0 || label.count > LABEL_OCTETS_MAX ||
            (rest.count == 0 && label.count != before))
            return false;
    }
    return labels > 1;
}

/* Macro-expands a domain-spec; labels are dropped from the left until it fits (7.3). */
static bool target_name(struct spf_run *run, struct bytes spec, struct bytes domain,
                        struct bytes *name)
{
    if (spec.count == 0) {
        *name = domain;
        return true;
    }
    if (!spf_macro_expand(run, spec, domain, name))
        return false;
    if (name->count > 0 && name->at[name->count - 1] == '.')
        name->count--;
    while (name->count > NAME_OCTETS_MAX) {
        struct bytes first = BYTES_EMPTY;
        *name = bytes_cut(*name, '.', &first);
    }
    return true;
}

/* ------------------------------------------------------------------ addresses */

static bool in_prefix(const struct ip_address *client, const struct ip_address *address,
                      const struct spf_term *term)
{
    const struct ip_network network = {
        .base = *address,
        .prefix_bits = address->family == ENDPOINT_IPV4 ? term->prefix4 : term->prefix6};

    return ip_network_contains(&network, client);
}

static enum dns_type client_type(const struct spf_run *run)
{
    return run->request->client.family == ENDPOINT_IPV4 ? DNS_A : DNS_AAAA;
}

enum match { MATCH_NO = 0, MATCH_YES, MATCH_TEMPERROR, MATCH_PERMERROR };

static enum match match_void(struct spf_run *run, const struct lookup *lookup)
{
    if (lookup->status == LOOKUP_ABSENT && ++run->facts->void_lookups > SPF_VOID_LOOKUPS_MAX) {
        run->facts->problem = BYTES_LITERAL("more than 2 look-ups without an answer");
        return MATCH_PERMERROR;
    }
    return MATCH_NO;
}

static enum match match_addresses(struct spf_run *run, const struct spf_term *term,
                                  struct bytes name, bool counts_void)
{
    struct dns_answer answer;
    const struct lookup lookup = spf_ask(run, name, client_type(run), &answer);

    if (lookup.status == LOOKUP_FAILED) {
        temporary(run, name, lookup);
        return MATCH_TEMPERROR;
    }
    for (unsigned i = 0; i < answer.count; i++)
        if (in_prefix(&run->request->client, &answer.records[i].ip, term))
            return MATCH_YES;
    return counts_void ? match_void(run, &lookup) : MATCH_NO;
}

static enum match match_mx(struct spf_run *run, const struct spf_term *term, struct bytes name)
{
    struct dns_answer answer;
    const struct lookup lookup = spf_ask(run, name, DNS_MX, &answer);

    if (lookup.status == LOOKUP_FAILED) {
        temporary(run, name, lookup);
        return MATCH_TEMPERROR;
    }
    if (answer.count > MX_HOSTS_MAX) {
        run->facts->problem = BYTES_LITERAL("more than 10 MX hosts");
        return MATCH_PERMERROR;
    }
    for (unsigned i = 0; i < answer.count; i++) {
        const enum match match = match_addresses(run, term, answer.records[i].name, false);
        if (match != MATCH_NO)
            return match;
    }
    return match_void(run, &lookup);
}

/* Does this name lead back to the client? A failed look-up is no confirmation. */
static bool name_is_confirmed(struct spf_run *run, struct bytes name)
{
    struct dns_answer answer;
    const struct lookup lookup = spf_ask(run, name, client_type(run), &answer);

    for (unsigned i = 0; lookup.status == LOOKUP_FOUND && i < answer.count; i++)
        if (ip_equal(&answer.records[i].ip, &run->request->client))
            return true;
    return false;
}

unsigned spf_validated_names(struct spf_run *run, struct bytes *names, unsigned room)
{
    uint8_t reverse[128];
    unsigned count = 0;
    struct dns_answer answer;

    ip_reverse_name(&run->request->client, "in-addr.arpa", "ip6.arpa",
                    (struct span){reverse, sizeof reverse});
    const struct lookup lookup =
        spf_ask(run, bytes_of_text((const char *)reverse), DNS_PTR, &answer);
    if (lookup.status != LOOKUP_FOUND)
        return 0;
    for (unsigned i = 0; i < answer.count && i < PTR_NAMES_MAX && count < room; i++)
        if (name_is_confirmed(run, answer.records[i].name))
            names[count++] = answer.records[i].name;
    return count;
}

static enum match match_ptr(struct spf_run *run, struct bytes name)
{
    struct bytes names[PTR_NAMES_MAX];
    const unsigned count = spf_validated_names(run, names, COUNT_OF(names));

    for (unsigned i = 0; i < count; i++) {
        const size_t before = names[i].count - MIN_OF(names[i].count, name.count);
        if (bytes_ends_with_nocase(names[i], name) &&
            (before == 0 || names[i].at[before - 1] == '.'))
            return MATCH_YES;
    }
    return MATCH_NO;
}

static enum match match_exists(struct spf_run *run, struct bytes name)
{
    struct dns_answer answer;
    const struct lookup lookup = spf_ask(run, name, DNS_A, &answer);

    if (lookup.status == LOOKUP_FOUND)
        return MATCH_YES;
    if (lookup.status == LOOKUP_ABSENT)
        return match_void(run, &lookup);
    temporary(run, name, lookup);
    return MATCH_TEMPERROR;
}

static enum match match_include(struct spf_run *run, struct bytes name)
{
    struct spf_facts *facts = run->facts;
    const enum auth_result result = check_host(run, name);

    switch (result) {
    case AUTH_PASS:
        return MATCH_YES;
    case AUTH_FAIL:
    case AUTH_SOFTFAIL:
    case AUTH_NEUTRAL:
    case AUTH_POLICY:
        return MATCH_NO;
    case AUTH_TEMPERROR:
        return MATCH_TEMPERROR;
    case AUTH_NONE:
        facts->problem =
            arena_print(run->dns->arena, "included %.*s has no SPF record", BYTES_PRINT(name));
        return MATCH_PERMERROR;
    case AUTH_PERMERROR:
        return MATCH_PERMERROR;
    }
    return MATCH_TEMPERROR;
}

/* ------------------------------------------------------------------ terms */

/* Counts a term that asks DNS; false when it is one too many. */
static bool take_lookup(struct spf_run *run)
{
    if (++run->facts->lookups <= SPF_LOOKUPS_MAX)
        return true;
    run->facts->problem = BYTES_LITERAL("more than 10 look-ups");
    return false;
}

static enum match match_by_name(struct spf_run *run, const struct spf_term *term, struct bytes name)
{
    switch (term->mechanism) {
    case SPF_A:
        return match_addresses(run, term, name, true);
    case SPF_MX:
        return match_mx(run, term, name);
    case SPF_PTR:
        return match_ptr(run, name);
    case SPF_EXISTS:
        return match_exists(run, name);
    case SPF_INCLUDE:
        return match_include(run, name);
    case SPF_ALL:
    case SPF_IP4:
    case SPF_IP6:
        break;
    }
    return MATCH_NO;
}

static enum match match_term(struct spf_run *run, const struct spf_term *term, struct bytes domain)
{
    struct bytes name = BYTES_EMPTY;

    if (term->mechanism == SPF_ALL)
        return MATCH_YES;
    if (term->mechanism == SPF_IP4 || term->mechanism == SPF_IP6)
        return ip_network_contains(&term->network, &run->request->client) ? MATCH_YES : MATCH_NO;
    if (!take_lookup(run))
        return MATCH_PERMERROR;
    if (!target_name(run, term->domain, domain, &name)) {
        run->facts->problem = BYTES_LITERAL("out of memory");
        return MATCH_TEMPERROR;
    }
    return match_by_name(run, term, name);
}

/* ------------------------------------------------------------------ the record of a domain */

/* NONE: no record; PASS: *record was filled in. */
static enum auth_result fetch_record(struct spf_run *run, struct bytes domain,
                                     struct spf_record *record)
{
    struct dns_answer answer;
    const struct bytes *text = NULL;
    const struct lookup lookup = spf_ask(run, domain, DNS_TXT, &answer);

    if (lookup.status == LOOKUP_FAILED)
        return temporary(run, domain, lookup);
    for (unsigned i = 0; i < answer.count; i++) {
        if (!spf_is_record(answer.records[i].text))
            continue;
        if (text)
            return permanent(run, arena_print(run->dns->arena, "%.*s has several SPF records",
                                              BYTES_PRINT(domain)));
        text = &answer.records[i].text;
    }
    if (!text)
        return AUTH_NONE;
    if (spf_parse_record(run->dns->arena, *text, record, &run->facts->problem))
        return AUTH_PASS;
    return run->dns->arena->failed ? AUTH_TEMPERROR : AUTH_PERMERROR;
}

/* The text that the domain gives its refusals (6.2); any trouble with it means: none. */
static void explain(struct spf_run *run, const struct spf_record *record, struct bytes domain)
{
    struct bytes name = BYTES_EMPTY, text = BYTES_EMPTY;
    struct dns_answer answer;

    run->facts->explanation = BYTES_EMPTY;
    if (record->explanation.count == 0 || !target_name(run, record->explanation, domain, &name) ||
        name.count == 0)
        return;
    const struct lookup lookup = spf_ask(run, name, DNS_TXT, &answer);
    if (lookup.status != LOOKUP_FOUND || answer.count != 1 || answer.records[0].text.count == 0)
        return;
    if (!spf_macro_valid(answer.records[0].text, SPF_MACRO_EXPLANATION) ||
        !spf_macro_expand(run, answer.records[0].text, domain, &text))
        return;
    for (size_t i = 0; i < text.count; i++)
        if (!ascii_is_print(text.at[i]))
            return;
    run->facts->explanation = text;
}

static enum auth_result redirect(struct spf_run *run, const struct spf_record *record,
                                 struct bytes domain)
{
    struct bytes name = BYTES_EMPTY;

    if (!take_lookup(run))
        return AUTH_PERMERROR;
    if (!target_name(run, record->redirect, domain, &name))
        return AUTH_TEMPERROR;
    run->depth--; /* the redirected record stands in the place of this one */
    const enum auth_result result = check_host(run, name);
    run->depth++;
    if (result != AUTH_NONE)
        return result;
    return permanent(run,
                     arena_print(run->dns->arena, "redirected to %.*s, which has no SPF record",
                                 BYTES_PRINT(name)));
}

static enum auth_result evaluate(struct spf_run *run, const struct spf_record *record,
                                 struct bytes domain)
{
    for (unsigned i = 0; i < record->count; i++) {
        const struct spf_term *term = &record->terms[i];
        switch (match_term(run, term, domain)) {
        case MATCH_NO:
            continue;
        case MATCH_TEMPERROR:
            return AUTH_TEMPERROR;
        case MATCH_PERMERROR:
            return AUTH_PERMERROR;
        case MATCH_YES:
            break;
        }
        if (run->depth == 1) {
            run->facts->mechanism = term->text;
            if (term->qualified == AUTH_FAIL)
                explain(run, record, domain);
        }
        return term->qualified;
    }
    return record->redirect.count > 0 ? redirect(run, record, domain) : AUTH_NEUTRAL;
}

static enum auth_result check_host(struct spf_run *run, struct bytes domain)
{
    struct spf_record record;

    if (!is_checkable_domain(domain))
        return AUTH_NONE;
    if (run->depth >= DEPTH_MAX)
        return permanent(run, BYTES_LITERAL("records include each other too deep"));
    const enum auth_result fetched = fetch_record(run, domain, &record);
    if (fetched != AUTH_PASS)
        return fetched;
    run->depth++;
    const enum auth_result result = evaluate(run, &record, domain);
    run->depth--;
    return result;
}

void spf_check(const struct auth_dns *dns, const struct spf_request *request,
               struct spf_facts *facts)
{
    const bool by_helo = request->identity == SPF_HELO || address_is_null(request->from);
    const struct bytes helo = request->helo;
    struct spf_run run = {.dns = dns,
                          .request = request,
                          .facts = facts,
                          .helo = helo,
                          .sender_local = by_helo ? BYTES_EMPTY : request->from.local,
                          .sender_domain = by_helo ? helo : request->from.domain};

    *facts = (struct spf_facts){0};
    if (run.sender_local.count == 0)
        run.sender_local = BYTES_LITERAL("postmaster");
    facts->domain = run.sender_domain;
    facts->result = check_host(&run, run.sender_domain);
    if (facts->result != AUTH_PERMERROR && facts->result != AUTH_TEMPERROR)
        facts->problem = BYTES_EMPTY;
    if (facts->result != AUTH_FAIL)
        facts->explanation = BYTES_EMPTY;
}
