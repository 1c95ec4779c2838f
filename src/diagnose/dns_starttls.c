/*
 * Does a mail host take mail over TLS as its records promise? STARTTLS on port 25, the certificate
 * against TLSA (RFC 7672) and against what MTA-STS demands (RFC 8461 4.2). It connects, so only on
 * demand; it says EHLO, STARTTLS and leaves.
 *
 * Sleeps: on the host, some seconds. Never: sends mail.
 */
#include <errno.h>

#include "diagnose/dns_visit.h"

enum { SMTP_PORT = 25, TLSA_MAX = 10 };
#define PROBE_PATIENCE_US (3 * US_PER_S)

/* ------------------------------------------------------------------ nobody answers */

/* Another port of the host that takes a connection; 0: none does. */
static unsigned other_port(struct dns_check *check, const struct endpoint *to)
{
    static const uint16_t ports[] = {587, 465, 443};

    for (unsigned i = 0; i < COUNT_OF(ports); i++) {
        CLEANUP(stream_close_ptr) struct stream *stream = NULL;
        struct endpoint other = *to;
        other.port = ports[i];
        const uint64_t deadline_us =
            MIN_OF(check->request->deadline_us, deadline_in(PROBE_PATIENCE_US));
        if (stream_dial(&other, NULL, deadline_us, &stream).status == IO_OK)
            return ports[i];
    }
    return 0;
}

/* Providers close outgoing port 25. Then the host is not at fault, and must not look as if. */
static void tell_unreached(struct dns_check *check, struct bytes host, const struct endpoint *to,
                           struct io_result dialled)
{
    const bool refused = dialled.status == IO_FAILED && dialled.error == ECONNREFUSED;
    const unsigned other = refused ? 0 : other_port(check, to);

    if (other)
        dns_find(&check->findings, FINDING_CONNECT_BLOCKED, host,
                 arena_print(check->arena, "%s, but port %u of %.*s takes connections",
                             io_result_text(dialled), other, BYTES_PRINT(host)));
    else if (refused)
        dns_find(&check->findings, FINDING_CONNECT_FAILED, host,
                 BYTES_LITERAL("the connection is refused: nothing listens there, or a firewall "
                               "on the way says no"));
    else
        dns_find(&check->findings, FINDING_CONNECT_FAILED, host,
                 arena_print(check->arena, "%s, and no other port of it answers either",
                             io_result_text(dialled)));
}

/* ------------------------------------------------------------------ STARTTLS */

/* False: not offered, or no mail server; told. */
static bool begin_tls(struct dns_visit *visit)
{
    struct dns_findings *findings = &visit->check->findings;
    struct smtp_reply reply;

    if (dns_visit_ask(visit, BYTES_EMPTY) / 100 != 2 ||
        !dns_visit_say(visit, DNS_VISIT_EHLO, &reply) || reply.code / 100 != 2) {
        dns_find(findings, FINDING_CONNECT_FAILED, visit->host,
                 BYTES_LITERAL("no greeting, or EHLO was refused"));
        return false;
    }
    if (bytes_find_nocase(reply.text, BYTES_LITERAL("STARTTLS")) == reply.text.count ||
        dns_visit_ask(visit, BYTES_LITERAL("STARTTLS")) / 100 != 2) {
        dns_find(findings, FINDING_STARTTLS_MISSING, visit->host, visit->host);
        return false;
    }
    return true;
}

static unsigned take_tlsa(const struct dns_answer *answer, struct tlsa_record *records)
{
    unsigned count = 0;

    for (unsigned i = 0; i < answer->count && count < TLSA_MAX; i++) {
        struct reader reader = READER_OF(answer->records[i].raw);
        struct tlsa_record *record = &records[count];
        record->usage = reader_u8(&reader);
        record->selector = reader_u8(&reader);
        record->matching = reader_u8(&reader);
        record->data = reader.rest;
        count += !reader.failed && record->usage >= 2 && record->usage <= 3;
    }
    return count;
}

/* Does the policy that was fetched want proof of the host's name? */
static bool is_demanded(const struct dns_check *check, const char *mode)
{
    const json_t *policy = json_object_get(json_object_get(check->answer, "mta_sts"), "policy");

    return bytes_equal_text(bytes_of_text(diagnose_word(policy, "mode")), mode);
}

static void judge_name(struct dns_visit *visit, const struct tls_facts *facts)
{
    struct dns_findings *findings = &visit->check->findings;
    const bool enforced = is_demanded(visit->check, "enforce");

    if (!facts->verified && (enforced || is_demanded(visit->check, "testing")))
        dns_find(findings, enforced ? FINDING_STS_CERTIFICATE : FINDING_STS_CERTIFICATE_TEST,
                 visit->host, dns_visit_words(visit, facts, io_ok(0)));
    else
        dns_find(findings, FINDING_STARTTLS_FINE, visit->host,
                 arena_print(visit->check->arena, "%s, the certificate %s%s%s", facts->protocol,
                             facts->verified ? "proves the name" : "does not prove the name (",
                             facts->verified ? "" : facts->why,
                             facts->verified
                                 ? ""
                                 : "), which senders without DANE and MTA-STS do not ask for"));
}

/* One handshake under one demand: by TLSA records, or by name. False: nobody answers.
 */
static bool shake_hands(struct dns_check *check, struct bytes host, const struct endpoint *to,
                        const struct tls_peer_demand *demand)
{
    CLEANUP(dns_visit_close) struct dns_visit visit = dns_visit_to(check, host, to);
    const struct io_result dialled = dns_visit_dial(&visit);
    struct tls_facts facts;

    if (dialled.status != IO_OK) {
        tell_unreached(check, host, to, dialled);
        return false;
    }
    if (!begin_tls(&visit))
        return true;
    const struct io_result shaken = dns_visit_secure(&visit, demand, &facts);
    const bool by_dane = demand->tlsa_count > 0;
    if (by_dane && (shaken.status != IO_OK || !facts.verified))
        dns_find(&check->findings, FINDING_DANE_MISMATCH, host,
                 dns_visit_words(&visit, &facts, shaken));
    else if (shaken.status != IO_OK)
        dns_find(&check->findings, FINDING_STARTTLS_FAILED, host,
                 dns_visit_words(&visit, &facts, shaken));
    else if (by_dane)
        dns_find(&check->findings, FINDING_STARTTLS_FINE, host,
                 arena_print(check->arena, "%s, the certificate matches TLSA", facts.protocol));
    else
        judge_name(&visit, &facts);
    return true;
}

void dns_check_starttls(struct dns_check *check, struct bytes host, const struct dns_answer *tlsa)
{
    struct tlsa_record records[TLSA_MAX];
    const char *name = arena_text(check->arena, host);
    const struct tls_peer_demand by_dane = {
        .server_name = name, .tlsa = records, .tlsa_count = take_tlsa(tlsa, records)};
    const struct tls_peer_demand by_name = {
        .server_name = name, .verify_name = true, .only_look = true};
    const uint16_t port = check->request->port ? check->request->port : SMTP_PORT;
    struct endpoint to;

    if (!name || !dns_visit_address(check, host, port, &to))
        return;
    /* Senders that know MTA-STS and no DANE ask the certificate for the name all the same. */
    const bool named =
        by_dane.tlsa_count == 0 || is_demanded(check, "enforce") || is_demanded(check, "testing");
    if ((by_dane.tlsa_count == 0 || shake_hands(check, host, &to, &by_dane)) &&
        (!named || shake_hands(check, host, &to, &by_name)))
        dns_check_relay(check, host, &to);
}
