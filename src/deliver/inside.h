/* Shared by the files of deliver only. */
#ifndef DELIVER_INSIDE_H
#define DELIVER_INSIDE_H

#include <pthread.h>
#include <stdatomic.h>

#include "auth/auth.h"
#include "deliver/deliver.h"
#include "deliver/tls_store.h"

#define DELIVER_MAILBOXES 1024             /* remembered as having durable folders */
#define DELIVER_HOPS_MAX 10                /* addresses tried in one attempt */
#define DELIVER_PIECE_BYTES (64 * KIB)     /* of a body at a time */
#define DELIVER_TRANSACTION_RECIPIENTS 100 /* what every server must take: RFC 5321 4.5.3.1.8 */
#define DELIVER_GIVE_UP_LOOK_US (250 * US_PER_MS)
#define NO_FINAL_REPLY "no final reply from " /* and the host: what an ambiguous dot is told as */
#define DELIVER_RESULTS_MAX 4096              /* different results of TLS between two writes */
#define DELIVER_PIPELINE_STEPS 50 /* commands in flight; their replies fit any socket buffer */

#define DELIVER_OWN_TARGETS 1000 /* next hops that users have of their own */

struct deliver {
    const struct config *config;
    struct resolver *resolver;
    struct directory *directory;
    struct spool *spool;
    struct endpoint runner; /* family NONE: there is none */
    struct tls_context *tls;
    deliver_signer *sign; /* NULL: nobody signs anew */
    void *sign_argument;
    struct tls_store *store;     /* NULL: nothing is kept */
    struct tls_results *results; /* NULL with it */
    struct fiber *keeper;        /* NULL: none, or it has ended */
    struct waitlist keeper_ended;
    struct deliver_timeouts timeouts;
    uint64_t give_up_us;    /* DEADLINE_NEVER until the process is to end */
    int64_t opened_wall_us; /* what was accepted since then cannot have been delivered before */
    struct config_deliver *own_targets[DELIVER_OWN_TARGETS];
    _Atomic unsigned own_target_count;
    pthread_mutex_t own_lock; /* around additions */
    /* Hashes of the paths of mailboxes whose folders this process knows to be durable. */
    _Atomic uint64_t mailboxes_secured[DELIVER_MAILBOXES];
};

struct found_hops;
enum { PLAN_MARK_BYTES = 32 };

struct deliver_channel {
    struct deliver *deliver;
    struct destination to;
    struct found_hops *found;      /* for the next session, when somebody asked before; or NULL */
    bool turned;                   /* the session was opened for another destination */
    uint8_t mark[PLAN_MARK_BYTES]; /* of what was asked of the session's TLS */
    struct stream *stream;         /* NULL: no session stands */
    struct wire_input input;
    struct arena *arena; /* of the attempt at work: replies live there */
    bool reused;         /* a transaction has ended on it before, so it may have died of idleness */
    bool needs_reset;    /* the last transaction ended before its dot */
    unsigned extensions;
    uint64_t size_limit; /* of the SIZE extension, 0: none */
    bool proved;         /* fit for REQUIRETLS: the way to the host and the host itself are known */
    bool
        waives; /* opened, or to be opened, for mail that waives the recipient's policies for TLS */
    struct bytes secrets[2]; /* of a login under way: a reply that repeats one is not kept */
    struct bytes greeting;   /* its reply to EHLO; while a session is opened */
    char host[320];          /* "mx1.example.org[192.0.2.1]:25" */
    char prefer[320];        /* the host that may have this attempt's message already; or "" */
    bool no_chunking;        /* it offered BDAT and did not know it */
    char tls[96];
    struct dialogue dialogue; /* of the attempt at work */
    uint8_t *piece;           /* DELIVER_PIECE_BYTES, made at first need */
    struct buffer out;
};

/* One address of a next hop. */
struct next_hop {
    struct bytes name; /* "" for a literal address */
    struct endpoint at;
    struct bytes canonical; /* where CNAMEs led; "": nowhere else */
    bool named_secure;      /* it is the domain's host by DNSSEC or by a setting */
    bool secure;            /* and its address came validated, too */
    unsigned host;          /* addresses with the same number are one host's */
    bool alone;             /* tried by itself, before others */
};
struct next_hops {
    struct next_hop hops[DELIVER_HOPS_MAX];
    unsigned count;
    struct bytes set; /* all the hosts by name, those beyond the limit too; "": not by MX */
};

/* ------------------------------------------------------------------ what TLS has to give */

enum tls_level {
    TLS_LEVEL_UNUSABLE = 0, /* the host must not be used now */
    TLS_LEVEL_NEVER,
    TLS_LEVEL_MAY,     /* what it offers; else in clear */
    TLS_LEVEL_ENCRYPT, /* encryption, by whomever */
    TLS_LEVEL_PROVE,   /* encryption with who proves to be the host */
};
struct tls_plan {
    enum tls_level level;
    enum tls_policy_kind kind;
    struct bytes policy; /* the policy's lines, for reports */
    struct tls_peer_demand demand;
    bool path_known;     /* that this is the domain's host is known by DNSSEC, MTA-STS, a setting */
    bool insists;        /* a setting or REQUIRETLS wants proof whatever the records are worth */
    enum cause cause;    /* UNUSABLE: of it */
    const char *failure; /* UNUSABLE, and a test that failed: as RFC 8460 4.3 calls it */
    const char *why;     /* in words; "" */
};

/* What MTA-STS says of a domain now. */
struct sts_finding {
    bool applies; /* `policy` counts; its mode may be none */
    struct sts_policy policy;
    struct bytes text;
    const char *failure; /* of a fetch, as RFC 8460 4.3 calls it; NULL: none */
    char why[160];
};
/* Sleeps on DNS, the disk and the policy's host. */
void sts_find(struct deliver *deliver, struct arena *arena, struct bytes domain,
              struct sts_finding *finding);
/* Fetches what is soon over again. Sleeps. */
void sts_refresh(struct deliver *deliver);

/* Settles, before any connection, what this host has to give. Sleeps on DNS. */
void tls_plan_make(struct deliver_channel *channel, const struct next_hop *hop,
                   const struct sts_finding *sts, bool require, struct tls_plan *plan);
/* Two plans with the same mark ask the same of the same host. */
void tls_plan_mark(const struct tls_plan *plan, uint8_t mark[PLAN_MARK_BYTES]);
/* Does the destination ask for policies of MTA-STS? */
bool tls_plan_wants_sts(const struct deliver_channel *channel);

struct tls_note {
    enum tls_policy_kind kind;
    struct bytes policy;
    const struct next_hop *hop; /* NULL: it came to none */
    const char *failure;        /* NULL: a success */
    const char *reason;
};
struct tls_results;
struct tls_results *tls_results_open(void);
void tls_results_close(struct tls_results *results);
void tls_result_note(const struct deliver_channel *channel, const struct tls_note *note);
void tls_results_wait(struct tls_results *results, uint64_t deadline_us);
MUST_USE bool tls_results_flush(struct tls_results *results, struct tls_store *store);

/* The same with a line that holds a secret, which transcripts show otherwise. */
struct session_line {
    const char *said, *shown;
};
MUST_USE bool session_utter(struct deliver_channel *channel, enum stage stage,
                            struct session_line line, struct smtp_reply *reply,
                            struct outcome *trouble);

/* The fiber that writes results and refreshes policies. */
void deliver_keeper_start(struct deliver *deliver);
void deliver_keeper_stop(struct deliver *deliver);

/* Says who we are where the route has a login. Sleeps. */
MUST_USE bool login_say(struct deliver_channel *channel, struct outcome *trouble);
/* Is every login's file there, and nobody else's to read? */
MUST_USE bool login_check(const struct config *config, char *why, size_t why_room);

/* A command of the opening and its reply; on failure `trouble` says why, and the session is over
 * unless the peer itself said no. */
MUST_USE bool session_ask(struct deliver_channel *channel, enum stage stage, const char *command,
                          struct smtp_reply *reply, struct outcome *trouble);

/* ACCEPT with at least one hop, or why there is none. Sleeps on DNS. */
/* What a failed look-up means: `theirs`, or a cause of ours where DNS answers nothing at all.
 * Sleeps.
 */
MUST_USE struct verdict lookup_fault(struct deliver_channel *channel, enum cause theirs,
                                     const struct lookup *lookup);
MUST_USE struct verdict hops_find(struct deliver_channel *channel, struct next_hops *hops);
/* share.c: the same from what was found a moment ago, once. */
MUST_USE struct verdict share_take_hops(struct deliver_channel *channel, struct next_hops *hops);
/* May the open session, which another destination asked for, serve this one? Sleeps on DNS. */
MUST_USE bool share_suits(struct deliver_channel *channel, bool require_tls);
void share_forget(struct deliver_channel *channel); /* frees what was found */
/* What MTA-STS says of the destination; nothing where it does not count. Sleeps. */
void channel_find_sts(const struct deliver_channel *channel, struct sts_finding *sts);

/* Puts the host that is preferred in front. */
void hops_prefer(const struct deliver_channel *channel, struct next_hops *hops);
void hop_name(const struct next_hop *hop, char *into, size_t room); /* as in channel->host */

/* What the peer, or its silence, means. Views stay in the channel's arena. */
struct outcome outcome_of_verdict(const struct deliver_channel *channel, enum stage stage,
                                  struct verdict verdict);
struct outcome outcome_of_status(const struct deliver_channel *channel, enum stage stage,
                                 enum wire_status status);
struct outcome outcome_of_reply(const struct deliver_channel *channel, enum stage stage,
                                const struct smtp_reply *reply);

/* The next reply, and a line of the dialogue. Sleeps. */
enum wire_status channel_read_reply(struct deliver_channel *channel, uint64_t deadline_us,
                                    struct smtp_reply *reply);

/* dial.c: a connection to one address; to the first address of a host that answers. */
MUST_USE bool session_dial(struct deliver_channel *channel, const struct next_hop *hop,
                           struct outcome *trouble);
struct race_entry {
    const struct next_hop *hop;
    bool over;   /* has failed, has won before, or must not be used */
    bool stands; /* the winner: the channel has its connection; else `trouble` says why not */
    bool no_way; /* it has failed because nothing leads from here to such addresses */
    struct outcome trouble;
};
/* The entry that won, or NULL when all that were left have failed or the fiber was cancelled.
 * Sleeps at most the time of two connections in a row for each address. */
MUST_USE struct race_entry *session_race(struct deliver_channel *channel,
                                         struct race_entry *entries, unsigned count);

/* Opens a session with the first hop that lets us; on failure says why, closed. Sleeps. */
MUST_USE bool channel_open(struct deliver_channel *channel, bool require_tls,
                           struct outcome *trouble);
/* Ends without a word: after garbage, a timeout, or in the middle of a body. */
void channel_abort(struct deliver_channel *channel);
void channel_quit(struct deliver_channel *channel); /* Sleeps at most quit_us. */

void smtp_attempt(struct deliver_channel *channel, struct attempt *attempt, bool *host_failed);
void maildir_attempt(struct deliver_channel *channel, struct attempt *attempt);
void pipe_attempt(struct deliver_channel *channel, struct attempt *attempt);

/* ------------------------------------------------------------------ 7-bit hosts */

/* A body as a 7-bit host can take it. ACCEPT, or why it cannot be made so; closed in either case.
 * Sleep. */
struct converted;
MUST_USE struct verdict converted_open(struct spool_body *body, struct converted **converted);
void converted_close(struct converted **converted); /* fits CLEANUP */
uint64_t converted_size(const struct converted *converted);
MUST_USE struct io_result converted_read(void *converted, struct span into, uint64_t offset);
struct bytes converted_words(const struct converted *converted, struct arena *arena);

/* The address with its domain in A-labels; false when that is not all of it that is beyond ASCII.
 */
MUST_USE bool address_to_ascii(struct arena *arena, struct address address, struct address *ascii);

/* ------------------------------------------------------------------ mail that ends here */

/* The directory's word on a recipient of ours, its tag split off. A user who was taken out of it
 * after the message was accepted is unknown by authority; anything short of that defers. Sleeps. */
MUST_USE struct verdict local_user_find(const struct deliver_channel *channel,
                                        const struct attempt *attempt, uint32_t position,
                                        struct directory_user *user);
/* Return-Path and Delivered-To, with LF. */
void local_head_print(struct buffer *out, const struct attempt *attempt, uint32_t position);
/* Mailbox files and commands have LF line ends; only a CR before a LF goes. One may end a piece. */
struct line_ends {
    bool cr_pending;
};
void local_lines_add(struct line_ends *state, struct buffer *into, struct bytes piece);
void local_lines_end(struct line_ends *state, struct buffer *into);
/* The next piece of a body, into the channel's own room. Sleeps. */
MUST_USE struct verdict local_body_read(struct deliver_channel *channel, struct spool_body *body,
                                        uint64_t offset, struct bytes *piece);

/* Shared by all kinds of attempt: the same outcome for those without a verdict yet. */
void attempt_fill(struct attempt *attempt, struct outcome outcome);

/* Did an alias or list of ours lead it elsewhere? The same for all recipients of an attempt. */
bool recipient_is_forwarded(const struct config *config, const struct recipient *recipient);
/* The sender on the wire: the list's owner, one of ours that stands for it (SRS), or as it came.
 * Sleeps. */
MUST_USE struct verdict attempt_find_sender(const struct deliver *deliver,
                                            const struct attempt *attempt, struct address *sender);

/* What goes on top of what we forward; empty: nothing. */
MUST_USE struct verdict attempt_find_trace(const struct deliver *deliver,
                                           const struct attempt *attempt, struct bytes *trace);
/* The rule for this sender, or NULL. */
const struct config_verp *verp_of(const struct deliver_channel *channel, struct address from);
void notify_print(struct buffer *out, unsigned notify); /* " NOTIFY=...", or nothing */

struct recipient *attempt_recipient(const struct attempt *attempt, uint32_t position);

#endif
