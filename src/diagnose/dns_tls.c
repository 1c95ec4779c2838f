/*
 * What tells senders to encrypt: MTA-STS (RFC 8461), TLS-RPT (RFC 8460), TLSA (RFC 7672).
 */
#include "diagnose/dns_inside.h"

/* ------------------------------------------------------------------ records with a version */

struct versioned {
    const char *prefix; /* of the name: "_mta-sts." */
    struct bytes version;
    enum dns_finding missing, multiple, syntax;
};

/* The one record of this version. False: none, or not one; that is told. */
static bool find_versioned(struct dns_check *check, const struct versioned *kind,
                           struct bytes *name, struct bytes *text)
{
    struct dns_answer answer;
    unsigned found = 0;

    *name = arena_print(check->arena, "%s%.*s", kind->prefix, BYTES_PRINT(check->request->domain));
    const enum lookup_status status = dns_check_ask(check, *name, DNS_TXT, &answer);
    for (unsigned i = 0; i < answer.count; i++)
        if (bytes_starts_with(answer.records[i].text, kind->version) && found++ == 0)
            *text = answer.records[i].text;
    if (status == LOOKUP_ABSENT)
        dns_find(&check->findings, kind->missing, *name, BYTES_EMPTY);
    else if (status == LOOKUP_FOUND && found == 0)
        dns_find(&check->findings, kind->syntax, *name, answer.records[0].text);
    else if (found > 1)
        dns_find(&check->findings, kind->multiple, *name, dns_number(check->arena, found));
    return found == 1;
}

/* Does one tag of this name stand more than once? */
static bool stands_twice(struct bytes text, const char *wanted)
{
    unsigned count = 0;

    while (text.count > 0) {
        struct bytes tag = BYTES_EMPTY, name = BYTES_EMPTY;
        text = bytes_cut(text, ';', &tag);
        const struct bytes value = bytes_cut(tag, '=', &name);
        count += value.count > 0 && bytes_equal_text_nocase(bytes_trim(name), wanted);
    }
    return count > 1;
}

/* ------------------------------------------------------------------ MTA-STS */

void dns_check_sts(struct dns_check *check)
{
    static const struct versioned kind = {"_mta-sts.", BYTES_LITERAL("v=STSv1"),
                                          FINDING_STS_MISSING, FINDING_STS_MULTIPLE,
                                          FINDING_STS_SYNTAX};
    struct bytes name = BYTES_EMPTY, text = BYTES_EMPTY, id = BYTES_EMPTY;
    json_t *object = json_object();

    json_object_set_new(check->answer, "mta_sts", object);
    if (!find_versioned(check, &kind, &name, &text))
        return;
    json_object_set_new(object, "record", diagnose_text(text));
    if (!sts_parse_record(text, &id)) {
        dns_find(&check->findings, FINDING_STS_SYNTAX, name, text);
        return;
    }
    json_object_set_new(object, "id", diagnose_text(id));
    dns_check_sts_policy(check, object);
}

/* ------------------------------------------------------------------ TLS-RPT */

void dns_check_tlsrpt(struct dns_check *check)
{
    static const struct versioned kind = {"_smtp._tls.", BYTES_LITERAL("v=TLSRPTv1"),
                                          FINDING_TLSRPT_MISSING, FINDING_TLSRPT_MULTIPLE,
                                          FINDING_TLSRPT_SYNTAX};
    struct bytes name = BYTES_EMPTY, text = BYTES_EMPTY, rua = BYTES_EMPTY;
    json_t *object = json_object();

    json_object_set_new(check->answer, "tls_rpt", object);
    if (!find_versioned(check, &kind, &name, &text))
        return;
    json_object_set_new(object, "record", diagnose_text(text));
    if (!tlsrpt_parse_record(text, &rua) || stands_twice(text, "rua")) {
        dns_find(&check->findings, FINDING_TLSRPT_SYNTAX, name, text);
        return;
    }
    json_object_set_new(object, "rua", diagnose_text(rua));
}

/* ------------------------------------------------------------------ TLSA */

struct tlsa {
    unsigned usage, selector, matching;
    struct bytes data;
};

static bool read_tlsa(struct bytes raw, struct tlsa *tlsa)
{
    struct reader reader = READER_OF(raw);

    tlsa->usage = reader_u8(&reader);
    tlsa->selector = reader_u8(&reader);
    tlsa->matching = reader_u8(&reader);
    tlsa->data = reader.rest;
    return !reader.failed && tlsa->data.count > 0;
}

/* NULL: it can match a certificate. */
static const char *fault_of(const struct tlsa *tlsa)
{
    if (tlsa->usage > 3)
        return "the usage is none of 0 to 3";
    if (tlsa->selector > 1)
        return "the selector is neither 0 nor 1";
    if (tlsa->matching > 2)
        return "the matching type is none of 0 to 2";
    if (tlsa->matching == 1 && tlsa->data.count != 32)
        return "SHA-256 (matching type 1) has 32 octets";
    if (tlsa->matching == 2 && tlsa->data.count != 64)
        return "SHA-512 (matching type 2) has 64 octets";
    return NULL;
}

static struct bytes hex_of(struct arena *arena, struct bytes data)
{
    CLEANUP(buffer_free) struct buffer text = BUFFER_WITH_LIMIT(64 * KIB);

    for (size_t i = 0; i < data.count; i++)
        buffer_print(&text, "%02x", data.at[i]);
    return arena_copy(arena, buffer_view(&text));
}

static void judge_tlsa(struct dns_check *check, struct bytes name, struct bytes raw, bool secure)
{
    struct tlsa tlsa = {0};
    const bool whole = read_tlsa(raw, &tlsa);
    const char *fault = whole ? fault_of(&tlsa) : "it is cut short";

    if (fault)
        dns_find(&check->findings, FINDING_DANE_MALFORMED, name, bytes_of_text(fault));
    else if (tlsa.usage < 2)
        dns_find(&check->findings, FINDING_DANE_UNUSABLE, name,
                 dns_number(check->arena, tlsa.usage));
    json_array_append_new(json_object_get(check->answer, "dane"),
                          json_pack("{s:o, s:i, s:i, s:i, s:o, s:b, s:s}", "name",
                                    diagnose_text(name), "usage", (int)tlsa.usage, "selector",
                                    (int)tlsa.selector, "matching", (int)tlsa.matching, "data",
                                    diagnose_text(hex_of(check->arena, tlsa.data)), "secure",
                                    secure, "problem", fault ? fault : ""));
}

static void check_host(struct dns_check *check, struct bytes host)
{
    const struct bytes name = arena_print(check->arena, "_25._tcp.%.*s", BYTES_PRINT(host));
    struct dns_answer answer;

    const enum lookup_status status = dns_check_ask(check, name, DNS_TLSA, &answer);
    if (status == LOOKUP_FOUND && !answer.secure && !dns_check_is_validated(check, name, DNS_TLSA))
        dns_find(&check->findings, FINDING_DANE_INSECURE, name, BYTES_EMPTY);
    for (unsigned i = 0; i < answer.count; i++)
        judge_tlsa(check, name, answer.records[i].raw, answer.secure);
    if (check->request->connect)
        dns_check_starttls(check, host, &answer);
}

void dns_check_dane(struct dns_check *check)
{
    const json_t *hosts = json_object_get(check->answer, "mx");

    json_object_set_new(check->answer, "dane", json_array());
    for (size_t i = 0; i < json_array_size(hosts); i++)
        check_host(check, bytes_of_text(diagnose_word(json_array_get(hosts, i), "host")));
}
