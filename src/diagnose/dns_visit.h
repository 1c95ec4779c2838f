/* Visits to mail hosts, for the checks that connect. Private to the room. */
#ifndef DIAGNOSE_DNS_VISIT_H
#define DIAGNOSE_DNS_VISIT_H

#include "crypto/crypto.h"
#include "diagnose/dns_inside.h"
#include "wire/wire.h"

#define DNS_VISIT_EHLO BYTES_LITERAL("EHLO dns-check.invalid")
/* Reserved (RFC 2606), so that it belongs to nobody whom a host could rightly serve. */
#define DNS_VISIT_STRANGER BYTES_LITERAL("RCPT TO:<relay-test@dns-check.example>")

struct dns_visit {
    struct dns_check *check;
    struct bytes host;
    struct endpoint to;
    struct stream *stream;
    struct wire_input input;
    bool listens; /* the input is open */
    struct tls_context *tls;
    uint64_t deadline_us;
};

struct dns_visit dns_visit_to(struct dns_check *check, struct bytes host,
                              const struct endpoint *to);
struct io_result dns_visit_dial(struct dns_visit *visit);
/* Says a line, or nothing when it is empty, and reads a reply; false: none came. */
bool dns_visit_say(struct dns_visit *visit, struct bytes line, struct smtp_reply *reply);
unsigned dns_visit_ask(struct dns_visit *visit, struct bytes line); /* the code; 0: none came */
/* TLS from here on, once a visit; on failure the connection is gone. */
struct io_result dns_visit_secure(struct dns_visit *visit, const struct tls_peer_demand *demand,
                                  struct tls_facts *facts);
/* Why it failed, or why the certificate proves nothing. */
struct bytes dns_visit_words(const struct dns_visit *visit, const struct tls_facts *facts,
                             struct io_result shaken);
void dns_visit_close(struct dns_visit *visit); /* fits CLEANUP */
/* The first address of a host; false: it has none, which is told. */
bool dns_visit_address(struct dns_check *check, struct bytes host, uint16_t port,
                       struct endpoint *to);

#endif
