/*
 * deliver: one attempt at one destination: Maildir, LMTP, SMTP, a command.
 *
 * Flow:   an attempt (destination, messages' recipients) -> route -> connection -> dialogue -> a
 * verdict a recipient. Owns:   connections kept open for reuse within one destination. Sleeps:
 * deliver_attempt, on DNS, peers and disk, by RFC 5321 4.5.3.2's times. Fails:  by verdicts; a
 * fault of ours is `local.failed` or `mailbox.failed` and never a bounce. Never:  settles anything,
 * retries by itself, sends in clear where policy forbids.
 */
#ifndef DELIVER_DELIVER_H
#define DELIVER_DELIVER_H

#include "auth/auth.h"
#include "base/base.h"
#include "config/config.h"
#include "crypto/crypto.h"
#include "directory/directory.h"
#include "mail/mail.h"
#include "observe/observe.h"
#include "resolve/resolve.h"
#include "runtime/runtime.h"
#include "spool/spool.h"
#include "verdict/verdict.h"
#include "wire/wire.h"

struct deliver;

/* How long to wait for a peer, by stage (RFC 5321 4.5.3.2). A zero member takes the default. */
struct deliver_timeouts {
    uint64_t connect_us;  /* one address: 30 s */
    uint64_t greeting_us; /* banner, EHLO, MAIL, RCPT, STARTTLS and its handshake: 5 min */
    uint64_t data_us;     /* the reply to DATA: 2 min */
    uint64_t block_us;    /* one piece of the body: 3 min */
    uint64_t dot_us;      /* the final reply: 10 min, so that "maybe delivered" stays rare */
    uint64_t quit_us;     /* 2 s: nothing depends on the answer to QUIT */
};

/*
 * Signs (DKIM) what was changed on the way out, where mail from there is signed here: adds fields
 * with CRLF to `into`, or nothing. Sleeps.
 */
struct deliver_changed {
    const struct envelope *envelope;
    struct bytes head;                /* its header, or the first of it */
    const struct auth_source *source; /* all of it */
};
typedef void deliver_signer(void *argument, struct arena *arena,
                            const struct deliver_changed *changed, struct buffer *into);

struct deliver_settings {
    const struct config *config;
    struct resolver *resolver;
    struct directory *directory;
    struct spool *spool;       /* to read bodies */
    struct tls_context *tls;   /* client side; NULL: never TLS */
    const char *tls_directory; /* for tls.db; NULL: nothing of TLS is kept */
    deliver_signer *sign;      /* or NULL */
    void *sign_argument;
    const char *runner;               /* socket of the runner of commands; NULL or "": none */
    struct deliver_timeouts timeouts; /* zero: the defaults; tests shorten them */
};
MUST_USE struct deliver *deliver_open(const struct deliver_settings *settings, char *why,
                                      size_t why_room);
void deliver_close(struct deliver *deliver);
/* The process is to end: from this instant on no attempt waits for a final reply any more, it ends
 * as ambiguous.dot. Call it on the loop that delivers. */
void deliver_give_up(struct deliver *deliver, uint64_t deadline_us);

/* Where a recipient goes: the unit that concurrency, retries and queues are counted by. */
struct destination {
    char key[320]; /* "maildir:example.com", "lmtp:unix:/run/lmtp", "smtp:127.0.0.1:2626",
                      "mx:example.org", "pipe:NAME" */
    enum deliver_kind kind;
    const struct config_deliver *via; /* NULL: by MX of domain, or each recipient's own Maildir */
    enum tls_use tls;
    const struct config_sending *sending; /* NULL: nothing is set */
    unsigned most;                        /* at once; 0: as the scheduler finds fit */
    char domain[256];
};
/* From the configuration and the recipient's own way of delivery alone. Never sleeps. */
void deliver_route(struct deliver *deliver, const struct recipient *recipient,
                   struct destination *destination);
/*
 * Where mail of our own to this address goes, as RCPT would have it: an alias leads to its targets,
 * each with NOTIFY=NEVER. An unknown address stays as it is, and its delivery says so. Sleeps on
 * the directory.
 */
MUST_USE struct verdict deliver_expand(struct deliver *deliver, struct arena *arena,
                                       struct address address, struct envelope *envelope);
/* May both be recipients of one transaction? Not when the sender on the wire is another, or when
 * different addresses of ours forwarded it, which Delivered-To would tell the one about the other.
 */
bool deliver_may_share(const struct deliver *deliver, const struct recipient *a,
                       const struct recipient *b);

/* The same recipient by another next hop, an operator's; its TLS policy stays. */
void deliver_route_by(struct destination *destination, const struct config_deliver *via);

/* What became of one recipient. Views live in the attempt's arena. */
struct outcome {
    struct verdict verdict; /* ACCEPT: delivered; DEFER; REFUSE: bounce */
    enum stage stage;
    unsigned code;      /* of the peer's reply, 0 when it gave none */
    struct bytes reply; /* full text, lines joined by LF */
    struct bytes enhanced;
    struct bytes host; /* "mx1.example.org[192.0.2.1]:25" or the mailbox's path */
    struct bytes tls;  /* "TLSv1.3 cipher" or empty */
    bool
        dsn_passed_on; /* the next hop offers DSN (RFC 3461), so notifying of success is its duty */
};

struct attempt {
    const struct destination *to;
    const struct queued_message *message;
    const uint32_t *recipients; /* indexes into the message's recipients */
    uint32_t recipient_count;
    struct outcome *outcomes; /* parallel; zeroed memory means undecided, that is DEFER */
    struct bytes transcript;  /* of the dialogue, when somebody was not delivered; in the arena */
    struct arena *arena;
};

/* ------------------------------------------------------------------ what is told about TLS */

/* Who demands something of the TLS of a host (RFC 8460 4.4). */
enum tls_policy_kind { TLS_POLICY_NONE = 0, TLS_POLICY_STS, TLS_POLICY_TLSA };

/* How often one thing happened on a day (UTC). */
struct tls_result {
    int64_t day; /* since 1970 */
    enum tls_policy_kind kind;
    char domain[256], policy[1024]; /* the policy's lines, parted by LF */
    /* Of failures: the name of RFC 8460 4.3 ("" is a success), our words, the peer, our address. */
    char failure[32], reason[160], host[256], ip[48], source[48];
    uint64_t count;
};
/* What tls.db in that folder holds from that day on, by day, domain and policy, until `each` says
 * false. False: it cannot be read. Never sleeps: it blocks, for commands. */
MUST_USE bool deliver_tls_results(const char *directory, int64_t since_day,
                                  bool (*each)(void *argument, const struct tls_result *result),
                                  void *argument);

/* The hosts that mail for a destination would be tried at, and what TLS each has to give. */
struct deliver_host_plan {
    char host[320]; /* as in an outcome */
    char level[16]; /* "clear", "may", "encrypt", "prove", "unusable" */
    char by[16];    /* who demands it: "", "setting", "dane", "mta-sts", "mta-sts test" */
    char words[160];
};
struct deliver_plan {
    struct verdict verdict; /* ACCEPT, or why there is no host; its words are in the arena */
    struct deliver_host_plan *hosts;
    unsigned count;
    char sts[160]; /* what MTA-STS came to; "": not asked */
};
/* Asks DNS and policy hosts, connects to none of the hosts. Sleeps. */
void deliver_plan(struct deliver *deliver, const struct destination *destination,
                  struct arena *arena, struct deliver_plan *plan);

/* A connection (or nothing, for Maildir) that may serve several attempts to one destination in
 * turn. */
struct deliver_channel;
MUST_USE struct deliver_channel *
deliver_channel_open(struct deliver *deliver,
                     const struct destination *destination); /* NULL: memory */
void deliver_channel_close(struct deliver_channel *channel); /* QUIT when idle. Sleeps, briefly. */
/* The name of the mail host that the next session goes to, or has gone to; empty when it is not
 * known (a literal address, names that fail). Views live in the arena. Sleeps. */
struct bytes deliver_channel_mail_host(struct deliver_channel *channel, struct arena *arena);
/*
 * Names the hosts that mail for the channel's destination goes to, and how we show up there:
 * destinations with the same name may share connections and what bounds them. False: the hosts are
 * not known now, or there are none; an attempt tells why. Sleeps on DNS.
 */
MUST_USE bool deliver_channel_hosts(struct deliver_channel *channel, char *into, size_t room);
/* The channel goes on for another destination with the same hosts. An open session serves it only
 * if the destination would have asked of it what was asked of it; else it ends. Never sleeps. */
void deliver_channel_turn(struct deliver_channel *channel, const struct destination *destination);
/* By MX, so that its hosts are known by asking only. */
bool deliver_is_by_mx(const struct destination *destination);
/*
 * Fills every outcome. host_failed: nothing could be said to any host (connect, banner, EHLO), so
 * the destination backs off, not the message. A cancelled fiber leaves what was not decided as
 * CAUSE_UNDECIDED: it was not tried. From the final dot to its reply cancellation is masked, so no
 * shutdown makes a delivery ambiguous. Sleeps.
 */
void deliver_attempt(struct deliver_channel *channel, struct attempt *attempt, bool *host_failed);

#endif
