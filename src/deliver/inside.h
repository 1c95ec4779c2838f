/* Shared by the files of deliver only. */
#ifndef DELIVER_INSIDE_H
#define DELIVER_INSIDE_H

#include <stdatomic.h>

#include "deliver/deliver.h"

#define DELIVER_MAILBOXES 1024             /* remembered as having durable folders */
#define DELIVER_HOPS_MAX 10                /* addresses tried in one attempt */
#define DELIVER_PIECE_BYTES (64 * KIB)     /* of a body at a time */
#define DELIVER_TRANSACTION_RECIPIENTS 100 /* what every server must take: RFC 5321 4.5.3.1.8 */
#define DELIVER_GIVE_UP_LOOK_US (250 * US_PER_MS)
#define NO_FINAL_REPLY "no final reply from " /* and the host: what an ambiguous dot is told as */
#define DELIVER_PIPELINE_STEPS 50 /* commands in flight; their replies fit any socket buffer */

struct deliver {
    const struct config *config;
    struct resolver *resolver;
    struct directory *directory;
    struct spool *spool;
    struct tls_context *tls;
    struct deliver_timeouts timeouts;
    uint64_t give_up_us;    /* DEADLINE_NEVER until the process is to end */
    int64_t opened_wall_us; /* what was accepted since then cannot have been delivered before */
    /* Hashes of the paths of mailboxes whose folders this process knows to be durable. */
    _Atomic uint64_t mailboxes_secured[DELIVER_MAILBOXES];
};

struct deliver_channel {
    struct deliver *deliver;
    struct destination to;
    struct stream *stream; /* NULL: no session stands */
    struct wire_input input;
    struct arena *arena; /* of the attempt at work: replies live there */
    bool reused;         /* a transaction has ended on it before, so it may have died of idleness */
    bool needs_reset;    /* the last transaction ended before its dot */
    unsigned extensions;
    uint64_t size_limit; /* of the SIZE extension, 0: none */
    char host[320];      /* "mx1.example.org[192.0.2.1]:25" */
    char prefer[320];    /* the host that may have this attempt's message already; or "" */
    bool no_chunking;    /* it offered BDAT and did not know it */
    char tls[96];
    struct dialogue dialogue; /* of the attempt at work */
    uint8_t *piece;           /* DELIVER_PIECE_BYTES, made at first need */
    struct buffer out;
};

/* One address of a next hop. */
struct next_hop {
    struct bytes name; /* "" for a literal address */
    struct endpoint at;
    bool secure; /* its address came validated */
};
struct next_hops {
    struct next_hop hops[DELIVER_HOPS_MAX];
    unsigned count;
};

/* ACCEPT with at least one hop, or why there is none. Sleeps on DNS. */
MUST_USE struct verdict hops_find(struct deliver_channel *channel, struct next_hops *hops);

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

/* Opens a session with the first hop that lets us; on failure says why, closed. Sleeps. */
MUST_USE bool channel_open(struct deliver_channel *channel, struct outcome *trouble);
/* Ends without a word: after garbage, a timeout, or in the middle of a body. */
void channel_abort(struct deliver_channel *channel);
void channel_quit(struct deliver_channel *channel); /* Sleeps at most quit_us. */

void smtp_attempt(struct deliver_channel *channel, struct attempt *attempt, bool *host_failed);
void maildir_attempt(struct deliver_channel *channel, struct attempt *attempt);

/* Shared by all kinds of attempt: the same outcome for those without a verdict yet. */
void attempt_fill(struct attempt *attempt, struct outcome outcome);

struct recipient *attempt_recipient(const struct attempt *attempt, uint32_t position);

#endif
