/*
 * DKIM keys at the selectors that were named, that were seen in mail, and that are common: what is
 * there, how long, revoked, readable (RFC 6376 3.6.1, RFC 8301).
 */
#include "diagnose/dns_inside.h"

enum { RSA_BITS_REFUSED = 1024, RSA_BITS_ASKED = 2048 };

/* Of large providers, mail servers' manuals and their habits. */
static const char *const COMMON[] = {
    "default", "dkim", "mail", "selector1",  "selector2", "google",       "s1",
    "s2",      "k1",   "k2",   "k3",         "mandrill",  "mx",           "smtp",
    "fm1",     "fm2",  "fm3",  "protonmail", "zoho",      "everlytickey1"};

static void judge_length(struct dns_check *check, struct bytes name,
                         const struct dkim_key_facts *facts)
{
    const struct bytes bits = dns_number(check->arena, facts->bits);

    if (facts->kind != KEY_RSA)
        return;
    if (facts->bits < RSA_BITS_REFUSED)
        dns_find(&check->findings, FINDING_DKIM_WEAK, name, bits);
    else if (facts->bits < RSA_BITS_ASKED)
        dns_find(&check->findings, FINDING_DKIM_SHORT, name, bits);
}

static void judge_key(struct dns_check *check, const char *selector, struct bytes name,
                      struct bytes text)
{
    struct dkim_key_facts facts;
    const char *problem = dkim_key_lint(check->arena, text, &facts);

    if (facts.revoked)
        dns_find(&check->findings, FINDING_DKIM_REVOKED, name, BYTES_EMPTY);
    else if (problem)
        dns_find(&check->findings, FINDING_DKIM_SYNTAX, name, bytes_of_text(problem));
    else
        judge_length(check, name, &facts);
    if (facts.testing)
        dns_find(&check->findings, FINDING_DKIM_TESTING, name, BYTES_EMPTY);
    json_array_append_new(json_object_get(check->answer, "dkim"),
                          json_pack("{s:s, s:o, s:s, s:i, s:b, s:b, s:s}", "selector", selector,
                                    "record", diagnose_text(text), "kind",
                                    facts.kind == KEY_ED25519 ? "ed25519" : "rsa", "bits",
                                    (int)facts.bits, "revoked", facts.revoked, "testing",
                                    facts.testing, "problem", problem ? problem : ""));
}

/* A guessed selector of a domain whose wildcard answers everything proves nothing. */
static bool is_key(struct bytes text)
{
    return bytes_starts_with(bytes_trim(text), BYTES_LITERAL("v=DKIM1")) ||
           bytes_find(text, BYTES_LITERAL("p=")) < text.count;
}

/* FAILED: the look-up did. */
static enum lookup_status check_selector(struct dns_check *check, const char *selector, bool named)
{
    const struct bytes name = arena_print(check->arena, "%s._domainkey.%.*s", selector,
                                          BYTES_PRINT(check->request->domain));
    struct dns_answer answer;
    const enum lookup_status status = dns_check_ask(check, name, DNS_TXT, &answer);
    unsigned keys = 0;

    if (status == LOOKUP_ABSENT && named)
        dns_find(&check->findings, FINDING_DKIM_MISSING, name, name);
    for (unsigned i = 0; i < answer.count; i++) {
        if (!named && !is_key(answer.records[i].text))
            continue;
        judge_key(check, selector, name, answer.records[i].text);
        keys++;
    }
    if (keys > 1)
        dns_find(&check->findings, FINDING_DKIM_SEVERAL, name, dns_number(check->arena, keys));
    return status;
}

static bool is_learned(const struct dns_check *check, const char *selector)
{
    for (unsigned i = 0; i < check->learned_count; i++)
        if (bytes_equal_text_nocase(bytes_of_text(selector), check->learned[i]))
            return true;
    return false;
}

static bool is_named(const struct dns_check_request *request, const char *selector)
{
    for (unsigned i = 0; i < request->selector_count; i++)
        if (bytes_equal_text_nocase(bytes_of_text(selector), request->selectors[i]))
            return true;
    return false;
}

void dns_check_dkim(struct dns_check *check)
{
    const struct dns_check_request *request = check->request;
    json_t *list = json_array();

    json_object_set_new(check->answer, "dkim", list);
    for (unsigned i = 0; i < request->selector_count; i++)
        check_selector(check, request->selectors[i], true);
    /* Mail was signed with these, so a key that is gone matters. */
    for (unsigned i = 0; i < check->learned_count; i++)
        if (!is_named(request, check->learned[i]))
            check_selector(check, check->learned[i], true);
    for (size_t i = 0; i < COUNT_OF(COMMON); i++)
        if (!is_named(request, COMMON[i]) && !is_learned(check, COMMON[i]) &&
            check_selector(check, COMMON[i], false) == LOOKUP_FAILED)
            break; /* one such answer is enough; the rest is only guessed */
    if (json_array_size(list) == 0 && request->selector_count + check->learned_count == 0)
        dns_find(&check->findings, FINDING_DKIM_NONE_KNOWN, request->domain, BYTES_EMPTY);
}
