/*
 * diagnose: why is this mail not moving, whose fault is it, and what to do.
 *
 * Flow:   an id, or a question -> recorded facts from spool and history -> one story as JSON ->
 * text. Owns:   nothing. Sleeps: never in fibers: it reads databases and blocks, so it is called by
 * commands or in the worker pool; the DNS checks alone run in a fiber and sleep. Fails:  by false
 * and words that say what could not be read. Never:  states what no record backs.
 */
#ifndef DIAGNOSE_DIAGNOSE_H
#define DIAGNOSE_DIAGNOSE_H

#include <jansson.h>

#include "base/base.h"
#include "config/config.h"
#include "diagnose/explain.h"
#include "directory/directory.h"
#include "history/history.h"
#include "observe/observe.h"
#include "resolve/resolve.h"
#include "spool/spool.h"
#include "verdict/verdict.h"

/* Where the stories come from. */
struct diagnose_place {
    const char *spool_directory, *history_directory;
    int64_t now_wall_us;
    const struct config *config; /* or NULL: then nothing is said of lifetimes and routes */
};
struct diagnose_place diagnose_place_of(const struct config *config, int64_t now_wall_us);

/*
 * The story of a message, or of a session, by id. ABSENT: nothing is recorded under this id. *story
 * is the caller's (json_decref). FAILED fills `why`.
 */
MUST_USE struct lookup diagnose_story(const struct diagnose_place *place, uint64_t id,
                                      json_t **story, char *why, size_t why_room);
void diagnose_print_story(struct buffer *into, const json_t *story);

/* The same for all that waits for a domain: {"domain","waiting","by_cause","recipients",...}. */
MUST_USE bool diagnose_destination(const struct diagnose_place *place, const char *domain,
                                   json_t **story, char *why, size_t why_room);
void diagnose_print_destination(struct buffer *into, const json_t *story);

/* What we deferred since then: by cause, who came back, who is still out (the ledger). */
MUST_USE bool diagnose_ledger(const struct diagnose_place *place, int64_t since_wall_us,
                              json_t **summary, char *why, size_t why_room);
void diagnose_print_ledger(struct buffer *into, const json_t *summary);

/* The queue, grouped: by destination, cause or age; or one row a recipient (DIAGNOSE_BY_NONE). */
enum diagnose_grouping {
    DIAGNOSE_BY_NONE = 0,
    DIAGNOSE_BY_DESTINATION,
    DIAGNOSE_BY_CAUSE,
    DIAGNOSE_BY_AGE
};
MUST_USE bool diagnose_queue(const struct diagnose_place *place,
                             const struct spool_view_filter *filter,
                             enum diagnose_grouping grouping, json_t **rows, char *why);
#define DIAGNOSE_WHY_ROOM 256
void diagnose_print_queue(struct buffer *into, const json_t *rows, enum diagnose_grouping grouping);

/* Incidents as the query asks, each with its meaning and what to run:
 * [{"id","direction","state","cause","side","subject","first","last","failures","waiting",...}] */
MUST_USE bool diagnose_incidents(const struct diagnose_place *place, struct incident_query query,
                                 json_t **incidents, char *why, size_t why_room);
void diagnose_print_incident(struct buffer *into, const json_t *incident);
void diagnose_print_incidents(struct buffer *into, const json_t *incidents);

/* The dialogues that were kept under this id: [{"time","message","session","lines":[...]}] */
MUST_USE bool diagnose_transcripts(const struct diagnose_place *place, uint64_t id,
                                   json_t **transcripts, char *why, size_t why_room);
void diagnose_print_transcripts(struct buffer *into, const json_t *transcripts);

/* ------------------------------------------------------------------ the postmaster's report: a
 * letter about an incident of sending, for a person to send . */
struct report_request {
    const struct diagnose_place *place; /* with its config */
    uint64_t incident;
    struct resolver *resolver;        /* NULL: nothing is asked of DNS */
    const struct endpoint *resolvers; /* that are asked for our records, beside */
    unsigned resolver_count;
    const struct endpoint *servers; /* authoritative ones; none: by the delegation */
    unsigned server_count;
    const struct ip_address *ips; /* that we send from; none: those of our host name */
    unsigned ip_count;
};
/* In a fiber of its own world: reads databases, and sleeps on DNS. NULL with why. */
json_t *diagnose_report(struct arena *arena, const struct report_request *request, char *why,
                        size_t why_room);
void diagnose_print_report(struct buffer *into, const json_t *report);
/* Drafts are kept a day, one a site (report's "site"). Both need a fiber and sleep. */
MUST_USE bool diagnose_report_read(const char *spool, const char *site, int64_t now_wall_us,
                                   struct buffer *text);
MUST_USE bool diagnose_report_write(const char *spool, const char *site, struct bytes text,
                                    char *why, size_t why_room);

/* ------------------------------------------------------------------ the operator's desk
 * (operator.c): summaries of incidents by mail and command, once a mark. In a running server only.
 */
struct operator_desk;
struct operator_settings {
    const struct config *config;
    struct spool *spool;
    struct history *history;
    struct directory *directory;
    struct resolver *resolver;
};
MUST_USE struct operator_desk *
operator_open(const struct operator_settings *settings); /* NULL: memory */
/* Before a process is locked in and has threads: makes the helper that runs the command. */
MUST_USE bool operator_caller_start(const struct config *config, char *why, size_t why_room);
/* False: it hangs on the disk, and what it uses must stay. Sleeps. */
bool operator_close(struct operator_desk *desk);

/* One row of the catalogue of causes:
 * {"cause","side","kind","code","enhanced","text","meaning","advice"}. */
json_t *diagnose_cause(enum cause cause);
/* docs/451.md */
void diagnose_print_manual(struct buffer *into);
void diagnose_print_cause(struct buffer *into, const json_t *cause);

/* ------------------------------------------------------------------ DMARC */

struct dmarc_record;
struct dmarc_report_request {
    const char *history_directory, *hostname;
    struct bytes domain; /* of the policy */
    const struct dmarc_record *record;
    int64_t since_wall_us, until_wall_us;
};
/* XML of RFC 9990; nothing, and why, when there are no rows: a report has at least one. False: the
 * history cannot be read. `why` is empty unless there is something to say. Blocks. */
MUST_USE bool diagnose_dmarc_report(struct buffer *into, const struct dmarc_report_request *request,
                                    char *why, size_t why_room);

/* ------------------------------------------------------------------ DNS. Both need a fiber and
 * sleep, until the deadline at the latest. The answer is the caller's; NULL: memory. */

struct dns_check_request {
    struct resolver *resolver;
    struct bytes domain;
    const struct ip_address *ips; /* that send: reverse names and SPF are checked for them */
    unsigned ip_count;
    const char *const *selectors; /* of DKIM, beside the common ones */
    unsigned selector_count;
    const struct endpoint *validator; /* a resolver whose word on DNSSEC is taken, or NULL */
    bool connect;                     /* to the mail hosts: STARTTLS, DANE, open relay */
    const struct config *config; /* of this server, or NULL: its own domains are compared with it */
    const char *authorities;     /* PEM file for the policy host of MTA-STS; NULL: the system's */
    uint16_t https_port;         /* there; 0: 443 */
    uint16_t port;               /* there; 0: 25 */
    uint64_t deadline_us;
};
/* {"domain","findings":[...],"spf":{},"mx":[],"dmarc":{},"dkim":[],"dane":[],"mta_sts":{},
 * "tls_rpt":{},"dnssec":{"chain":[]}} */
json_t *diagnose_dns_check(struct arena *arena, const struct dns_check_request *request);
void diagnose_print_dns_check(struct buffer *into, const json_t *answer);

struct dns_propagation_request {
    struct resolver *resolver; /* finds the delegation */
    struct bytes name;
    const char *const *types; /* "TXT"; none: the usual ones of mail */
    unsigned type_count;
    const struct endpoint *servers; /* authoritative ones; none: by the delegation */
    unsigned server_count;
    uint16_t port;                    /* of those that the delegation names; 0: 53 */
    const struct endpoint *resolvers; /* that are asked as well */
    unsigned resolver_count;
    uint64_t deadline_us;
};
/* {"name","zone","types":[...],"servers":[...],"findings":[...],"agree"} */
json_t *diagnose_dns_propagation(struct arena *arena,
                                 const struct dns_propagation_request *request);
void diagnose_print_dns_propagation(struct buffer *into, const json_t *answer);
bool diagnose_dns_type_is_known(const char *name); /* "TXT", "TYPE65" */
/* Is a finding of severity "error" in it? */
bool diagnose_dns_has_error(const json_t *answer);

/* ------------------------------------------------------------------ TLS reports (RFC 8460) */

struct tls_report_request {
    const char *directory; /* the spool's, where tls.db lies */
    const char *hostname;  /* who reports */
    const char *contact;   /* whom to ask about it; NULL or "": postmaster@hostname */
    const char *domain;    /* about it alone; NULL: about all */
    int64_t since_day;     /* since 1970, UTC */
};
/* An array of reports as RFC 8460 4.4 writes them, by day and domain; NULL: it cannot be read. It
 * blocks on the disk. */
json_t *diagnose_tls_report(const struct tls_report_request *request);
void diagnose_print_tls_report(struct buffer *into, const json_t *reports);
/* Of one report. */
const char *diagnose_tls_report_domain(const json_t *report);
void diagnose_tls_report_sessions(const json_t *report, int64_t *good, int64_t *failed);
/* One report as the mail that brings it (RFC 8460 5.3), with CR LF. False on memory. */
struct tls_mail {
    const char *hostname, *from;
    struct bytes to;
    int64_t wall_us;
};
MUST_USE bool diagnose_tls_mail(struct buffer *into, const json_t *report,
                                const struct tls_mail *mail);

#endif
