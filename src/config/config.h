/*
 * config: option tables -> one immutable snapshot.
 *
 * Flow:   config_load(file) -> checks -> struct config, or a list of errors with file and line.
 * Owns:   the snapshot's arena.
 * Sleeps: never; it reads files at start and on reload, before anything depends on it.
 * Fails:  with every error it finds, never half: the old snapshot runs on.
 * Never:  guesses: an unknown setting is an error.
 */
#ifndef CONFIG_CONFIG_H
#define CONFIG_CONFIG_H

#include "base/base.h"

enum listen_kind { LISTEN_SMTP = 0, LISTEN_SUBMISSION, LISTEN_LMTP };
enum tls_mode { TLS_MODE_STARTTLS = 0, TLS_MODE_IMPLICIT, TLS_MODE_NONE };
enum tls_use {
    TLS_USE_MAY = 0, /* what the next hop offers, unless DANE or MTA-STS demand more */
    TLS_USE_MUST,    /* encrypted, by whomever */
    TLS_USE_DANE,    /* proved by DANE */
    TLS_USE_NEVER,
    TLS_USE_VERIFY, /* proved by DANE, or by an authority that is trusted */
};
enum check_mode { CHECK_OFF = 0, CHECK_RECORD, CHECK_ENFORCE };
enum on_permerror { ON_PERMERROR_REFUSE = 0, ON_PERMERROR_ACCEPT };
enum on_quarantine { ON_QUARANTINE_MARK = 0, ON_QUARANTINE_HOLD };
enum filter_speaks { FILTER_CLAMD = 0, FILTER_SPAMD, FILTER_MILTER };
enum on_fault {
    ON_FAULT_DEFER = 0,
    ON_FAULT_REFUSE,
    ON_FAULT_ACCEPT,
    ON_FAULT_HOLD,
    ON_FAULT_SCAN_LATER
};
enum refusal { REFUSAL_DEFER = 0, REFUSAL_REFUSE };
enum on_poison { ON_POISON_DEFER = 0, ON_POISON_HOLD, ON_POISON_REFUSE };
enum deliver_kind {
    DELIVER_NONE = 0,
    DELIVER_MAILDIR,
    DELIVER_LMTP,
    DELIVER_SMTP,
    DELIVER_PIPE,
    DELIVER_LIST, /* ends at a list, whose members are recipients of their own; no setting */
};
/* What becomes of mail with octets beyond ASCII where the next hop takes none (RFC 6152 3). */
enum downgrade { DOWNGRADE_CONVERT = 0, DOWNGRADE_REFUSE, DOWNGRADE_SEND };

struct config_listen {
    const char *name;
    struct endpoint address;
    enum listen_kind kind;
    enum tls_mode tls;
    bool proxy; /* clients come through a proxy that says PROXY first */
};

/* "maildir:PATH", "lmtp:unix:PATH", "lmtp:HOST:PORT", "smtp:HOST:PORT", "pipe:NAME"; HOST may be a
 * name. */
struct config_deliver {
    enum deliver_kind kind;
    struct bytes target; /* what follows the kind: a path with {user} {domain} {tag}, an endpoint, a
                            host, a pipe's name */
    struct endpoint endpoint; /* filled in when target is a literal endpoint; else family NONE */
    struct bytes host;        /* when it is a name */
    uint16_t port;
    bool implicit_tls; /* "smtps:HOST:PORT": encrypted from the first byte (RFC 8314) */
};

/* How we show up at a next hop. */
struct config_sending {
    const char *helo;                   /* "": hostname */
    const char *login;                  /* file with name and password, or "" */
    struct ip_address source4, source6; /* family NONE: as the machine chooses */
    enum downgrade downgrade;
};

/* A command that mail is given to on its standard input (docs/pipe.md). */
struct config_pipe {
    const char *name;
    const char **command; /* one a argument: the program's path first; {user} and so on inside */
    unsigned command_count;
    const char *user, *group, *directory; /* "": our own user; the user's group */
    const char **writes; /* below which alone it may change anything; none: anywhere */
    unsigned write_count;
    uint64_t timeout_us, memory;
    uint32_t concurrency;
    bool from_line, network;
};

struct config_domain {
    const char *name; /* lower case */
    const char *users,
        *aliases; /* "file:...", "sqlite:...", "ldap://...", "postgresql://..." or "" */
    struct endpoint passwords; /* Dovecot's auth socket; family NONE: `users` knows them */
    struct config_deliver deliver;
    const char *alias_pipes;     /* that aliases may lead to, separated by blanks */
    enum refusal disabled, full; /* how final the directory's words are */
    const char *catch_all;       /* address or "" */
    char tag_separator;          /* '+' by default, 0 = none */
    const char **filters;        /* names, or "all" */
    unsigned filter_count;
    uint64_t spared_filters; /* those that do not judge its mail: bit i is config.filters[i] */
};
enum { CONFIG_FILTERS_MAX = 64 };

struct config_auth {
    const char *domain; /* of login names without one; or "" */
    bool scram, without_tls;
    uint32_t failures;
    uint64_t delay_us;
};

/* Mail that an alias leads to elsewhere. */
struct config_forward {
    const char *srs_domain, *srs_secrets; /* or "" */
    uint64_t srs_max_age_us;
};

struct config_route {
    const char *domain;
    struct config_deliver via; /* kind NONE: by MX, with what else is set here */
    enum tls_use tls;
    struct config_sending sending;
};

struct config_filter {
    const char *name;
    enum filter_speaks speaks;
    struct endpoint *addresses; /* instances, in order of preference */
    unsigned address_count;
    uint64_t timeout_us, connect_timeout_us, command_timeout_us;
    enum on_fault on_fault;
    uint32_t poison_after;
    enum on_poison on_poison;
    double reject_score;
    bool name_in_reply, reuse;
    bool partial; /* some domain does without it; set by the checks */
};

struct config_checks {
    enum check_mode spf, dkim, dmarc, arc, reverse_dns, sender_domain;
    enum on_permerror spf_permerror;
    enum on_quarantine quarantine;
    const char *trusted_sealers; /* domains, separated by blanks */
    uint64_t patience_us;
};

/* One key that signs outgoing mail; several may be of one domain. */
struct config_sign {
    const char *name;
    const char *domain, *selector, *key;
    bool seal; /* ARC, of what is passed on */
};

struct config_resolver {
    struct endpoint *forward; /* none: the system's */
    unsigned forward_count;
    uint64_t timeout_us, patience_us, serve_stale_us;
    const char *trust_anchor; /* file or "" */
};

struct config_dnsbl {
    const char *name; /* the list's zone */
    enum check_mode mode;
};

/* Bounds towards a recipient's domain, or a provider's mail hosts. */
struct config_destination {
    const char *name;
    uint32_t connections, messages; /* at once; an hour, 0: any */
};

struct config_verp {
    const char *sender;
    char separator;
};

struct config_greylist {
    bool enabled;
    uint64_t delay_us, retry_us, keep_us;
};

/* Sources of users and aliases that are on other machines, or cost a question. */
struct config_directory {
    uint64_t timeout_us;
    uint32_t connections;
    uint64_t cache_us, stale_positive_us; /* 0: off */
    const char *own_delivery;             /* what users may name as theirs, separated by blanks */
};

/* Ages of an incident's marks, and what ends it. */
struct config_incidents {
    uint64_t notice_us, sustained_us, escalate_us, settle_us, calm_us;
};

struct config_retry_step {
    uint64_t every_us, until_us; /* until 0: one step of this length (the last such repeats) */
};
struct config_retry {
    struct config_retry_step *steps;
    unsigned step_count;
    uint64_t warn_after_us, expire_after_us, ambiguous_pause_us;
    unsigned jitter_percent;
};

struct config_limits {
    uint64_t message_size, memory; /* of the worker; 0: any */
    uint32_t recipients, connections, connections_per_client, hops, errors;
    uint32_t client_messages, client_recipients, user_messages, user_recipients,
        client_failures; /* an hour */
    uint64_t command_timeout_us, data_timeout_us, after_dot_us, session_us;
};

struct config {
    struct arena arena;
    const char *file;                              /* where it came from */
    const char *hostname, *spool, *history, *user; /* history: the spool, if not set */
    struct config_listen *listens;
    unsigned listen_count;
    const char *tls_certificate, *tls_key; /* "" when TLS is off */
    struct config_domain *domains;
    unsigned domain_count;
    struct config_pipe *pipes;
    unsigned pipe_count;
    struct config_auth auth;
    struct config_forward forward;
    struct ip_network *relay_from;
    unsigned relay_from_count;
    struct config_deliver relay_via; /* kind NONE: by MX */
    enum tls_use relay_tls;
    struct config_sending relay_sending;
    bool sts_enabled;            /* MTA-STS for hosts found by MX */
    uint16_t sts_port;           /* of policy hosts; 443 */
    const char *tls_authorities; /* PEM file, or "": the system's */
    struct config_route *routes;
    unsigned route_count;
    struct config_filter *filters;
    unsigned filter_count;
    struct config_sign *signs;
    unsigned sign_count;
    struct config_destination *destinations;
    unsigned destination_count;
    struct config_verp *verps;
    unsigned verp_count;
    bool chunking;
    struct config_dnsbl *dnsbls;
    unsigned dnsbl_count;
    struct config_greylist greylist;
    struct ip_network *proxies, *xclients; /* who may speak for other clients */
    unsigned proxy_count, xclient_count;
    struct config_checks checks;
    struct config_resolver resolver;
    uint64_t ledger_overdue_us;
    struct config_incidents incidents;
    const char *operator_mail, *operator_command; /* or "" */
    const char *tls_report_from;                  /* or "" */
    uint64_t operator_timeout_us;
    bool operator_set_user_id;
    uint64_t transcripts_us, transcripts_bytes;
    struct config_directory directory;
    struct config_retry retry;
    struct config_limits limits;
    struct endpoint web;       /* family NONE: off */
    int log_format, log_level; /* enum log_format, enum log_level of observe */
    unsigned loops;            /* 0: one a core */
    uint16_t smtp_port;        /* next hops' port when routed by MX; 25 */
};

struct config_errors {
    struct buffer text; /* one "FILE:LINE: what is wrong" a line */
    unsigned count;
};

/* NULL when errors were found. Free with config_free. */
MUST_USE struct config *config_load(const char *file, struct config_errors *errors);
/* The same from text, named `name` in errors (tests, the embedded default). */
MUST_USE struct config *config_parse(const char *text, const char *name,
                                     struct config_errors *errors);
/* From bytes that may hold anything, a NUL included. */
MUST_USE struct config *config_parse_bytes(struct bytes text, const char *name,
                                           struct config_errors *errors);
void config_free(struct config *config);
/* A next hop as the settings write it, "smtp:HOST:PORT" or "lmtp:...". Its views are of `text`. */
MUST_USE bool config_parse_next_hop(struct bytes text, struct config_deliver *deliver);
void config_errors_free(struct config_errors *errors);
/* The effective configuration in the language of the file, every setting written out. */
void config_print(struct buffer *into, const struct config *config);
/* The manual's tables of settings in Markdown: docs/configuration.md. */
void config_print_manual(struct buffer *into);
/* "SPOOL-drop": beside the spool, since everybody may leave mail there (docs/sendmail.md). */
#define CONFIG_DROP_ROOM 1024
void config_drop_path(const char *spool, char *into, size_t room);
/* A `deliver` as a setting has it; its views are of `text`. Empty text: kind NONE. */
MUST_USE bool config_parse_deliver(struct bytes text, struct config_deliver *deliver);
/* The next of `own_delivery`; false at the end, or at what is none. */
MUST_USE bool config_next_delivery(struct bytes *rest, struct config_deliver *deliver);
/* Who judges the mail of a domain of ours, or of any other (NULL): bit i is config.filters[i]. */
uint64_t config_filters_of(const struct config *config, const struct config_domain *domain);
const struct config_domain *config_find_domain(const struct config *config, struct bytes domain);
const struct config_route *config_find_route(const struct config *config, struct bytes domain);
const struct config_pipe *config_find_pipe(const struct config *config, struct bytes name);
/* Is it one of the words of a list that blanks separate? */
bool config_names(const char *list, struct bytes word);

/* What the arguments of a pipe's command may hold; `config check` knows these words only. */
enum pipe_value {
    PIPE_USER = 0,
    PIPE_DOMAIN,
    PIPE_TAG,
    PIPE_SENDER,
    PIPE_RECIPIENT,
    PIPE_ORIGINAL,
    PIPE_CLIENT,
    PIPE_ID,
    PIPE_VALUES
};
/* "{user}" at the front of the text: its value's number; PIPE_VALUES: nothing of ours stands there.
 * *length is of the placeholder. */
enum pipe_value config_pipe_value(const char *text, size_t *length);

#endif
