/* What the files of SPF share: the parsed record and the state of one evaluation. */
#ifndef AUTH_SPF_INSIDE_H
#define AUTH_SPF_INSIDE_H

#include "auth/auth.h"

enum spf_mechanism { SPF_ALL, SPF_INCLUDE, SPF_A, SPF_MX, SPF_PTR, SPF_IP4, SPF_IP6, SPF_EXISTS };

struct spf_term {
    enum spf_mechanism mechanism;
    enum auth_result qualified; /* what a match means */
    struct bytes text;          /* the term as written */
    struct bytes domain;       /* its domain-spec, macros not expanded; empty: the current domain */
    struct ip_network network; /* ip4, ip6 */
    unsigned prefix4, prefix6; /* a, mx */
};

struct spf_record {
    struct spf_term *terms;
    unsigned count;
    struct bytes redirect, explanation; /* domain-specs; empty: absent */
};

/* The record after selection. False: permanent error, *problem says where. */
MUST_USE bool spf_parse_record(struct arena *arena, struct bytes text, struct spf_record *record,
                               struct bytes *problem);
bool spf_is_record(struct bytes txt); /* "v=spf1" and then a space or the end */

/* One evaluation over all included and redirected records. */
struct spf_run {
    const struct auth_dns *dns;
    const struct spf_request *request;
    struct spf_facts *facts;
    struct bytes sender_local,
        sender_domain; /* of the identity under check, local part never empty */
    struct bytes helo;
    struct bytes validated_name; /* %{p}; empty: not looked up yet */
    unsigned depth;
};

/* A DNS question within the limits. FAILED and ABSENT as resolve says; a spent budget is FAILED.
 * Sleeps. */
MUST_USE struct lookup spf_ask(struct spf_run *run, struct bytes name, enum dns_type type,
                               struct dns_answer *answer);
/* Any confirmed reverse name of the client for this domain (RFC 7208 5.5 and 7.3), best first; up
 * to 10. Sleeps. */
unsigned spf_validated_names(struct spf_run *run, struct bytes *names, unsigned room);

enum spf_macro_place { SPF_MACRO_DOMAIN, SPF_MACRO_EXPLANATION };
/* Is it a well-formed macro-string (RFC 7208 7.1)? */
MUST_USE bool spf_macro_valid(struct bytes text, enum spf_macro_place place);
/* Is the last thing in a well-formed one a macro, not a literal? */
bool spf_macro_ends_text(struct bytes text);
/* Expands a well-formed one for the current domain. False: memory. Sleeps (for %{p}). */
MUST_USE bool spf_macro_expand(struct spf_run *run, struct bytes text, struct bytes domain,
                               struct bytes *expanded);

#endif
