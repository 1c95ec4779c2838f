/*
 * A visit to a mail host: what the checks that connect have in common.
 *
 * Sleeps: on the host, until the visit's deadline. Never: says DATA.
 */
#include "diagnose/dns_visit.h"

#define VISIT_PATIENCE_US (15 * US_PER_S)
#define DIAL_PATIENCE_US (8 * US_PER_S) /* three SYNs */

struct dns_visit dns_visit_to(struct dns_check *check, struct bytes host, const struct endpoint *to)
{
    return (struct dns_visit){
        .check = check,
        .host = host,
        .to = *to,
        .deadline_us = MIN_OF(check->request->deadline_us, deadline_in(VISIT_PATIENCE_US))};
}

struct io_result dns_visit_dial(struct dns_visit *visit)
{
    const struct io_result dialled =
        stream_dial(&visit->to, NULL, MIN_OF(visit->deadline_us, deadline_in(DIAL_PATIENCE_US)),
                    &visit->stream);

    if (dialled.status == IO_OK) {
        wire_input_open(&visit->input, visit->stream);
        visit->listens = true;
    }
    return dialled;
}

bool dns_visit_say(struct dns_visit *visit, struct bytes line, struct smtp_reply *reply)
{
    if (line.count > 0 &&
        (stream_write(visit->stream, line, visit->deadline_us).status != IO_OK ||
         stream_write(visit->stream, BYTES_LITERAL("\r\n"), visit->deadline_us).status != IO_OK))
        return false;
    return smtp_read_reply(&visit->input, visit->check->arena, visit->deadline_us, reply) ==
           WIRE_OK;
}

unsigned dns_visit_ask(struct dns_visit *visit, struct bytes line)
{
    struct smtp_reply reply;

    return dns_visit_say(visit, line, &reply) ? reply.code : 0;
}

static void stop_listening(struct dns_visit *visit)
{
    if (visit->listens)
        wire_input_close(&visit->input);
    visit->listens = false;
}

struct io_result dns_visit_secure(struct dns_visit *visit, const struct tls_peer_demand *demand,
                                  struct tls_facts *facts)
{
    char why[160] = "";
    const char *authorities = visit->check->request->authorities;
    struct io_result shaken = io_failed(0);

    *facts = (struct tls_facts){0};
    wire_input_discard(&visit->input); /* what was said in clear does not count behind TLS */
    stop_listening(visit);
    visit->tls = tls_context_client(why, sizeof why);
    if (visit->tls && (!authorities || tls_context_trust(visit->tls, authorities, why, sizeof why)))
        shaken = tls_connect(visit->tls, demand, &visit->stream, visit->deadline_us, facts);
    else
        snprintf(facts->why, sizeof facts->why, "%s", why);
    if (shaken.status == IO_OK) {
        wire_input_open(&visit->input, visit->stream);
        visit->listens = true;
    }
    return shaken;
}

struct bytes dns_visit_words(const struct dns_visit *visit, const struct tls_facts *facts,
                             struct io_result shaken)
{
    return arena_copy(visit->check->arena,
                      bytes_of_text(*facts->why ? facts->why : io_result_text(shaken)));
}

void dns_visit_close(struct dns_visit *visit)
{
    stop_listening(visit);
    stream_close_ptr(&visit->stream);
    tls_context_free(visit->tls); /* behind its streams, which hand it their tickets */
    visit->tls = NULL;
}

bool dns_visit_address(struct dns_check *check, struct bytes host, uint16_t port,
                       struct endpoint *to)
{
    struct dns_answer answer;

    if (dns_check_ask(check, host, DNS_A, &answer) != LOOKUP_FOUND &&
        dns_check_ask(check, host, DNS_AAAA, &answer) != LOOKUP_FOUND)
        return false;
    *to = (struct endpoint){
        .family = answer.records[0].ip.family, .ip = answer.records[0].ip, .port = port};
    return true;
}
