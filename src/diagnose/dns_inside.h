/* What the files of `dns check` and `dns propagation` share. Private to the room. */
#ifndef DIAGNOSE_DNS_INSIDE_H
#define DIAGNOSE_DNS_INSIDE_H

#include "auth/auth.h"
#include "diagnose/diagnose_private.h"
#include "resolve/resolve.h"

enum dns_severity { DNS_ERROR = 0, DNS_WARNING, DNS_INFO };
enum dns_finding {
#define FINDING(token, id, severity, text, fix) FINDING_##token,
#include "diagnose/dns_findings.def"
#undef FINDING
};

/* Where findings go: the list, and the name that {domain} stands for. */
struct dns_findings {
    json_t *list;
    struct bytes domain;
};
/* Adds one: about which DNS name or server, and the subject for {}. Each pair only once. */
void dns_find(struct dns_findings *findings, enum dns_finding finding, struct bytes name,
              struct bytes subject);
bool dns_findings_have_error(const json_t *list);
void dns_print_findings(struct buffer *into, const json_t *list);

enum { DNS_LEARNED_MAX = 32 };

/* One check of a domain. */
struct dns_check {
    const struct dns_check_request *request;
    struct arena *arena;
    struct dns_findings findings;
    json_t *answer;
    bool null_mx;
    const char *learned[DNS_LEARNED_MAX]; /* selectors that this server signs with or has seen */
    unsigned learned_count;
};

/* A question within the check's time; a failure becomes a finding. Sleeps. */
MUST_USE enum lookup_status dns_check_ask(struct dns_check *check, struct bytes name,
                                          enum dns_type type, struct dns_answer *answer);
/* Does the validator, if there is one, vouch for this answer? Sleeps. */
bool dns_check_is_validated(struct dns_check *check, struct bytes name, enum dns_type type);
struct bytes dns_number(struct arena *arena, uint64_t number);

/* The parts; each fills its member of the answer. Sleep. */
void dns_check_mx(struct dns_check *check);
void dns_check_reverse(struct dns_check *check);
void dns_check_spf(struct dns_check *check);
void dns_check_dkim(struct dns_check *check);
void dns_check_dmarc(struct dns_check *check);
void dns_check_sts(struct dns_check *check); /* after dns_check_mx */
void dns_check_sts_policy(struct dns_check *check, json_t *object);
void dns_check_tlsrpt(struct dns_check *check);
void dns_check_dane(struct dns_check *check); /* after dns_check_mx and dns_check_sts */
void dns_check_dnssec(struct dns_check *check);
void dns_check_learn(struct dns_check *check); /* before dns_check_dkim */
void dns_check_own(struct dns_check *check);   /* after dns_check_mx */
struct dns_visit;
/* Behind EHLO: a recipient that is nobody's. */
void dns_check_stranger(struct dns_visit *visit);
void dns_check_relay(struct dns_check *check, struct bytes host, const struct endpoint *to);
void dns_check_submission(struct dns_check *check); /* with a config */
bool dns_check_is_private(const struct ip_address *ip);
void dns_check_starttls(struct dns_check *check, struct bytes host, const struct dns_answer *tlsa);

#endif
