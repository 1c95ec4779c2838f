/*
 * DMARC, SPF, ARC, Authentication-Results and MTA-STS against conformance material of others
 * (vectors/dmarc-mailauth, rspamd, authres-go-msgauth, mta-sts-chasquid). Prints a line for each
 * corpus, and each case where we differ with the reason; SKIP where the material is absent.
 * tests/system/conformance.py reads these lines.
 */
#include <jansson.h>
#include <unistd.h>

#include "dkim_check.h"

static struct {
    const char *name;
    unsigned passed, differs, failed;
} corpus;
static unsigned all_passed, all_failed;

static void corpus_begin(const char *name)
{
    corpus.name = name;
    corpus.passed = corpus.differs = corpus.failed = 0;
}

static void corpus_end(void)
{
    printf("corpus %s: %u passed, %u differ, %u failed\n", corpus.name, corpus.passed,
           corpus.differs, corpus.failed);
    all_passed += corpus.passed + corpus.differs;
    all_failed += corpus.failed;
}

/* `reason`: why we are right to differ, or NULL. */
static void judge(bool right, const char *name, const char *reason, const char *got)
{
    corpus.passed += right;
    corpus.differs += !right && reason != NULL;
    corpus.failed += !right && !reason;
    if (!right && reason)
        printf("differs %s: %s: %s\n", corpus.name, name, reason);
    if (!right && !reason)
        printf("not ok %s: %s: got %s\n", corpus.name, name, got);
}

static const char *text_of(const json_t *object, const char *name)
{
    const char *text = json_string_value(json_object_get(object, name));

    return text ? text : "";
}

static json_t *load(const char *name)
{
    char path[CHECK_PATH_MAX];
    json_t *loaded = json_load_file(shared_path(name, path), 0, NULL);

    INVARIANT(loaded != NULL);
    return loaded;
}

static json_t *view_json(struct bytes view)
{
    return view.count ? json_stringn((const char *)view.at, view.count) : json_string("");
}

/* ------------------------------------------------------------------ zones */

static enum dns_type type_named(const char *name)
{
    static const struct {
        const char *name;
        enum dns_type type;
    } types[] = {{"a", DNS_A},     {"aaaa", DNS_AAAA}, {"mx", DNS_MX},      {"txt", DNS_TXT},
                 {"ptr", DNS_PTR}, {"ns", DNS_NS},     {"cname", DNS_CNAME}};

    for (size_t i = 0; i < COUNT_OF(types); i++)
        if (strcasecmp(name, types[i].name) == 0)
            return types[i].type;
    return (enum dns_type)0;
}

static void add_reply(const char *name, enum dns_type type, const char *text)
{
    uint16_t preference = 0;
    const char *blank = strchr(text, ' ');

    if (type == DNS_MX && blank) {
        preference = (uint16_t)strtoul(text, NULL, 10);
        text = blank + 1;
    }
    size_t count = strlen(text);
    if (type != DNS_TXT && count > 0 && text[count - 1] == '.')
        count--;
    struct ip_address ip;
    if (count > 4000 ||
        ((type == DNS_A || type == DNS_AAAA) && !ip_parse(bytes_of(text, count), &ip)))
        return;
    fake_zone_add(name, type, bytes_of(text, count))->preference = preference;
}

static void load_rspamd_zone(const json_t *zone)
{
    fake_zone_clear();
    for (size_t i = 0; i < json_array_size(zone); i++) {
        const json_t *record = json_array_get(zone, i),
                     *replies = json_object_get(record, "replies");
        const enum dns_type type = type_named(text_of(record, "type"));
        const char *rcode = text_of(record, "rcode");
        if (type == 0)
            continue;
        if (strcmp(rcode, "timeout") == 0 || strcmp(rcode, "servfail") == 0)
            fake_zone_fault(text_of(record, "name"), type, FAKE_TIMEOUT);
        if (strcmp(rcode, "norec") == 0)
            fake_zone_fault(text_of(record, "name"), type, FAKE_NOTHING);
        for (size_t k = 0; k < json_array_size(replies); k++)
            add_reply(text_of(record, "name"), type, json_string_value(json_array_get(replies, k)));
    }
}

static void load_mailauth_zone(const json_t *zone)
{
    const char *name, *type;
    json_t *types, *records;

    fake_zone_clear();
    json_object_foreach((json_t *)zone, name, types)
    {
        json_object_foreach(types, type, records)
        {
            if (json_is_object(records) && type_named(type) != 0)
                fake_zone_fault(name, type_named(type), FAKE_TIMEOUT);
            for (size_t i = 0; i < json_array_size(records); i++) {
                char whole[4096] = "";
                const json_t *strings = json_array_get(records, i);
                for (size_t k = 0; k < json_array_size(strings); k++)
                    strncat(whole, json_string_value(json_array_get(strings, k)),
                            sizeof whole - strlen(whole) - 1);
                if (strcmp(type, "TXT") == 0)
                    add_reply(name, DNS_TXT, whole);
            }
        }
    }
}

/* ------------------------------------------------------------------ mailauth: DMARC */

/* Members of mailauth's own interface, and tags that RFC 9989 took away. */
static const struct {
    const char *path, *reason;
} NOT_OURS[] = {
    {"pct", "pct is gone (RFC 9989 C.5.2); such a tag is passed over"},
    {"ri", "ri is gone (RFC 9989 C.5.2); such a tag is passed over"},
    {"error", "the wording of mailauth's own interface"},
    {"rr", "a member of mailauth's own interface (the raw record)"},
    {"info", "a member of mailauth's own interface (a text)"},
    {"status.comment", "a member of mailauth's own interface (a text)"},
    {"alignment.dkim.underSized", "a member of mailauth's own interface; a signature over a part "
                                  "of the body never passes here (RFC 6376 8.2)"},
    {"tagonly",
     "a member of mailauth's own interface; a tag without a value is passed over (RFC 9989 4.7)"},
    {"false",
     "a member of mailauth's own interface; a value without a tag is passed over (RFC 9989 4.7)"},
    {"*value", "the type of a member that is not ours, or the questions mailauth asks: a tree walk "
               "asks others (RFC 9989 4.10)"},
};
static const char SEVERAL[] =
    "several addresses of one domain are one author domain, and several are all evaluated, the "
    "strictest counts (RFC 9989 5.3.1)";

static const char *reason_not_ours(const char *path)
{
    for (size_t i = 0; i < COUNT_OF(NOT_OURS); i++)
        if (strcmp(path, NOT_OURS[i].path) == 0)
            return NOT_OURS[i].reason;
    return NULL;
}

static struct bytes domain_of(const json_t *entry)
{
    return bytes_of_text(json_is_string(entry) ? json_string_value(entry)
                                               : text_of(entry, "domain"));
}

static void make_head(const json_t *input, struct buffer *head)
{
    const json_t *from = json_object_get(input, "headerFrom");
    const json_t *domain = json_object_get(input, "domain");

    buffer_add_text(head, "From: ");
    if (json_is_string(domain))
        buffer_print(head, "user@%s", json_string_value(domain));
    if (json_is_string(from))
        buffer_print(head, "%s%s", strchr(json_string_value(from), '@') ? "" : "user@",
                     json_string_value(from));
    for (size_t i = 0; i < json_array_size(from); i++)
        buffer_print(head, "%s%s", i ? ", " : "", json_string_value(json_array_get(from, i)));
    buffer_add_text(head, "\r\n\r\n");
}

static json_t *alignment_json(bool strict, bool aligned, struct bytes domain)
{
    json_t *alignment = json_pack("{s:b}", "strict", strict);

    if (aligned)
        json_object_set_new(alignment, "result", view_json(domain));
    return alignment;
}

/* Our facts in the words of mailauth; null: it throws. */
static json_t *mailauth_call(struct arena *arena, const json_t *call)
{
    const json_t *input = json_object_get(call, "input"),
                 *spf_list = json_object_get(input, "spfDomains");
    const json_t *dkim_list = json_object_get(input, "dkimDomains");
    CLEANUP(buffer_free) struct buffer head = BUFFER_WITH_LIMIT(64 * KIB);
    const struct auth_dns dns = {.arena = arena, .deadline_us = DEADLINE_NEVER};
    struct spf_facts spf = {.result = AUTH_NONE};
    struct dkim_report dkim = {0};
    struct dmarc_facts facts;

    load_mailauth_zone(json_object_get(call, "zone"));
    make_head(input, &head);
    if (json_array_size(spf_list) > 0)
        spf = (struct spf_facts){.result = AUTH_PASS,
                                 .domain = domain_of(json_array_get(spf_list, 0))};
    for (size_t i = 0; i < json_array_size(dkim_list); i++)
        dkim.facts[dkim.count++] = (struct dkim_facts){
            .result = AUTH_PASS, .domain = domain_of(json_array_get(dkim_list, i))};
    dmarc_check(&dns, buffer_view(&head), &spf, &dkim, &facts);
    const struct dmarc_record *record = &facts.record;
    const bool lookup = strcmp(text_of(call, "fn"), "getDmarcRecord") == 0;
    if (lookup && facts.result == AUTH_TEMPERROR)
        return json_null();
    if (lookup && (facts.result == AUTH_NONE || facts.result == AUTH_PERMERROR))
        return json_false();
    return json_pack("{s:{s:s, s:{s:o, s:o}}, s:s, s:s, s:o, s:o, s:{s:o, s:o}, s:s, s:s, s:s, "
                     "s:o, s:o, s:o, s:b}",
                     "status", "result", auth_result_name(facts.result), "header", "from",
                     view_json(facts.author_domain), "d", view_json(facts.policy_domain), "policy",
                     dmarc_policy_name(facts.policy), "p", dmarc_policy_name(record->p), "sp",
                     record->has_sp ? json_string(dmarc_policy_name(record->sp)) : json_null(),
                     "domain", view_json(facts.policy_domain), "alignment", "spf",
                     alignment_json(record->strict_spf, facts.spf_aligned, spf.domain), "dkim",
                     alignment_json(record->strict_dkim, facts.dkim_aligned, dkim.facts[0].domain),
                     "v", "DMARC1", "adkim", record->strict_dkim ? "s" : "r", "aspf",
                     record->strict_spf ? "s" : "r", "rua", view_json(record->rua), "ruf",
                     view_json(record->ruf), "fo", view_json(record->fo), "isOrgRecord",
                     !bytes_equal_nocase(facts.policy_domain, facts.author_domain));
}

static bool holds(const char *op, const json_t *value, const json_t *wanted)
{
    if (strcmp(op, "equal") == 0)
        return json_equal(value, wanted);
    if (strcmp(op, "true") == 0)
        return json_is_true(value);
    if (strcmp(op, "false") == 0)
        return json_is_false(value);
    if (strcmp(op, "type") == 0)
        return json_is_object(value);
    return (strcmp(op, "undefined") == 0 || strcmp(op, "not.ok") == 0) && !value;
}

static const json_t *value_at(const json_t *value, const json_t *path, char *name, size_t room)
{
    snprintf(name, room, "%s", path ? "" : "*value");
    for (size_t i = 0; i < json_array_size(path); i++) {
        const char *step = json_string_value(json_array_get(path, i));
        snprintf(name + strlen(name), room - strlen(name), "%s%s", i ? "." : "", step);
        value = json_object_get(value, step);
    }
    return value;
}

/* The first assertion that does not hold decides; one about what is not ours only when nothing else
 * fails. */
static void run_mailauth_case(const json_t *one)
{
    struct arena arena = ARENA_WITH_LIMIT(16 * MIB);
    const json_t *calls = json_object_get(one, "calls"), *asserts = json_object_get(one, "asserts");
    json_t *results[8] = {0};
    bool right = true;
    const char *reason = NULL;
    char got[256] = "";

    for (size_t i = 0; i < json_array_size(calls) && i < COUNT_OF(results); i++)
        results[i] = mailauth_call(&arena, json_array_get(calls, i));
    for (size_t i = 0; i < json_array_size(asserts); i++) {
        const json_t *assertion = json_array_get(asserts, i),
                     *on = json_object_get(assertion, "on");
        const json_t *wanted = json_array_get(json_object_get(assertion, "args"), 0);
        char path[128];
        const json_t *value = value_at(results[json_integer_value(json_object_get(on, "call"))],
                                       json_object_get(on, "pth"), path, sizeof path);
        const bool threw = strcmp(path, "*value") == 0 && json_is_null(results[0]);
        if (threw || holds(text_of(assertion, "op"), value, wanted))
            continue;
        const char *why = reason_not_ours(path);
        if (strstr(text_of(one, "name"), "array with multiple elements"))
            why = SEVERAL;
        snprintf(got, sizeof got, "something else at %s", path);
        reason = right || !why ? why : reason;
        right = false;
        if (!why)
            break;
    }
    judge(right, text_of(one, "name"), reason, got);
    for (size_t i = 0; i < COUNT_OF(results); i++)
        json_decref(results[i]);
    arena_clear(&arena);
}

static void run_mailauth(const char *file)
{
    json_t *suite = load(file);

    for (size_t i = 0; i < json_array_size(suite); i++)
        run_mailauth_case(json_array_get(suite, i));
    json_decref(suite);
}

/* ------------------------------------------------------------------ rspamd */

struct rspamd_facts {
    struct spf_facts spf;
    struct dkim_report dkim;
    struct arc_facts arc;
    struct dmarc_facts dmarc;
};

/* Cases that ask for what is rspamd's own, or was so before RFC 9989. */
static const struct {
    const char *name, *reason;
} RSPAMD_DIFFERS[] = {
    {"DMARC PCT ZERO REJECT", "pct is gone: p applies as it stands (RFC 9989 C.5.2)"},
    {"DMARC PCT ZERO SP QUARANTINE", "pct is gone: sp applies as it stands (RFC 9989 C.5.2)"},
    {"DMARC SUBDOMAIN PASS DKIM RELAXED ALIGNMENT",
     "by the tree walk my.mom.za.org, the only one with a record, is its own organizational "
     "domain; mom.za.org is another (RFC 9989 4.10.2)"},
    {"DMARC SUBDOMAIN PASS SPF RELAXED ALIGNMENT",
     "by the tree walk my.mom.za.org, the only one with a record, is its own organizational "
     "domain; mom.za.org is another (RFC 9989 4.10.2)"},
    {"SPF FAIL UNRESOLVEABLE INCLUDE",
     "an include of a name without a record is a permanent error (RFC 7208 5.2)"},
    {"SPF ALLOW DNS REQUESTS AT LIMIT",
     "rspamd allows 30 look-ups; 10 is the limit (RFC 7208 4.6.4)"},
    {"ARC ALLOW CHECK", "the sealers' keys are not in the material's zone, so the look-up says "
                        "that they do not exist (RFC 8617 5.2, RFC 6376 6.1.2)"},
    {"SPF EXTERNAL RELAY", "rspamd takes the client from a Received field of a configured relay; "
                           "check_host() is asked of the client itself (RFC 7208 2.5)"},
};

static const char *rspamd_reason(const char *name)
{
    for (size_t i = 0; i < COUNT_OF(RSPAMD_DIFFERS); i++)
        if (strcmp(name, RSPAMD_DIFFERS[i].name) == 0)
            return RSPAMD_DIFFERS[i].reason;
    return NULL;
}

static bool dmarc_symbol_is(const char *symbol, const struct dmarc_facts *facts)
{
    static const struct {
        const char *symbol;
        enum dmarc_policy policy;
    } fails[] = {{"DMARC_POLICY_SOFTFAIL", DMARC_POLICY_NONE},
                 {"DMARC_POLICY_QUARANTINE", DMARC_POLICY_QUARANTINE},
                 {"DMARC_POLICY_REJECT", DMARC_POLICY_REJECT}};

    if (strcmp(symbol, "DMARC_POLICY_ALLOW") == 0)
        return facts->result == AUTH_PASS;
    if (strcmp(symbol, "DMARC_NA") == 0)
        return facts->result == AUTH_NONE;
    if (strcmp(symbol, "DMARC_DNSFAIL") == 0)
        return facts->result == AUTH_TEMPERROR;
    for (size_t i = 0; i < COUNT_OF(fails); i++)
        if (strcmp(symbol, fails[i].symbol) == 0)
            return facts->result == AUTH_FAIL && facts->policy == fails[i].policy;
    return false;
}

static bool symbol_is(const char *symbol, const struct rspamd_facts *facts)
{
    static const struct {
        const char *symbol;
        enum auth_result result;
    } spf[] = {{"R_SPF_ALLOW", AUTH_PASS},        {"R_SPF_PLUSALL", AUTH_PASS},
               {"R_SPF_FAIL", AUTH_FAIL},         {"R_SPF_SOFTFAIL", AUTH_SOFTFAIL},
               {"R_SPF_NEUTRAL", AUTH_NEUTRAL},   {"R_SPF_NA", AUTH_NONE},
               {"R_SPF_DNSFAIL", AUTH_TEMPERROR}, {"R_SPF_PERMFAIL", AUTH_PERMERROR}};

    if (strncmp(symbol, "DMARC_", 6) == 0)
        return dmarc_symbol_is(symbol, &facts->dmarc);
    if (strcmp(symbol, "ARC_ALLOW") == 0)
        return facts->arc.result == AUTH_PASS;
    if (strcmp(symbol, "ARC_INVALID") == 0)
        return facts->arc.result == AUTH_FAIL;
    for (size_t i = 0; i < COUNT_OF(spf); i++)
        if (strcmp(symbol, spf[i].symbol) == 0)
            return facts->spf.result == spf[i].result;
    return false;
}

static void rspamd_evaluate(struct arena *arena, const json_t *step, struct bytes message,
                            struct rspamd_facts *facts)
{
    const struct auth_dns dns = {.arena = arena, .deadline_us = DEADLINE_NEVER};
    const struct bytes from = bytes_of_text(text_of(step, "From"));
    const size_t at = bytes_find_last_byte(from, '@');
    struct spf_request request = {.helo = bytes_of_text(text_of(step, "Helo")),
                                  .receiver = "mx.example"};

    if (!ip_parse(bytes_of_text(text_of(step, "IP")), &request.client))
        request.client = (struct ip_address){.family = ENDPOINT_IPV4, .octets = {127, 0, 0, 1}};
    if (at < from.count)
        request.from = (struct address){bytes_slice(from, 0, at), bytes_skip(from, at + 1)};
    spf_check(&dns, &request, &facts->spf);
    verify_in_pieces(arena, message, 4096, &facts->dkim, &facts->arc);
    dmarc_check(&dns, bytes_slice(message, 0, header_end(message)), &facts->spf, &facts->dkim,
                &facts->dmarc);
}

static void run_rspamd_step(const char *name, const json_t *step)
{
    char path[CHECK_PATH_MAX], file[512], got[256];
    struct arena arena = ARENA_WITH_LIMIT(64 * MIB);
    CLEANUP(buffer_free) struct buffer message = BUFFER_WITH_LIMIT(8 * MIB);
    const json_t *expect = json_object_get(step, "expect"),
                 *not = json_object_get(step, "expect_not");
    struct rspamd_facts facts = {0};
    bool right = true;

    snprintf(file, sizeof file, "rspamd/%s", text_of(step, "message"));
    INVARIANT(read_message(shared_path(file, path), &message));
    rspamd_evaluate(&arena, step, buffer_view(&message), &facts);
    for (size_t i = 0; i < json_array_size(expect); i++)
        right = right &&
                symbol_is(json_string_value(json_array_get(json_array_get(expect, i), 0)), &facts);
    for (size_t i = 0; i < json_array_size(not ); i++)
        right = right &&
                !symbol_is(json_string_value(json_array_get(json_array_get(not, i), 0)), &facts);
    snprintf(got, sizeof got, "spf=%s (%.*s) arc=%s dmarc=%s p=%s",
             auth_result_name(facts.spf.result), BYTES_PRINT(facts.spf.problem),
             auth_result_name(facts.arc.result), auth_result_name(facts.dmarc.result),
             dmarc_policy_name(facts.dmarc.policy));
    judge(right, name, rspamd_reason(name), got);
    arena_clear(&arena);
}

static void run_rspamd(const char *file)
{
    json_t *dns = load("rspamd/dns.json"), *suite = load(file);
    const json_t *cases = json_object_get(suite, "cases");

    load_rspamd_zone(json_object_get(dns, text_of(suite, "dns")));
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const json_t *one = json_array_get(cases, i), *steps = json_object_get(one, "steps");
        for (size_t k = 0; k < json_array_size(steps); k++)
            run_rspamd_step(text_of(one, "name"), json_array_get(steps, k));
    }
    json_decref(dns);
    json_decref(suite);
}

/* ------------------------------------------------------------------ Authentication-Results,
 * MTA-STS */

static bool item_is(const struct authres_item *item, const json_t *wanted)
{
    const char *method = text_of(wanted, "method"),
               *value = text_of(json_object_get(wanted, "fields"), "Value");

    if (strcmp(method, "SenderID") == 0)
        method = "sender-id";
    return bytes_equal_text_nocase(item->method, method) && strncmp(value, "Result", 6) == 0 &&
           bytes_equal_text_nocase(item->result, value + 6);
}

static void run_authres(void)
{
    json_t *suite = load("authres-go-msgauth/parse.json");

    for (size_t i = 0; i < json_array_size(suite); i++) {
        const json_t *one = json_array_get(suite, i), *wanted = json_object_get(one, "results");
        struct arena arena = ARENA_WITH_LIMIT(MIB);
        struct authres_item items[16];
        unsigned count = COUNT_OF(items);
        struct bytes id = BYTES_EMPTY;
        bool right =
            authres_parse(&arena, bytes_of_text(text_of(one, "value")), &id, items, &count) &&
            bytes_equal_text(id, text_of(one, "authserv_id")) && count == json_array_size(wanted);
        for (unsigned k = 0; right && k < count; k++)
            right = item_is(&items[k], json_array_get(wanted, k));
        judge(right, text_of(one, "value"), NULL, "something else");
        arena_clear(&arena);
    }
    json_decref(suite);
}

static void run_sts(void)
{
    json_t *suite = load("mta-sts-chasquid/match.json");

    for (size_t i = 0; i < json_array_size(suite); i++) {
        const json_t *one = json_array_get(suite, i);
        const char *mx = text_of(one, "mx"), *pattern = text_of(one, "pattern");
        const bool match = sts_matches(bytes_of_text(mx), bytes_of_text(pattern));
        char name[256];
        snprintf(name, sizeof name, "%s against %s", mx, pattern);
        judge(match == json_is_true(json_object_get(one, "match")), name, NULL,
              match ? "a match" : "no match");
    }
    json_decref(suite);
}

int main(void)
{
    char path[CHECK_PATH_MAX];

    if (access(shared_path("rspamd/dns.json", path), R_OK) != 0) {
        puts("SKIP ../shared is absent\n0 passed, 0 failed, 1 skipped");
        return 0;
    }
    corpus_begin("dmarc-mailauth");
    run_mailauth("dmarc-mailauth/dmarc-verify-test.json");
    run_mailauth("dmarc-mailauth/get-dmarc-record-test.json");
    corpus_end();
    corpus_begin("rspamd 115_dmarc");
    run_rspamd("rspamd/115_dmarc.json");
    corpus_end();
    corpus_begin("rspamd 117_spf");
    run_rspamd("rspamd/117_spf.json");
    corpus_end();
    corpus_begin("rspamd 321_arc_check");
    run_rspamd("rspamd/321_arc_check.json");
    corpus_end();
    corpus_begin("authres-go-msgauth");
    run_authres();
    corpus_end();
    corpus_begin("mta-sts-chasquid");
    run_sts();
    corpus_end();
    free(fake_records);
    printf("%u passed, %u failed\n", all_passed, all_failed);
    return all_failed > 0;
}
