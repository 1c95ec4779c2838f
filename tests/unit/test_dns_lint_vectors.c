/*
 * `dns check` against the cases of vectors/dnslint-checkdmarc: "raises" not empty means: an error must be found; empty: none
 * may be. Cases whose zone is not in the file (upstream mocks it in code) have theirs in the table below. Where we judge
 * otherwise, the table says why; such a case fails the test when it comes to agree, so that the table stays true.
 */
#include <jansson.h>
#include <unistd.h>

#include "auth/auth.h"
#include "diagnose/diagnose.h"
#include "fake_zone.h"

enum { CASES = 78 };

/* ------------------------------------------------------------------ zones that upstream has in code */

struct row {
    const char *id, *name;
    enum dns_type type;
    const char *data; /* NULL: SERVFAIL */
};
static const struct row ROWS[] = {
    {"spf.testSPFMissingMXRecord", "seanthegeek.net", DNS_A, "192.0.2.1"},
    {"spf.testUndecodableCharactersInNonSPFRecord", "example.com", DNS_TXT, "\xff\xfe junk"},
    {"spf.testUndecodableCharactersInNonSPFRecord", "example.com", DNS_TXT, "v=spf1 -all"},
    {"spf.testSPFRecordNotFound", "example.com", DNS_A, "192.0.2.1"},
    {"spf.testSPFParkedDomainWarning", "parked-example.com", DNS_MX, ""},
    {"spf.testSPFVersionMatchingRejectsLeadingWhitespaceMocked", "example.com", DNS_TXT, " v=spf1 -all"},
    {"spf.testMacroInIp4Mechanism", "example.com", DNS_TXT, "v=spf1 ip4:%{i} -all"},
    {"spf.testTooManyMxRecords", "example.com", DNS_TXT, "v=spf1 mx -all"},
    {"spf.testNonDNSExceptionPropagates", "example.com", DNS_TXT, NULL},
    {"dmarc.testDMARCMultipleRecords", "_dmarc.example.com", DNS_TXT, "v=DMARC1; p=none"},
    {"dmarc.testDMARCMultipleRecords", "_dmarc.example.com", DNS_TXT, "v=DMARC1; p=reject"},
    {"dmarc.testNonDNSExceptionAtSelectorPropagates", "_dmarc.example.com", DNS_TXT, NULL},
    {"dmarc.testWalkReraisesDMARCError", "_dmarc.example.com", DNS_TXT, "v=DMARC1; p=none"},
    {"dmarc.testWalkReraisesDMARCError", "_dmarc.example.com", DNS_TXT, "v=DMARC1; p=reject"},
    {"dmarc.testUnrelatedRecordRaises", "_dmarc.example.com", DNS_TXT, "google-site-verification=1"},
    {"dmarc.testNoAuthorizationRecordRaises", "_dmarc.example.com", DNS_TXT,
     "v=DMARC1; p=none; rua=mailto:reports@other.net"},
};

/* What the upstream case asserts beyond error or none. */
static const struct {
    const char *id, *finding;
} WANTED[] = {
    {"spf.testJunkAfterAll", "spf.after_all"},
    {"spf.testJunkAfterAllMocked", "spf.after_all"},
    {"spf.testTooManySPFDNSLookups", "spf.too_many_lookups"},
    {"spf.testTooManySPFVoidDNSLookups", "spf.too_many_void_lookups"},
    {"spf.testSPFMissingMXRecord", "spf.void_lookup"},
    {"spf.testSPFMissingMXRecordMocked", "spf.void_lookup"},
    {"spf.testSPFMissingARecordMocked", "spf.void_lookup"},
    {"spf.testIncludeMissingSPF", "spf.include_without_record"},
    {"spf.testUndecodableCharactersInNonSPFRecord", "spf.undecodable"},
    {"spf.testSPFRecordNotFound", "spf.missing"},
    {"spf.testSPFParkedDomainWarning", "spf.parked_permits"},
    {"spf.testInvalidSPFVersionTagsRejectedMocked", "spf.version"},
    {"spf.testTooManyMxRecords", "spf.mx_too_many_hosts"},
    {"spf.testSPFBrokenExistsMechanismMacro", "spf.syntax"},
    {"dmarc.testInvalidDMARCURI", "dmarc.bad_uri"},
    {"dmarc.testInvalidDMARCPolicyValue", "dmarc.bad_value"},
    {"dmarc.testRFC9989InvalidTValue", "dmarc.bad_value"},
    {"dmarc.testRFC9989RfRemovedWarning", "dmarc.removed_tag"},
    {"dmarc.testDMARCRfRemovedNotValidated", "dmarc.removed_tag"},
    {"dmarc.testDMARCUnknownTagIgnored", "dmarc.unknown_tag"},
    {"dmarc.testDMARCSPFInDMARC", "dmarc.spf_record"},
    {"dmarc.testDMARCFoRedundancy", "dmarc.fo_redundant"},
    {"dmarc.testDMARCSpNoneWarning", "dmarc.sp_none"},
    {"dmarc.testDMARCPTagPositionWarns", "dmarc.p_position"},
    {"dmarc.testDMARCMultipleRecords", "dmarc.multiple"},
    {"dmarc.testUnrelatedRecordRaises", "dmarc.unrelated"},
    {"dmarc.testNoAuthorizationRecordRaises", "dmarc.report_unauthorised"},
    {"dmarc.testNonDNSExceptionAtSelectorPropagates", "dns.lookup_failed"},
    {"spf.testNonDNSExceptionPropagates", "dns.lookup_failed"},
    {"mta_sts.testParseMtaStsRecordSPF", "mta_sts.syntax"},
    {"smtp_tls_reporting.testParseSmtpTlsReportingDuplicateTag", "tls_rpt.syntax"},
};

/* Cases that we judge otherwise, by id or by its beginning; `run`: there is something to run. */
static const struct {
    const char *id;
    bool run;
    const char *why;
} ARGUED[] = {
    {"spf.testIncludeMissingSPF", true, "RFC 7208 5.2: an include without a record is a permanent error of the whole, so mail fails"},
    {"mta_sts.testNoRecordAnywhereRaisesNotFound", true, "RFC 8461 is optional: a sound domain without it would fail the check"},
    {"bimi.", false, "BIMI is a picture beside the message; it has no part in delivery and none in the contract"},
    {"soa.", false, "SOA text is what upstream parses; ours comes off the wire as bounded binary, so no such text exists"},
};

/* ------------------------------------------------------------------ the zone of a case */

static const char *value_of(const json_t *values, const char *const *names)
{
    for (; *names; names++)
        if (json_object_get(values, *names))
            return json_string_value(json_object_get(values, *names));
    return NULL;
}

/* As zone files show them: within quotes. */
static struct bytes unquote(const char *text)
{
    const struct bytes whole = bytes_of_text(text);

    return whole.count > 1 && whole.at[0] == '"' ? bytes_slice(whole, 1, whole.count - 2) : whole;
}

static void add_row(const struct row *row)
{
    if (row->data)
        fake_zone_add(row->name, row->type, bytes_of_text(row->data));
    else
        fake_zone_fault(row->name, row->type, FAKE_SERVFAIL);
}

/* The real domains of upstream's live case, each of them with one look-up more. */
static void add_included(const char *record)
{
    static const char *const names[] = {"_spf.salesforce.com", "spf.protection.outlook.com", "spf.constantcontact.com",
                                        "_spf.elasticemail.com", "servers.mcsv.net", "_spf.google.com", "service-now.com"};

    for (size_t i = 0; i < COUNT_OF(names); i++) {
        if (!strstr(record, names[i]))
            continue;
        fake_zone_add(names[i], DNS_TXT, BYTES_LITERAL("v=spf1 a:out.example.com -all"));
        fake_zone_add("out.example.com", DNS_A, BYTES_LITERAL("192.0.2.7"));
    }
}

static void make_zone(const char *id, const char *domain, const json_t *values)
{
    static const char *const records[] = {"spf_record", "dmarc_record", "record", "rec", NULL};
    static const struct {
        const char *group, *prefix;
    } places[] = {{"spf.", ""}, {"dmarc.", "_dmarc."}, {"mta_sts.", "_mta-sts."}, {"smtp_tls_reporting.", "_smtp._tls."}};
    const char *record = value_of(values, records);
    char name[300], host[40];
    const json_t *several = json_object_get(values, "invalid_records");

    fake_zone_clear();
    for (size_t i = 0; i < COUNT_OF(ROWS); i++)
        if (strcmp(ROWS[i].id, id) == 0)
            add_row(&ROWS[i]);
    for (size_t i = 0; i < json_array_size(several); i++)
        fake_zone_add(domain, DNS_TXT, bytes_of_text(json_string_value(json_array_get(several, i))));
    for (int i = 0; strcmp(id, "spf.testTooManyMxRecords") == 0 && i < 11; i++) {
        snprintf(host, sizeof host, "mx%d.example.com", i);
        fake_zone_add("example.com", DNS_MX, bytes_of_text(host));
    }
    for (size_t i = 0; record && i < COUNT_OF(places); i++) {
        if (strncmp(id, places[i].group, strlen(places[i].group)) != 0)
            continue;
        snprintf(name, sizeof name, "%s%s", places[i].prefix, domain);
        fake_zone_add(name, DNS_TXT, unquote(record));
        add_included(record);
    }
    if (strcmp(id, "spf.testTooManySPFDNSLookups") == 0)
        fake_zone_add(domain, DNS_A, BYTES_LITERAL("192.0.2.1"));
}

/* ------------------------------------------------------------------ judgement */

struct judgement {
    bool error;  /* one of the case's own kind of record */
    bool wanted; /* what the case asks for beyond that was found */
};

static bool is_of_group(const char *finding, const char *id)
{
    static const struct {
        const char *group, *findings;
    } groups[] = {{"spf.", "spf."}, {"dmarc.", "dmarc."}, {"mta_sts.", "mta_sts."}, {"smtp_tls_reporting.", "tls_rpt."}};

    for (size_t i = 0; i < COUNT_OF(groups); i++)
        if (strncmp(id, groups[i].group, strlen(groups[i].group)) == 0)
            return strncmp(finding, groups[i].findings, strlen(groups[i].findings)) == 0 ||
                   strcmp(finding, "dns.lookup_failed") == 0;
    return false;
}

static struct judgement read_findings(const char *id, const json_t *findings)
{
    struct judgement judgement = {.wanted = true};
    const char *wanted = NULL;

    for (size_t i = 0; i < COUNT_OF(WANTED); i++)
        if (strcmp(WANTED[i].id, id) == 0)
            wanted = WANTED[i].finding;
    judgement.wanted = wanted == NULL;
    for (size_t i = 0; i < json_array_size(findings); i++) {
        const json_t *one = json_array_get(findings, i);
        const char *finding = json_string_value(json_object_get(one, "id"));
        if (strcmp(json_string_value(json_object_get(one, "severity")), "error") == 0 && is_of_group(finding, id))
            judgement.error = true;
        if (wanted && strcmp(finding, wanted) == 0)
            judgement.wanted = true;
    }
    return judgement;
}

static struct judgement judge_domain(const char *id, const json_t *values)
{
    static const char *const domains[] = {"domain", NULL};
    const char *domain = value_of(values, domains);
    struct arena arena = ARENA_WITH_LIMIT(64 * MIB);

    if (!domain)
        domain = strstr(id, "LongDomain") ? "a.b.c.example.com" : strstr(id, "WalkReraises") ? "sub.example.com" : "example.com";
    make_zone(id, domain, values);
    const struct dns_check_request request = {.domain = bytes_of_text(domain), .deadline_us = DEADLINE_NEVER};
    json_t *answer = diagnose_dns_check(&arena, &request);
    INVARIANT(answer != NULL);
    const struct judgement judgement = read_findings(id, json_object_get(answer, "findings"));
    json_decref(answer);
    arena_clear(&arena);
    return judgement;
}

static struct judgement judge(const char *id, const json_t *values)
{
    const char *policy = json_string_value(json_object_get(values, "policy"));
    struct arena arena = ARENA_WITH_LIMIT(MIB);
    struct sts_policy parsed;

    if (!policy)
        return judge_domain(id, values);
    const struct judgement judgement = {!sts_parse_policy(&arena, bytes_of_text(policy), &parsed), true};
    arena_clear(&arena);
    return judgement;
}

/* ------------------------------------------------------------------ all of them */

struct counts {
    unsigned passed, failed, argued;
};

static void run_case(const json_t *one, struct counts *counts)
{
    const char *id = json_string_value(json_object_get(one, "id"));
    const bool expected = json_array_size(json_object_get(one, "raises")) > 0;

    for (size_t i = 0; i < COUNT_OF(ARGUED); i++) {
        if (strncmp(id, ARGUED[i].id, strlen(ARGUED[i].id)) != 0)
            continue;
        const bool agrees = ARGUED[i].run && judge(id, json_object_get(one, "values")).error == expected;
        printf("%s %s: %s\n", agrees ? "not ok, the table is out of date:" : "argued", id, ARGUED[i].why);
        counts->failed += agrees;
        counts->argued += !agrees;
        return;
    }
    const struct judgement judgement = judge(id, json_object_get(one, "values"));
    const bool right = judgement.error == expected && judgement.wanted;
    if (!right)
        printf("not ok %s: %s error found, %s expected%s\n", id, judgement.error ? "an" : "no", expected ? "one" : "none",
               judgement.wanted ? "" : "; the finding it asks for is missing");
    counts->passed += right;
    counts->failed += !right;
}

int main(void)
{
    char path[4096];
    json_error_t error;
    const char *shared = getenv("HOLDFAST_SHARED");
    struct counts counts = {0};

    snprintf(path, sizeof path, "%s/vectors/dnslint-checkdmarc/cases.json", shared ? shared : "../shared");
    if (access(path, R_OK) != 0) {
        printf("SKIP ../shared is absent\n0 passed, 0 failed, 1 skipped\n");
        return 0;
    }
    json_t *cases = json_load_file(path, JSON_ALLOW_NUL, &error);
    if (json_array_size(cases) != CASES) {
        printf("not ok %s: %zu cases, %d expected\n0 passed, 1 failed\n", path, json_array_size(cases), CASES);
        return 1;
    }
    for (size_t i = 0; i < CASES; i++)
        run_case(json_array_get(cases, i), &counts);
    json_decref(cases);
    free(fake_records);
    printf("%u judged as upstream, %u argued, of %d\n%u passed, %u failed\n", counts.passed, counts.argued, CASES,
           counts.passed, counts.failed);
    return counts.failed > 0;
}
