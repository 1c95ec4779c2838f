/*
 * SPF as a tree (RFC 7208): every record that is reached, what each term costs of the 10 look-ups,
 * which find nothing, where the limit is passed, and what is wrong with the words. A receiver stops
 * at the first match; this goes through all of it, as the unluckiest message would.
 */
#include <string.h>

#include "diagnose/dns_inside.h"

enum { WALK_DEPTH_MAX = 15, WALK_LOOKUPS_MAX = 60, MX_HOSTS_MAX = 10 };
enum { UDP_PLAIN_OCTETS = 512, UDP_EDNS_OCTETS = 1232, WIDE_IPV4_BITS = 16, WIDE_IPV6_BITS = 32 };

struct walk {
    struct dns_check *check;
    unsigned lookups;
    unsigned void_both, void_ipv4, void_ipv6; /* for both families; for clients of one */
    struct bytes over_limit;                  /* the look-up that passes 10, in words */
    struct bytes path[WALK_DEPTH_MAX];
    unsigned depth;
};

static void walk_record(struct walk *walk, struct bytes domain, struct bytes text, json_t *node);

/* ------------------------------------------------------------------ which record */

/* What the TXT answer takes on the wire: header, question, and each record with a pointer. */
static size_t answer_octets(struct bytes domain, const struct dns_answer *answer)
{
    size_t octets = 12 + domain.count + 2 + 4;

    for (unsigned i = 0; i < answer->count; i++)
        octets += 12 + answer->records[i].raw.count;
    return octets;
}

static void judge_size(struct dns_check *check, struct bytes domain,
                       const struct dns_answer *answer)
{
    const size_t octets = answer_octets(domain, answer);

    if (octets > UDP_EDNS_OCTETS)
        dns_find(&check->findings, FINDING_SPF_OVER_1232, domain, dns_number(check->arena, octets));
    else if (octets > UDP_PLAIN_OCTETS)
        dns_find(&check->findings, FINDING_SPF_OVER_512, domain, dns_number(check->arena, octets));
}

static bool looks_like_spf(struct bytes text)
{
    return bytes_starts_with_nocase(bytes_trim(text), BYTES_LITERAL("v=spf")) ||
           bytes_starts_with_nocase(bytes_trim(text), BYTES_LITERAL("\"v=spf"));
}

static void judge_strangers(struct dns_check *check, struct bytes domain,
                            const struct dns_answer *answer)
{
    for (unsigned i = 0; i < answer->count; i++) {
        const struct bytes text = answer->records[i].text;
        if (!spf_lint_is_record(text) && looks_like_spf(text))
            dns_find(&check->findings, FINDING_SPF_NO_VERSION, domain, text);
        if (!bytes_is_utf8(text))
            dns_find(&check->findings, FINDING_SPF_UNDECODABLE, domain, BYTES_EMPTY);
    }
}

/* The one record of a domain. ABSENT: none, or several, and several is said. */
static enum lookup_status fetch(struct dns_check *check, struct bytes domain, struct bytes *text,
                                bool *is_void)
{
    struct dns_answer answer;
    unsigned found = 0;
    const enum lookup_status status = dns_check_ask(check, domain, DNS_TXT, &answer);

    *is_void = status == LOOKUP_ABSENT;
    if (status != LOOKUP_FOUND)
        return status;
    for (unsigned i = 0; i < answer.count; i++)
        if (spf_lint_is_record(answer.records[i].text) && found++ == 0)
            *text = answer.records[i].text;
    if (bytes_equal_nocase(domain, check->request->domain))
        judge_strangers(check, domain, &answer);
    if (found > 0)
        judge_size(check, domain, &answer);
    if (found > 1)
        dns_find(&check->findings, FINDING_SPF_MULTIPLE, domain, dns_number(check->arena, found));
    return found == 0 ? LOOKUP_ABSENT : LOOKUP_FOUND;
}

/* ------------------------------------------------------------------ look-ups */

static void take_lookup(struct walk *walk, const struct spf_term_facts *term)
{
    struct dns_check *check = walk->check;

    if (++walk->lookups == SPF_LOOKUPS_MAX + 1)
        walk->over_limit =
            arena_print(check->arena, "the 11th is \"%.*s\" in the record of %.*s",
                        BYTES_PRINT(term->text), BYTES_PRINT(walk->path[walk->depth - 1]));
}

static void take_void(struct walk *walk, const struct spf_term_facts *term, json_t *node,
                      const bool empty[2])
{
    walk->void_ipv4 += empty[0];
    walk->void_ipv6 += empty[1];
    if (!empty[0] || !empty[1])
        return;
    walk->void_both++;
    json_object_set_new(node, "void", json_true());
    dns_find(&walk->check->findings, FINDING_SPF_VOID, walk->path[walk->depth - 1], term->text);
}

static void ask_addresses(struct walk *walk, const struct spf_term_facts *term, struct bytes name,
                          json_t *node)
{
    struct dns_answer answer;
    const bool only_ipv4 = term->kind == SPF_TERM_EXISTS; /* it asks for A, whatever the client */
    const bool no_ipv4 = dns_check_ask(walk->check, name, DNS_A, &answer) == LOOKUP_ABSENT;
    const bool no_ipv6 =
        only_ipv4 ? no_ipv4 : dns_check_ask(walk->check, name, DNS_AAAA, &answer) == LOOKUP_ABSENT;

    take_void(walk, term, node, (const bool[2]){no_ipv4, no_ipv6});
}

static void ask_mx(struct walk *walk, const struct spf_term_facts *term, struct bytes name,
                   json_t *node)
{
    struct dns_answer answer;
    const bool absent = dns_check_ask(walk->check, name, DNS_MX, &answer) == LOOKUP_ABSENT;

    take_void(walk, term, node, (const bool[2]){absent, absent});
    if (answer.count > MX_HOSTS_MAX)
        dns_find(&walk->check->findings, FINDING_SPF_MX_TOO_MANY, walk->path[walk->depth - 1],
                 name);
}

static bool is_on_path(const struct walk *walk, struct bytes name)
{
    for (unsigned i = 0; i < walk->depth; i++)
        if (bytes_equal_nocase(walk->path[i], name))
            return true;
    return false;
}

static void follow(struct walk *walk, const struct spf_term_facts *term, struct bytes name,
                   json_t *node)
{
    struct dns_findings *findings = &walk->check->findings;
    const struct bytes here = walk->path[walk->depth - 1];
    struct bytes text = BYTES_EMPTY;
    bool is_void = false;

    if (is_on_path(walk, name)) {
        dns_find(findings, FINDING_SPF_LOOP, here, name);
        return;
    }
    if (walk->depth == WALK_DEPTH_MAX || walk->lookups > WALK_LOOKUPS_MAX)
        return;
    const enum lookup_status status = fetch(walk->check, name, &text, &is_void);
    take_void(walk, term, node, (const bool[2]){is_void, is_void});
    if (status == LOOKUP_FOUND)
        walk_record(walk, name, text, node);
    else if (status == LOOKUP_ABSENT)
        dns_find(findings, FINDING_SPF_INCLUDE_NONE, here, name);
}

static void walk_lookup(struct walk *walk, const struct spf_term_facts *term, json_t *node)
{
    struct bytes name = term->domain.count > 0 ? term->domain : walk->path[walk->depth - 1];

    take_lookup(walk, term);
    if (name.count > 0 && name.at[name.count - 1] == '.')
        name.count--;
    if (term->has_macro)
        return; /* known only with a message at hand */
    json_object_set_new(node, "domain", diagnose_text(name));
    if (term->kind == SPF_TERM_INCLUDE || term->kind == SPF_TERM_REDIRECT)
        follow(walk, term, name, node);
    else if (term->kind == SPF_TERM_A || term->kind == SPF_TERM_EXISTS)
        ask_addresses(walk, term, name, node);
    else if (term->kind == SPF_TERM_MX)
        ask_mx(walk, term, name, node);
}

/* ------------------------------------------------------------------ terms */

static void judge_range(struct walk *walk, const struct spf_term_facts *term)
{
    const unsigned wide = term->kind == SPF_TERM_IP4 ? WIDE_IPV4_BITS : WIDE_IPV6_BITS;
    const struct bytes here = walk->path[walk->depth - 1];

    if (term->qualified != AUTH_PASS)
        return;
    if (term->prefix_bits == 0)
        dns_find(&walk->check->findings, FINDING_SPF_PASS_ALL, here, term->text);
    else if (term->prefix_bits < wide)
        dns_find(&walk->check->findings, FINDING_SPF_WIDE, here, term->text);
}

static void judge_all(struct walk *walk, const struct spf_term_facts *term)
{
    const struct bytes here = walk->path[walk->depth - 1];

    if (term->qualified == AUTH_PASS)
        dns_find(&walk->check->findings, FINDING_SPF_PASS_ALL, here, term->text);
    if (term->qualified == AUTH_NEUTRAL && walk->depth == 1)
        dns_find(&walk->check->findings, FINDING_SPF_NEUTRAL_ALL, here, BYTES_EMPTY);
}

/* False: the term is broken. */
static bool walk_term(struct walk *walk, const struct spf_term_facts *term, json_t *node)
{
    struct dns_check *check = walk->check;
    const struct bytes here = walk->path[walk->depth - 1];

    switch (term->kind) {
    case SPF_TERM_BROKEN:
        dns_find(&check->findings, FINDING_SPF_SYNTAX, here,
                 arena_print(check->arena, "\"%.*s\": %.*s", BYTES_PRINT(term->text),
                             BYTES_PRINT(term->problem)));
        return false;
    case SPF_TERM_ALL:
        judge_all(walk, term);
        break;
    case SPF_TERM_IP4:
    case SPF_TERM_IP6:
        judge_range(walk, term);
        break;
    case SPF_TERM_PTR:
        dns_find(&check->findings, FINDING_SPF_PTR, here, BYTES_EMPTY);
        walk_lookup(walk, term, node);
        break;
    case SPF_TERM_INCLUDE:
    case SPF_TERM_A:
    case SPF_TERM_MX:
    case SPF_TERM_EXISTS:
    case SPF_TERM_REDIRECT:
        walk_lookup(walk, term, node);
        break;
    case SPF_TERM_EXP:
    case SPF_TERM_OTHER:
        break;
    }
    return true;
}

static bool is_mechanism(const struct spf_term_facts *term)
{
    return term->kind != SPF_TERM_REDIRECT && term->kind != SPF_TERM_EXP &&
           term->kind != SPF_TERM_OTHER;
}

static void add_fault(json_t *node, const struct spf_term_facts *term)
{
    json_t *faults = json_object_get(node, "faults");

    if (!faults) {
        faults = json_array();
        json_object_set_new(node, "faults", faults);
    }
    json_array_append_new(faults, json_pack("{s:I, s:o}", "offset", (json_int_t)term->fault_offset,
                                            "problem", diagnose_text(term->problem)));
}

/* ------------------------------------------------------------------ a record */

/* A macro's name or a redirect may say the rest; else the record should end in `all`. */
static void judge_end(struct walk *walk, const struct spf_term_facts *terms, unsigned count)
{
    struct dns_findings *findings = &walk->check->findings;
    const struct bytes here = walk->path[walk->depth - 1];
    const struct spf_term_facts *all = NULL;
    bool redirect = false;

    for (unsigned i = 0; i < count; i++) {
        redirect = redirect || terms[i].kind == SPF_TERM_REDIRECT;
        if (all && (is_mechanism(&terms[i]) || terms[i].kind == SPF_TERM_OTHER))
            dns_find(findings, FINDING_SPF_AFTER_ALL, here, terms[i].text);
        if (terms[i].kind == SPF_TERM_ALL && !all)
            all = &terms[i];
    }
    if (all && redirect)
        dns_find(findings, FINDING_SPF_REDIRECT_IGNORED, here, BYTES_EMPTY);
    if (!all && !redirect && walk->depth == 1)
        dns_find(findings, FINDING_SPF_NO_ALL, here, BYTES_EMPTY);
}

static bool has_all(const struct spf_term_facts *terms, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        if (terms[i].kind == SPF_TERM_ALL)
            return true;
    return false;
}

static void walk_terms(struct walk *walk, const struct spf_term_facts *terms, unsigned count,
                       json_t *node)
{
    const bool ends = has_all(terms, count);
    bool ended = false;
    json_t *tree = json_array();

    for (unsigned i = 0; i < count; i++) {
        const unsigned before = walk->lookups;
        json_t *child = json_pack("{s:o}", "term", diagnose_text(terms[i].text));
        const bool unreached =
            (ended && is_mechanism(&terms[i])) || (ends && terms[i].kind == SPF_TERM_REDIRECT);

        if (terms[i].kind == SPF_TERM_BROKEN)
            add_fault(node, &terms[i]);
        /* A receiver reads the grammar of all of it, but asks nothing behind `all`. */
        if (!unreached || terms[i].kind == SPF_TERM_BROKEN)
            walk_term(walk, &terms[i], child);
        json_object_set_new(child, "lookups", json_integer(walk->lookups - before));
        json_object_set_new(child, "total", json_integer(walk->lookups));
        json_array_append_new(tree, child);
        ended = ended || terms[i].kind == SPF_TERM_ALL;
    }
    json_object_set_new(node, "tree", tree);
}

static void walk_record(struct walk *walk, struct bytes domain, struct bytes text, json_t *node)
{
    struct spf_term_facts *terms = NULL;
    unsigned count = 0;

    json_object_set_new(node, "domain", diagnose_text(domain));
    json_object_set_new(node, "record", diagnose_text(text));
    if (!spf_lint(walk->check->arena, text, &terms, &count))
        return;
    walk->path[walk->depth++] = domain;
    walk_terms(walk, terms, count, node);
    judge_end(walk, terms, count);
    walk->depth--;
}

/* ------------------------------------------------------------------ the whole */

static void judge_limits(struct walk *walk)
{
    struct dns_check *check = walk->check;
    struct dns_findings *findings = &check->findings;
    const struct bytes domain = check->request->domain;
    const unsigned by_family = MAX_OF(walk->void_ipv4, walk->void_ipv6);

    if (walk->lookups > SPF_LOOKUPS_MAX)
        dns_find(findings, FINDING_SPF_TOO_MANY_LOOKUPS, domain,
                 arena_print(check->arena, "%u in all; %.*s", walk->lookups,
                             BYTES_PRINT(walk->over_limit)));
    else if (walk->lookups + 1 >= SPF_LOOKUPS_MAX)
        dns_find(findings, FINDING_SPF_NEAR_LIMIT, domain, dns_number(check->arena, walk->lookups));
    if (walk->void_both > SPF_VOID_LOOKUPS_MAX)
        dns_find(findings, FINDING_SPF_TOO_MANY_VOID, domain,
                 dns_number(check->arena, walk->void_both));
    else if (by_family > SPF_VOID_LOOKUPS_MAX)
        dns_find(findings, FINDING_SPF_VOID_BY_FAMILY, domain, dns_number(check->arena, by_family));
}

/* Would mail from each of the addresses pass? Asked of the code that receives mail. */
static void judge_senders(struct dns_check *check)
{
    const struct dns_check_request *request = check->request;
    const struct auth_dns dns = {request->resolver, check->arena, request->deadline_us};
    char text[ENDPOINT_TEXT_MAX];

    for (unsigned i = 0; i < request->ip_count; i++) {
        const struct spf_request question = {.client = request->ips[i],
                                             .helo = request->domain,
                                             .from = {BYTES_LITERAL("postmaster"), request->domain},
                                             .receiver = "localhost"};
        struct spf_facts facts;
        spf_check(&dns, &question, &facts);
        if (facts.result != AUTH_PASS && facts.result != AUTH_TEMPERROR)
            dns_find(&check->findings, FINDING_SPF_IP_FAILS, request->domain,
                     arena_print(check->arena, "%s gives spf=%s",
                                 ip_print(&request->ips[i], text, sizeof text),
                                 auth_result_name(facts.result)));
    }
}

static bool permits_somebody(struct dns_check *check, struct bytes text)
{
    struct spf_term_facts *terms = NULL;
    unsigned count = 0;

    if (!spf_lint(check->arena, text, &terms, &count))
        return false;
    for (unsigned i = 0; i < count; i++)
        if ((is_mechanism(&terms[i]) && terms[i].kind != SPF_TERM_ALL &&
             terms[i].kind != SPF_TERM_BROKEN && terms[i].qualified == AUTH_PASS) ||
            terms[i].kind == SPF_TERM_REDIRECT)
            return true;
    return false;
}

void dns_check_spf(struct dns_check *check)
{
    const struct bytes domain = check->request->domain;
    struct walk walk = {.check = check};
    struct bytes text = BYTES_EMPTY;
    bool is_void = false;
    json_t *root = json_object(), *tree = json_array();
    const enum lookup_status status = fetch(check, domain, &text, &is_void);

    if (status == LOOKUP_FOUND) {
        walk_record(&walk, domain, text, root);
        json_object_set_new(root, "lookups", json_integer(walk.lookups));
        json_array_append(tree, root);
        judge_limits(&walk);
        judge_senders(check);
        if (check->null_mx && permits_somebody(check, text))
            dns_find(&check->findings, FINDING_SPF_PARKED, domain, BYTES_EMPTY);
    } else if (status == LOOKUP_ABSENT) {
        dns_find(&check->findings, FINDING_SPF_MISSING, domain, BYTES_EMPTY);
    }
    json_decref(root);
    json_object_set_new(check->answer, "spf",
                        json_pack("{s:i, s:i, s:o}", "lookups", (int)walk.lookups, "void_lookups",
                                  (int)walk.void_both, "tree", tree));
}
