/*
 * auth: SPF, DKIM, DMARC, ARC and Authentication-Results: facts, never verdicts.
 *
 * Flow:   SPF is asked with the envelope; DKIM and ARC read the message in pieces while it is
 * received (dkim_open, dkim_add, dkim_finish); DMARC joins both with the author's domain. Owns: the
 * state of one message's verification, in the caller's arena and freed by close. Sleeps: on DNS
 * only, within the deadline of the question. Fails:  by AUTH_TEMPERROR: zero, so that forgotten
 * memory is never a pass, never a fail, never "none". Never:  decides a fate; trusts a byte of the
 * message or of DNS; grows beyond its limits.
 */
#ifndef AUTH_AUTH_H
#define AUTH_AUTH_H

#include "base/base.h"
#include "crypto/crypto.h"
#include "mail/mail.h"
#include "observe/observe.h"
#include "resolve/resolve.h"
#include "runtime/runtime.h"

enum auth_result { /* RFC 8601 2.7 */
                   AUTH_TEMPERROR = 0,
                   AUTH_NONE,
                   AUTH_PASS,
                   AUTH_FAIL,
                   AUTH_SOFTFAIL,
                   AUTH_NEUTRAL,
                   AUTH_PERMERROR,
                   AUTH_POLICY,
};
_Static_assert(AUTH_TEMPERROR == 0, "forgotten memory must read as a temporary error");
const char *auth_result_name(enum auth_result result); /* "pass", "temperror", ... */

/* The DNS behind all of them: one resolver, one arena for answers, one deadline, and how many
 * questions may be asked. */
struct auth_dns {
    struct resolver *resolver;
    struct arena *arena;
    uint64_t deadline_us;
};

/* ------------------------------------------------------------------ SPF (RFC 7208) */

enum spf_identity { SPF_MAIL_FROM = 0, SPF_HELO };

struct spf_request {
    struct ip_address client;
    struct bytes helo;    /* as the client said it */
    struct address from;  /* of MAIL; the null sender is checked as postmaster@helo (2.4) */
    const char *receiver; /* our host name, for %{r} in explanations */
    enum spf_identity identity;
};

struct spf_facts {
    enum auth_result result;
    struct bytes domain;      /* that was checked */
    struct bytes mechanism;   /* that matched: "ip4:192.0.2.0/24", "-all", or empty */
    struct bytes explanation; /* from exp=, macros expanded; or empty */
    struct bytes problem;     /* why permerror or temperror, in words */
    unsigned lookups, void_lookups;
};
#define SPF_LOOKUPS_MAX 10
#define SPF_VOID_LOOKUPS_MAX 2
/* Sleeps. */
void spf_check(const struct auth_dns *dns, const struct spf_request *request,
               struct spf_facts *facts);
/* "Received-SPF: ..." with CRLF (RFC 7208 9.1). */
void spf_print_received(struct buffer *into, const struct spf_request *request,
                        const struct spf_facts *facts);

/* ------------------------------------------------------------------ DKIM (RFC 6376, 8301, 8463) */

#define DKIM_SIGNATURES_MAX 5 /* further ones are not looked at, and said so in `reason` */

struct dkim_facts {
    enum auth_result result;
    struct bytes domain, selector, identity; /* d=, s=, i= */
    struct bytes algorithm;                  /* "rsa-sha256" */
    struct bytes reason;                     /* in words, for anything but a pass */
    struct bytes signature_start;            /* first 8 characters of b=, for header.b (RFC 6008) */
    bool testing;                            /* t=y in the key */
};
struct dkim_report {
    struct dkim_facts facts[DKIM_SIGNATURES_MAX];
    unsigned count;
    unsigned ignored; /* signatures over the limit */
};

struct dkim; /* one message's verification, DKIM and ARC together: they hash the same body */
/* NULL on memory. It takes at most 512 KiB of the arena, a few KiB as a rule; the facts live there,
 * so they outlive dkim_close. */
MUST_USE struct dkim *dkim_open(struct arena *arena);
/* The message in order, in pieces of any size, CRLF line ends. Never sleeps. */
void dkim_add(struct dkim *dkim, struct bytes piece);
/* After the last piece: fetches keys, checks signatures. Sleeps. */
void dkim_finish(struct dkim *dkim, const struct auth_dns *dns, struct dkim_report *report);
void dkim_close(struct dkim **dkim); /* fits CLEANUP */

/* Signing. */
struct dkim_signer {
    const char *domain, *selector;
    const struct private_key *key;
    struct bytes headers;     /* "from:to:subject", empty: the default set, with oversigning */
    int64_t wall_us;          /* t= */
    uint64_t expires_after_s; /* x=, 0: none */
};
/* Reads the message from the source and appends "DKIM-Signature: ..." with CRLF. False: `why` says.
 * Sleeps. */
struct auth_source {
    struct io_result (*read)(void *argument, struct span into, uint64_t offset);
    void *argument;
    uint64_t size_bytes;
};
MUST_USE bool dkim_sign(const struct dkim_signer *signer, const struct auth_source *message,
                        struct buffer *into, char *why, size_t why_room);

/* ------------------------------------------------------------------ ARC (RFC 8617) */

struct arc_facts {
    enum auth_result result; /* NONE: no chain; PASS, FAIL, TEMPERROR */
    unsigned instances;      /* the highest i= */
    struct bytes sealer;     /* d= of the newest seal */
    struct bytes reason;
};
/* After dkim_finish on the same object. Sleeps. */
void arc_finish(struct dkim *dkim, const struct auth_dns *dns, struct arc_facts *facts);
/* Appends the three header fields of a new set (AS, AMS, AAR in this order, each with CRLF);
 * nothing when the chain already ends in cv=fail (RFC 8617 5.1). */
struct arc_sealer {
    struct dkim_signer signer;
    struct bytes authentication_results; /* the value for AAR, without authserv-id */
    const char *authserv_id;
    enum auth_result chain; /* what arc_finish said */
};
MUST_USE bool arc_seal(const struct arc_sealer *sealer, const struct auth_source *message,
                       struct buffer *into, char *why, size_t why_room);

/* ------------------------------------------------------------------ DMARC (RFC 9989) */

enum dmarc_policy { DMARC_POLICY_NONE = 0, DMARC_POLICY_QUARANTINE, DMARC_POLICY_REJECT };
const char *dmarc_policy_name(enum dmarc_policy policy);

struct dmarc_record {
    enum dmarc_policy p, sp, np;
    bool has_p, has_sp, has_np, testing;
    char psd; /* 'y', 'n', 'u' */
    bool strict_dkim, strict_spf;
    struct bytes rua, ruf, fo;
};
/* NONE: it is no DMARC record; PASS: *record is filled in; PERMERROR: it is one, with an error that
 * voids it. */
enum auth_result dmarc_parse(struct bytes text, struct dmarc_record *record);

struct dmarc_facts {
    enum auth_result result;    /* NONE, PASS, FAIL, TEMPERROR, PERMERROR */
    struct bytes author_domain; /* of From */
    struct bytes policy_domain; /* where the record was found */
    struct bytes organizational_domain;
    enum dmarc_policy policy;       /* that applies (p, sp or np, one step lower with t=y) */
    bool spf_aligned, dkim_aligned; /* an aligned pass */
    bool temperror_matters;         /* an undecided SPF or DKIM could have passed in alignment */
    bool record_failed;             /* TEMPERROR since the policy itself could not be looked up */
    bool from_malformed; /* PERMERROR: not exactly one From field, or one that cannot be read */
    struct bytes reason;
    struct dmarc_record record;
};
/* `head`: the message's header. Sleeps. */
void dmarc_check(const struct auth_dns *dns, struct bytes head, const struct spf_facts *spf,
                 const struct dkim_report *dkim, struct dmarc_facts *facts);
/* The domain of a From field that names exactly one. */
MUST_USE bool auth_author_domain(struct arena *arena, struct bytes head, struct bytes *domain);
/* The organizational domain by the tree walk of RFC 9989; empty on a temporary error. Sleeps. */
struct bytes dmarc_organizational_domain(const struct auth_dns *dns, struct bytes domain,
                                         enum auth_result *result);

/* ------------------------------------------------------------------ Authentication-Results (RFC
 * 8601) */

struct auth_facts {
    const char *authserv_id;
    const struct spf_request *spf_request; /* or NULL: the method is left out */
    const struct spf_facts *spf;
    const struct dkim_report *dkim;
    const struct arc_facts *arc;
    const struct dmarc_facts *dmarc;
    struct bytes iprev; /* "pass", "fail", ... or empty */
    struct ip_address client;
};
/* The value: "id; spf=pass smtp.mailfrom=...; dkim=..." without name and line end, folded. */
void authres_print(struct buffer *into, const struct auth_facts *facts);
/* Does this Authentication-Results value claim our id, in any spelling (comments, quotes, case,
 * folding)? */
bool authres_claims(struct bytes value, const char *authserv_id);
/* Reads a value as a relying party does: false when it cannot be understood. Each result is given
 * once. */
struct authres_item {
    struct bytes method, result;
};
MUST_USE bool authres_parse(struct arena *arena, struct bytes value, struct bytes *authserv_id,
                            struct authres_item *items, unsigned *count /* in: room; out: items */);

/* ------------------------------------------------------------------ records for the sending side
 */

/* MTA-STS (RFC 8461). */
enum sts_mode { STS_NONE = 0, STS_TESTING, STS_ENFORCE };
struct sts_policy {
    enum sts_mode mode;
    uint64_t max_age_s;
    struct bytes *mx; /* patterns */
    unsigned mx_count;
};
MUST_USE bool sts_parse_record(struct bytes txt, struct bytes *id); /* "v=STSv1; id=..." */
MUST_USE bool sts_parse_policy(struct arena *arena, struct bytes text, struct sts_policy *policy);
bool sts_matches(struct bytes mx, struct bytes pattern);
/* TLS-RPT (RFC 8460): the rua of "v=TLSRPTv1; rua=...". */
MUST_USE bool tlsrpt_parse_record(struct bytes txt, struct bytes *rua);

/* ------------------------------------------------------------------ records read for people: every
 * fault by its place, where the servers above stop at the first */

enum spf_term_kind { /* an SPF record term by term */
                     SPF_TERM_BROKEN = 0,
                     SPF_TERM_ALL,
                     SPF_TERM_INCLUDE,
                     SPF_TERM_A,
                     SPF_TERM_MX,
                     SPF_TERM_PTR,
                     SPF_TERM_IP4,
                     SPF_TERM_IP6,
                     SPF_TERM_EXISTS,
                     SPF_TERM_REDIRECT,
                     SPF_TERM_EXP,
                     SPF_TERM_OTHER, /* a modifier that RFC 7208 does not know: passed over */
};
struct spf_term_facts {
    enum spf_term_kind kind;
    enum auth_result qualified; /* what a match means; of mechanisms */
    struct bytes text;
    struct bytes domain;  /* domain-spec; empty: the current domain */
    bool has_macro;       /* so the domain is known only with a message at hand */
    unsigned prefix_bits; /* ip4, ip6 */
    size_t offset;        /* of the term in the record */
    size_t fault_offset;  /* BROKEN: of what is wrong */
    struct bytes problem; /* BROKEN: in words */
};
MUST_USE bool spf_lint_is_record(struct bytes txt); /* "v=spf1" and then a space or the end */
/* False: memory. *terms lives in the arena. Never sleeps. */
MUST_USE bool spf_lint(struct arena *arena, struct bytes record, struct spf_term_facts **terms,
                       unsigned *count);

struct dkim_key_facts {
    enum key_kind kind;
    unsigned bits; /* 0: the key cannot be used */
    bool testing, revoked;
};
struct bytes dkim_key_data(struct bytes text); /* p=, base 64; empty when it cannot be read */
/* A key record (RFC 6376 3.6.1). NULL when good, else what is wrong with it. Never sleeps. */
MUST_USE const char *dkim_key_lint(struct arena *arena, struct bytes text,
                                   struct dkim_key_facts *facts);

#endif
