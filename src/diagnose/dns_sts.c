/*
 * MTA-STS (RFC 8461): the record, its policy fetched over HTTPS as a sender fetches it, and whether
 * the policy covers the hosts that take the mail.
 */
#include <string.h>

#include "diagnose/dns_inside.h"
#include "fetch/fetch.h"

enum { ADDRESSES_MAX = 8, POLICY_BYTES_MAX = 64 * 1024 };
#define FETCH_PATIENCE_US (20 * US_PER_S)
#define SHORT_AGE_S                                                                                \
    86400 /* below a day an attacker only has to wait for the policy to be forgotten */

static unsigned take_addresses(struct dns_check *check, struct bytes host, enum dns_type type,
                               struct ip_address *addresses, unsigned count)
{
    struct dns_answer answer;

    if (dns_check_ask(check, host, type, &answer) != LOOKUP_FOUND)
        return count;
    for (unsigned i = 0; i < answer.count && count < ADDRESSES_MAX; i++)
        addresses[count++] = answer.records[i].ip;
    return count;
}

/* The policy's text; false when there is none, which is told. */
static bool fetch_policy(struct dns_check *check, struct bytes host, struct bytes *text)
{
    struct dns_findings *findings = &check->findings;
    struct ip_address addresses[ADDRESSES_MAX];
    struct fetch_answer answer;
    unsigned count = take_addresses(check, host, DNS_AAAA, addresses, 0);

    count = take_addresses(check, host, DNS_A, addresses, count);
    if (count == 0) {
        dns_find(findings, FINDING_STS_NO_HOST, host, BYTES_EMPTY);
        return false;
    }
    const struct fetch_request request = {
        .host = arena_text(check->arena, host),
        .path = "/.well-known/mta-sts.txt",
        .port = check->request->https_port,
        .addresses = addresses,
        .address_count = count,
        .authorities = check->request->authorities,
        .bytes_max = POLICY_BYTES_MAX,
        .deadline_us = MIN_OF(check->request->deadline_us, deadline_in(FETCH_PATIENCE_US))};
    if (!request.host)
        return false;
    fetch_https(check->arena, &request, &answer);
    if (answer.outcome != FETCH_ANSWERED) {
        dns_find(findings,
                 answer.outcome == FETCH_UNTRUSTED ? FINDING_STS_UNTRUSTED : FINDING_STS_UNFETCHED,
                 host, arena_copy(check->arena, bytes_of_text(answer.why)));
        return false;
    }
    if (answer.status != 200) {
        dns_find(findings, FINDING_STS_UNFETCHED, host,
                 arena_print(check->arena, "HTTP status %u%s", answer.status,
                             answer.status / 100 == 3 ? ", and redirects are not followed" : ""));
        return false;
    }
    if (!bytes_equal_text(answer.type, "text/plain"))
        dns_find(findings, FINDING_STS_TYPE, host, answer.type);
    *text = answer.body;
    return true;
}

static const char *mode_name(enum sts_mode mode)
{
    switch (mode) {
    case STS_NONE:
        return "none";
    case STS_TESTING:
        return "testing";
    case STS_ENFORCE:
        return "enforce";
    }
    return "none";
}

static bool is_covered(const struct sts_policy *policy, struct bytes host)
{
    for (unsigned i = 0; i < policy->mx_count; i++)
        if (sts_matches(host, policy->mx[i]))
            return true;
    return false;
}

static void judge_hosts(struct dns_check *check, const struct sts_policy *policy, struct bytes name)
{
    const json_t *hosts = json_object_get(check->answer, "mx");
    const enum dns_finding finding =
        policy->mode == STS_ENFORCE ? FINDING_STS_UNCOVERED : FINDING_STS_UNCOVERED_TEST;
    unsigned missing = 0;

    for (size_t i = 0; i < json_array_size(hosts); i++) {
        const struct bytes host = bytes_of_text(diagnose_word(json_array_get(hosts, i), "host"));
        if (is_covered(policy, host))
            continue;
        dns_find(&check->findings, finding, name, host);
        missing++;
    }
    if (missing == 0 && policy->mode == STS_ENFORCE)
        dns_find(&check->findings, FINDING_STS_FINE, name, BYTES_EMPTY);
}

static void judge_policy(struct dns_check *check, struct bytes host, struct bytes text,
                         json_t *object)
{
    struct sts_policy policy = {0};
    json_t *patterns = json_array();

    if (!sts_parse_policy(check->arena, text, &policy)) {
        json_decref(patterns);
        dns_find(&check->findings, FINDING_STS_POLICY_SYNTAX, host, BYTES_EMPTY);
        return;
    }
    for (unsigned i = 0; i < policy.mx_count; i++)
        json_array_append_new(patterns, diagnose_text(policy.mx[i]));
    json_object_set_new(object, "policy",
                        json_pack("{s:s, s:I, s:o}", "mode", mode_name(policy.mode), "max_age",
                                  (json_int_t)policy.max_age_s, "mx", patterns));
    if (policy.mode == STS_TESTING)
        dns_find(&check->findings, FINDING_STS_TESTING, host, BYTES_EMPTY);
    if (policy.mode == STS_NONE) {
        dns_find(&check->findings, FINDING_STS_MODE_NONE, host, BYTES_EMPTY);
        return;
    }
    if (policy.max_age_s < SHORT_AGE_S)
        dns_find(&check->findings, FINDING_STS_SHORT_AGE, host,
                 dns_number(check->arena, policy.max_age_s));
    judge_hosts(check, &policy, host);
}

void dns_check_sts_policy(struct dns_check *check, json_t *object)
{
    const struct bytes host =
        arena_print(check->arena, "mta-sts.%.*s", BYTES_PRINT(check->request->domain));
    struct bytes text = BYTES_EMPTY;

    if (fetch_policy(check, host, &text))
        judge_policy(check, host, text, object);
}
