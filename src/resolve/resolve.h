/*
 * resolve: DNS questions and answers.
 *
 * Flow:   resolve_ask(question) -> memory, or who asks the same already, or libunbound (validating)
 *         in the loop -> FOUND, ABSENT or FAILED.
 *         In the simulator resolve_sim.c answers from the seeded world instead (same header).
 * Owns:   one libunbound context a loop; what was answered, until its TTL is over.
 * Sleeps: resolve_ask and all that is built on it, until the deadline.
 * Fails:  LOOKUP_FAILED with a reason; NXDOMAIN and NODATA are ABSENT only when a server said so.
 * Never:  turns a time-out into "absent".
 */
#ifndef RESOLVE_RESOLVE_H
#define RESOLVE_RESOLVE_H

#include "base/base.h"
#include "observe/observe.h"
#include "runtime/runtime.h"

enum dns_type {
    DNS_A = 1,
    DNS_NS = 2,
    DNS_CNAME = 5,
    DNS_SOA = 6,
    DNS_PTR = 12,
    DNS_MX = 15,
    DNS_TXT = 16,
    DNS_AAAA = 28,
    DNS_TLSA = 52
};

struct resolver;
struct resolver_settings {
    const struct endpoint *forward; /* none: the servers of /etc/resolv.conf */
    unsigned forward_count;
    uint64_t timeout_us;      /* one question in all */
    uint64_t patience_us;     /* the questions of one check together; 0: twice the time-out */
    uint64_t serve_stale_us;  /* how long resolve_recall knows an answer beyond its TTL; 0: not */
    const char *trust_anchor; /* file or NULL: DNSSEC off */
};
MUST_USE struct resolver *resolver_open(const struct resolver_settings *settings, char *why,
                                        size_t why_room);
void resolver_close(struct resolver *resolver);

/* One record's data, decoded by type; others stay raw. */
struct dns_record {
    enum dns_type type;
    uint16_t preference; /* MX */
    struct bytes
        name; /* MX, PTR, NS, CNAME: host name in text, lower case, no final dot; "" is the root */
    struct bytes text;    /* TXT: strings glued with no space */
    struct ip_address ip; /* A, AAAA */
    struct bytes raw;     /* rdata */
};

struct dns_answer {
    struct dns_record *records; /* of the type asked, CNAMEs followed; none unless FOUND */
    unsigned count;
    uint32_t ttl_s;
    struct bytes canonical; /* where CNAMEs led, lower case, no final dot; "": the name itself */
    bool secure;            /* validated by DNSSEC, from the name asked to what was found */
    bool nxdomain;          /* ABSENT because the name does not exist (else: no such type) */
    bool from_memory;       /* nobody was asked, so it does not say that anybody answers */
    bool stale; /* by resolve_recall: its TTL is over. It may let mail in, never keep it out */
};

struct resolve_question {
    struct bytes name;
    enum dns_type type;
    uint64_t deadline_us;
};

/*
 * Names are text without escapes, at most 253 octets; a bad name is ABSENT. Everything in the
 * answer lives in the arena. Sleeps.
 */
MUST_USE struct lookup resolve_ask(struct resolver *resolver, struct arena *arena,
                                   struct bytes name, enum dns_type type,
                                   struct dns_answer *answer);

/* The same, at the latest at that time. Sleeps. */
MUST_USE struct lookup resolve_ask_by(struct resolver *resolver, struct arena *arena,
                                      const struct resolve_question *question,
                                      struct dns_answer *answer);
/* When a check that begins now has had all its time, whatever number of questions it takes. */
uint64_t resolver_patience_end(const struct resolver *resolver);
/*
 * For who was told FAILED and may do with what was last known (RFC 8767): FOUND, with `stale` set,
 * or FAILED. An old "absent" is never recalled. Never sleeps.
 */
MUST_USE struct lookup resolve_recall(struct resolver *resolver, struct arena *arena,
                                      struct bytes name, enum dns_type type,
                                      struct dns_answer *answer);

/* After a look-up failed: whose fault is it? */
enum resolver_state {
    RESOLVER_MUTE = 0, /* DNS answers nothing here: our resolver, or the way to it */
    RESOLVER_STARVED,  /* this process lacks what it takes to ask: descriptors, memory */
    RESOLVER_ANSWERS,  /* so it was that name */
};
/*
 * Asks for names that no memory can know, below the root and below our own; a host that knows only
 * some zones answers for one of them. *words: what was wrong. Sleeps, for one question's time.
 */
MUST_USE enum resolver_state resolve_canary(struct resolver *resolver, struct arena *arena,
                                            const char *own_name, struct bytes *words);

/* One host of a destination, by preference. */
struct mail_host {
    struct bytes name;
    uint16_t preference;
    struct ip_address *addresses; /* IPv6 and IPv4 interleaved */
    unsigned address_count;
    struct lookup lookup;   /* of its addresses */
    struct bytes canonical; /* where CNAMEs led; "": nowhere else */
    bool named_secure;      /* it is the domain's host by DNSSEC */
    bool secure;            /* and its addresses came validated, too */
};
struct mail_hosts {
    struct mail_host *hosts; /* sorted by preference, shuffled within one */
    unsigned count;
    bool null_mx, implicit; /* RFC 7505; RFC 5321 5.1 fallback to A/AAAA */
    bool nxdomain;
};
/* MX by RFC 5321 5.1. FOUND when at least one host has an address, or null_mx. Sleeps. */
MUST_USE struct lookup resolve_mail_hosts(struct resolver *resolver, struct arena *arena,
                                          struct bytes domain, struct mail_hosts *hosts);

/* Reverse name with forward confirmation: FOUND only when confirmed. Sleeps. */
MUST_USE struct lookup resolve_reverse(struct resolver *resolver, struct arena *arena,
                                       const struct ip_address *ip, struct bytes *name);

/* ------------------------------------------------------------------ direct questions: to one
 * server, one transport, nothing followed, nothing remembered */

struct direct_question {
    struct endpoint server;
    struct bytes name;
    uint16_t type;
    bool tcp;       /* else UDP, sent twice */
    bool edns;      /* 1232 octets offered; off: 512 */
    bool recursive; /* RD: for resolvers */
    bool dnssec;    /* DO: signatures wanted, AD told; needs edns */
    bool unchecked; /* CD: without validation */
    uint64_t timeout_us;
};
enum direct_outcome {
    DIRECT_FAILED = 0, /* refused, reset, unreachable: see `io` */
    DIRECT_SILENT,     /* no answer in time */
    DIRECT_MALFORMED,  /* an answer that is no DNS message for this question */
    DIRECT_ANSWERED,
};
struct direct_record {
    struct bytes owner; /* lower case, no final dot */
    uint16_t type;
    uint32_t ttl_s;
    struct bytes data; /* as in a zone file, host names in lower case */
};
struct direct_answer {
    enum direct_outcome outcome;
    struct io_result io;
    unsigned rcode;
    bool authoritative, truncated, recursion_available, authenticated, edns;
    size_t octets;        /* of the message */
    struct bytes message; /* itself, when `dnssec` was asked for */
    struct direct_record *answers, *authorities;
    unsigned answer_count, authority_count;
};
#define DIRECT_RECORDS_MAX 200 /* of one section */
/* Everything lives in the arena. Sleeps. */
void resolve_direct(struct arena *arena, const struct direct_question *question,
                    struct direct_answer *answer);
/* All of them side by side, at most DIRECT_PARALLEL_MAX at once. Sleeps. */
#define DIRECT_PARALLEL_MAX 64
void resolve_direct_all(struct arena *arena, const struct direct_question *questions,
                        struct direct_answer *answers, unsigned count);
const char *direct_rcode_name(unsigned rcode); /* "NOERROR", "SERVFAIL", ... */

/* ------------------------------------------------------------------ a link of the chain of trust,
 * looked into: for who has to say what is broken. Answers here were asked for with `dnssec`. */

/* How a zone hangs on its parent. */
enum dnssec_link {
    DNSSEC_LINK_ABSENT = 0, /* no DS record */
    DNSSEC_LINK_UNKNOWN,    /* only of algorithms or digests that validators pass over */
    DNSSEC_LINK_STRANGE,    /* no DS record names a key that the zone has */
    DNSSEC_LINK_NAMED,
};
enum dnssec_link dnssec_link_of(const struct direct_answer *ds, const struct direct_answer *keys);

/* What is to be said of the best signature of a set; the later, the better. */
enum dnssec_state {
    DNSSEC_UNDECIDED = 0, /* an alias, an unreadable message, memory */
    DNSSEC_ABSENT,        /* the records are not there, and nothing proves that */
    DNSSEC_UNSIGNED,
    DNSSEC_ALGORITHM,   /* nobody here knows it */
    DNSSEC_KEY_MISSING, /* by a key that is not among those */
    DNSSEC_WRONG, /* it does not fit the records: they were changed, or signed with another key */
    DNSSEC_EARLY, /* it fits, and does not hold yet */
    DNSSEC_EXPIRED,
    DNSSEC_RIGHT,
};
struct dnssec_look {
    enum dnssec_state state;
    bool denied; /* it is about the proof that there are no such records (RFC 4035 5.4, 5155) */
    unsigned key_tag, algorithm; /* of the signature */
    int64_t from_s, until_s;     /* it holds, since 1970 */
};
struct dnssec_question {
    const struct direct_answer *answer;
    const struct direct_answer *keys; /* the DNSKEY records of the zone */
    const struct direct_answer *ds;   /* only keys that these name; NULL: all */
    struct bytes zone;                /* that signs */
    struct bytes name;
    uint16_t type;
    int64_t now_s;
};
void dnssec_look_at(const struct dnssec_question *question, struct dnssec_look *look);
/* The tags of the keys that may sign a zone (RFC 4034 appendix B). */
unsigned dnssec_key_tags(const struct direct_answer *keys, uint16_t *tags, unsigned room);
const char *dnssec_algorithm_name(unsigned algorithm); /* "ECDSAP256SHA256" */

#endif
