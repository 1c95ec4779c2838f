/*
 * The ports on which users of this server hand in their mail (RFC 8314), seen as a mail program
 * sees them: by the server's name, with a certificate that has to prove it, AUTH behind TLS only,
 * and nothing for who does not log in.
 *
 * Sleeps: on the server, some seconds. Never: logs in, says DATA.
 */
#include "diagnose/dns_visit.h"

static bool offers_auth(const struct smtp_reply *reply)
{
    return bytes_find_nocase(reply->text, BYTES_LITERAL("AUTH ")) < reply->text.count;
}

static void tell(const struct dns_visit *visit, enum dns_finding finding, const char *words)
{
    dns_find(&visit->check->findings, finding, visit->host,
             arena_print(visit->check->arena, "port %u of %.*s%s%s", visit->to.port,
                         BYTES_PRINT(visit->host), *words ? ": " : "", words));
}

/* As far as the handshake, which port 465 begins with. False: told. */
static bool begin(struct dns_visit *visit, bool implicit)
{
    struct smtp_reply reply;

    if (implicit)
        return true;
    if (dns_visit_ask(visit, BYTES_EMPTY) / 100 != 2 ||
        !dns_visit_say(visit, DNS_VISIT_EHLO, &reply) || reply.code / 100 != 2) {
        tell(visit, FINDING_SUBMISSION_SILENT, "no greeting, or EHLO was refused");
        return false;
    }
    if (offers_auth(&reply))
        tell(visit, FINDING_SUBMISSION_CLEAR, "");
    if (bytes_find_nocase(reply.text, BYTES_LITERAL("STARTTLS")) == reply.text.count ||
        dns_visit_ask(visit, BYTES_LITERAL("STARTTLS")) / 100 != 2) {
        tell(visit, FINDING_SUBMISSION_NO_TLS, "STARTTLS is not offered");
        return false;
    }
    return true;
}

static void converse(struct dns_visit *visit, bool implicit)
{
    const char *name = arena_text(visit->check->arena, visit->host);
    const struct tls_peer_demand demand = {
        .server_name = name, .verify_name = true, .only_look = true};
    struct tls_facts facts;
    struct smtp_reply reply;

    if (!begin(visit, implicit))
        return;
    const struct io_result shaken = dns_visit_secure(visit, &demand, &facts);
    if (shaken.status != IO_OK) {
        tell(visit, FINDING_SUBMISSION_NO_TLS, *facts.why ? facts.why : io_result_text(shaken));
        return;
    }
    if (!facts.verified)
        tell(visit, FINDING_SUBMISSION_CERTIFICATE, facts.why);
    if ((implicit && dns_visit_ask(visit, BYTES_EMPTY) / 100 != 2) ||
        !dns_visit_say(visit, DNS_VISIT_EHLO, &reply) || reply.code / 100 != 2)
        tell(visit, FINDING_SUBMISSION_SILENT, "no greeting behind TLS, or EHLO was refused");
    else if (!offers_auth(&reply))
        tell(visit, FINDING_SUBMISSION_NO_AUTH, "");
    else {
        tell(visit, FINDING_SUBMISSION_FINE, facts.protocol);
        dns_check_stranger(visit);
    }
}

void dns_check_submission(struct dns_check *check)
{
    const struct config *config = check->request->config;
    const struct bytes host = bytes_of_text(config->hostname);
    struct endpoint to;

    for (unsigned i = 0; i < config->listen_count; i++) {
        const struct config_listen *listen = &config->listens[i];
        if (listen->kind != LISTEN_SUBMISSION || listen->address.port == 0 || listen->proxy ||
            !dns_visit_address(check, host, listen->address.port, &to))
            continue;
        CLEANUP(dns_visit_close) struct dns_visit visit = dns_visit_to(check, host, &to);
        const struct io_result dialled = dns_visit_dial(&visit);
        if (dialled.status != IO_OK)
            tell(&visit, FINDING_SUBMISSION_SILENT, io_result_text(dialled));
        else
            converse(&visit, listen->tls == TLS_MODE_IMPLICIT);
    }
}
