/*
 * Does a mail host offer STARTTLS, and does its certificate match its TLSA records? It connects, so
 * only on demand; it says EHLO, STARTTLS and leaves.
 *
 * Sleeps: on the host, some seconds. Never: sends mail.
 */
#include "diagnose/dns_inside.h"
#include "wire/wire.h"

enum { SMTP_PORT = 25, TLSA_MAX = 10 };
#define HOST_PATIENCE_US (15 * US_PER_S)

struct visit {
    struct dns_check *check;
    struct bytes host;
    struct wire_input input;
    uint64_t deadline_us;
};

/* Says a line, reads a reply; false when there was none. */
static bool converse(struct visit *visit, const char *line, struct smtp_reply *reply)
{
    if (*line &&
        stream_write(visit->input.stream, bytes_of_text(line), visit->deadline_us).status != IO_OK)
        return false;
    return smtp_read_reply(&visit->input, visit->check->arena, visit->deadline_us, reply) ==
           WIRE_OK;
}

/* False: not offered, or no mail server; told. */
static bool begin_tls(struct visit *visit)
{
    struct dns_findings *findings = &visit->check->findings;
    struct smtp_reply reply;

    if (!converse(visit, "", &reply) || reply.code / 100 != 2 ||
        !converse(visit, "EHLO dns-check.invalid\r\n", &reply) || reply.code / 100 != 2) {
        dns_find(findings, FINDING_CONNECT_FAILED, visit->host,
                 BYTES_LITERAL("no greeting, or EHLO was refused"));
        return false;
    }
    if (bytes_find_nocase(reply.text, BYTES_LITERAL("STARTTLS")) == reply.text.count ||
        !converse(visit, "STARTTLS\r\n", &reply) || reply.code / 100 != 2) {
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

static void shake_hands(struct visit *visit, struct stream **stream, const struct dns_answer *tlsa)
{
    struct dns_findings *findings = &visit->check->findings;
    struct tlsa_record records[TLSA_MAX];
    char why[160];
    const char *name = arena_text(visit->check->arena, visit->host);
    struct tls_context *context = tls_context_client(why, sizeof why);
    const struct tls_peer_demand demand = {
        .server_name = name, .tlsa = records, .tlsa_count = take_tlsa(tlsa, records)};
    struct tls_facts facts = {0};

    if (!context)
        return;
    const struct io_result shaken =
        tls_connect(context, &demand, stream, visit->deadline_us, &facts);
    if (shaken.status == IO_OK && (demand.tlsa_count == 0 || facts.verified))
        dns_find(findings, FINDING_STARTTLS_FINE, visit->host,
                 arena_print(visit->check->arena, "%s%s", facts.protocol,
                             demand.tlsa_count > 0 ? ", the certificate matches TLSA" : ""));
    else
        dns_find(findings, demand.tlsa_count > 0 ? FINDING_DANE_MISMATCH : FINDING_STARTTLS_FAILED,
                 visit->host,
                 arena_copy(visit->check->arena,
                            bytes_of_text(*facts.why ? facts.why : io_result_text(shaken))));
    tls_context_free(context);
}

static bool first_address(struct dns_check *check, struct bytes host, struct endpoint *to)
{
    struct dns_answer answer;

    if (dns_check_ask(check, host, DNS_A, &answer) != LOOKUP_FOUND &&
        dns_check_ask(check, host, DNS_AAAA, &answer) != LOOKUP_FOUND)
        return false;
    *to = (struct endpoint){.family = answer.records[0].ip.family,
                            .ip = answer.records[0].ip,
                            .port = check->request->port ? check->request->port : SMTP_PORT};
    return true;
}

void dns_check_starttls(struct dns_check *check, struct bytes host, const struct dns_answer *tlsa)
{
    CLEANUP(stream_close_ptr) struct stream *stream = NULL;
    struct visit visit = {
        .check = check, .host = host, .deadline_us = deadline_in(HOST_PATIENCE_US)};
    struct endpoint to;

    visit.deadline_us = MIN_OF(visit.deadline_us, check->request->deadline_us);
    if (!first_address(check, host, &to))
        return;
    const struct io_result dialled = stream_dial(&to, NULL, visit.deadline_us, &stream);
    if (dialled.status != IO_OK) {
        dns_find(&check->findings, FINDING_CONNECT_FAILED, host,
                 bytes_of_text(io_result_text(dialled)));
        return;
    }
    wire_input_open(&visit.input, stream);
    const bool begun = begin_tls(&visit);
    wire_input_discard(&visit.input);
    wire_input_close(&visit.input);
    if (begun)
        shake_hands(&visit, &stream, tlsa);
    dns_check_relay(check, host, &to);
}
