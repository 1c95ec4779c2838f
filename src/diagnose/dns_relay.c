/*
 * Does a mail host relay for strangers? It is asked as a stranger would: a recipient that is not
 * its own, and never a message.
 *
 * Sleeps: on the host, some seconds. Never: says DATA.
 */
#include "diagnose/dns_visit.h"

void dns_check_stranger(struct dns_visit *visit)
{
    struct dns_check *check = visit->check;
    const bool near = dns_check_is_private(&visit->to.ip);
    const struct bytes mail = arena_print(check->arena, "MAIL FROM:<dns-check@%.*s>",
                                          BYTES_PRINT(check->request->domain));

    const unsigned welcome = dns_visit_ask(visit, mail);
    const unsigned code = welcome / 100 == 2 ? dns_visit_ask(visit, DNS_VISIT_STRANGER) : welcome;
    if (code / 100 == 2)
        dns_find(&check->findings, near ? FINDING_RELAY_FROM_HERE : FINDING_RELAY_OPEN, visit->host,
                 visit->host);
    else if (code / 100 == 5)
        dns_find(&check->findings, FINDING_RELAY_CLOSED, visit->host, visit->host);
    /* Else it is not known: it does not visit to us, or not now. */
    if (code != 0 && dns_visit_ask(visit, BYTES_LITERAL("RSET")) != 0 &&
        dns_visit_ask(visit, BYTES_LITERAL("QUIT")) == 0)
        return; /* it left first */
}

void dns_check_relay(struct dns_check *check, struct bytes host, const struct endpoint *to)
{
    CLEANUP(dns_visit_close) struct dns_visit visit = dns_visit_to(check, host, to);

    if (dns_visit_dial(&visit).status == IO_OK && dns_visit_ask(&visit, BYTES_EMPTY) / 100 == 2 &&
        dns_visit_ask(&visit, DNS_VISIT_EHLO) / 100 == 2)
        dns_check_stranger(&visit);
}
