/*
 * spool: drafts, group commit, receipts, queue state, settlement, recovery.
 *
 * The log is the truth (append-only segments), SQLite is its index. See docs/spool.md for every
 * byte and every legal state on disk.
 *
 * Flow:   spool_draft_open -> spool_draft_write... -> spool_commit (sleeps on the group commit) ->
 * receipt; spool_take hands queued messages to schedule under a lease -> spool_settle records
 * outcomes. Owns:   the segments, extents, index and the lock of its directory; the writer's and
 * the indexer's loop. Sleeps: where marked. Fails:  by a verdict (spool.full, spool.failed,
 * spool.down), which the caller must consume. Never:  acknowledges before the covering sync
 * returned 0; syncs a segment again after a failure; releases a body before its last settlement is
 * durable.
 */
#ifndef SPOOL_SPOOL_H
#define SPOOL_SPOOL_H

#include "base/base.h"
#include "mail/mail.h"
#include "observe/observe.h"
#include "runtime/runtime.h"
#include "verdict/verdict.h"

struct spool;
struct spool_draft;

struct spool_settings {
    const char *directory;       /* created when absent (its parent must exist) */
    uint64_t segment_bytes;      /* 0: 64 MiB */
    uint64_t inline_body_bytes;  /* bodies beyond go into an extent; 0: 256 KiB */
    unsigned high_water_percent; /* of bytes or inodes in use; 0: 95 */
    uint64_t reserve_bytes;      /* kept for settlements; 0: 16 MiB */
};

struct spool_receipt {
    uint64_t position; /* of the record in the log */
    uint64_t message;  /* id */
    bool durable;      /* set only by spool_commit, after the sync returned 0 */
};

/* Opens and recovers (replay from the index's offset). On failure *spool is NULL and `why` (>= 256
 * bytes) says what and where. Refuses a directory that another process holds. Sleeps. */
MUST_USE bool spool_open(const struct spool_settings *settings, struct spool **spool, char *why,
                         size_t why_room);
void spool_close(struct spool *spool); /* ends the writers after their last batch. Sleeps. */

/* Would a new message be taken now? Cheap, from memory; asked at connect, at MAIL and at the dot.
 */
MUST_USE struct verdict spool_admits(const struct spool *spool, uint64_t declared_bytes);

/* ------------------------------------------------------------------ drafts and commit */

/* NULL on memory. Gives the message its id, which is never used again. The draft must be closed. */
MUST_USE struct spool_draft *spool_draft_open(struct spool *spool);
uint64_t spool_draft_id(const struct spool_draft *draft);
/* Appends body bytes (header and body as received, CRLF). Beyond inline_body_bytes it streams to
 * disk. Sleeps then. */
MUST_USE struct verdict spool_draft_write(struct spool_draft *draft, struct bytes bytes);
/* Bytes put in front of all others at commit (Received, Authentication-Results...). Last call comes
 * first. */
MUST_USE struct verdict spool_draft_prepend(struct spool_draft *draft, struct bytes bytes);
uint64_t spool_draft_size(const struct spool_draft *draft);
/* Reads what was written so far (without what was prepended), as filters do. Sleeps. */
MUST_USE struct io_result spool_draft_read(struct spool_draft *draft, struct span into,
                                           uint64_t offset);
/* The first bytes (the header, at most 256 KiB) as one view, valid until the next write. */
struct bytes spool_draft_head(const struct spool_draft *draft);
/* Replaces the whole body, for a filter that changed it. Sleeps. */
MUST_USE struct verdict spool_draft_restart(struct spool_draft *draft);
void spool_draft_close(
    struct spool_draft **draft); /* fits CLEANUP; an uncommitted draft leaves nothing behind */

/*
 * Makes the draft durable with its envelope and sleeps until the sync that covers it returned 0.
 * ACCEPT: receipt->durable is true and the message is in the ready queue (unless held or `discard`,
 * which commits a record that is settled at once). Anything else: nothing was queued, or, when the
 * deadline passed while the disk hung, what may come of it is withdrawn before anybody delivers it.
 * Sleeps.
 */
struct spool_commit_options {
    uint64_t deadline_us;
    bool discard;
    struct bytes mark; /* SPOOL_MARK_BYTES, or empty: see spool_marks */
};
MUST_USE struct verdict spool_commit(struct spool_draft *draft, const struct envelope *envelope,
                                     const struct spool_commit_options *options,
                                     struct spool_receipt *receipt);

/*
 * After a crash: the marks of messages that the index had not heard of, thus of the last moments
 * before it (250 ms after a kill, longer after a power cut); the latest SPOOL_MARKS_MOST. Whoever
 * stored those may not have been told. Of what was withdrawn or is damaged there is none.
 */
enum { SPOOL_MARK_BYTES = 16, SPOOL_MARKS_MOST = 4096 };
struct spool_mark {
    uint64_t message;
    int64_t accepted_wall_us;
    uint8_t mark[SPOOL_MARK_BYTES];
};
/* The array is the spool's, as long as it is open. */
size_t spool_marks(const struct spool *spool, const struct spool_mark **marks);
/* A random number that stays the spool's own, and that nobody outside knows. */
uint64_t spool_secret(const struct spool *spool);

/* A session tells when it is between 354 and the dot, so that the group commit knows whom to wait
 * for. */
void spool_session_sending(struct spool *spool, bool sending);

/* ------------------------------------------------------------------ the queue */

enum recipient_state {
    RECIPIENT_WAITING = 0,
    RECIPIENT_DELIVERED,
    RECIPIENT_FAILED,
    RECIPIENT_DROPPED
};

struct queued_recipient {
    struct recipient recipient;
    enum recipient_state state;
    uint32_t attempts;
    int64_t next_wall_us;    /* when due; 0 = at once */
    enum cause cause;        /* of the last attempt */
    struct bytes last_reply; /* full text, lines joined by LF, cut at 2 KiB */
    int64_t last_attempt_wall_us;
    bool delay_notified; /* a delay DSN went out */
};

/* A message under lease: its memory belongs to the holder until spool_release. */
struct queued_message {
    uint64_t id;
    struct envelope envelope; /* views into the arena below */
    struct queued_recipient
        *recipients; /* parallel to envelope.recipients; only those still waiting matter */
    uint64_t size_bytes;
    unsigned sender; /* a small number, the same for all mail of one sender; see docs/spool.md */
    struct arena arena;
    struct queued_message *next; /* for the holder's own lists */
    void *holder;                /* for the holder */
};

/*
 * Takes up to `most` messages that have a due recipient and no lease: fresh ones from memory first,
 * then due ones from the index; senders take turns, and so do the destinations of each. Sleeps
 * until there is one, or the deadline. The list is linked by next.
 */
enum io_status spool_take(struct spool *spool, unsigned most, uint64_t deadline_us,
                          struct queued_message **list);
/* Takes one by id though not due (operator's retry). ABSENT: no such message, or it is under lease.
 * Sleeps. */
MUST_USE struct lookup spool_take_id(struct spool *spool, uint64_t id,
                                     struct queued_message **message);
/* Ends the lease and frees the memory. What was not settled stays as it is on disk and becomes due
 * again. */
void spool_release(struct spool *spool, struct queued_message *message);

/*
 * The same, and the message is not offered again before `until`. Nothing is recorded: it costs no
 * sync, and what the index does not get to keep of it (a crash, a lost index) only brings the
 * message back early.
 */
void spool_postpone(struct spool *spool, struct queued_message *message, int64_t until_wall_us);

/* Reads a queued message's body (with what was prepended). BODY_DAMAGED: checksum; it was set
 * aside. Sleeps. */
struct spool_body;
MUST_USE struct verdict spool_body_open(struct spool *spool, uint64_t id, struct spool_body **body);
uint64_t spool_body_size(const struct spool_body *body);
MUST_USE struct io_result spool_body_read(struct spool_body *body, struct span into,
                                          uint64_t offset);
void spool_body_close(struct spool_body **body); /* fits CLEANUP */

/* One recipient's outcome. */
struct settlement {
    uint32_t recipient;         /* index */
    enum recipient_state state; /* WAITING: deferred until next_wall_us */
    int64_t next_wall_us;
    enum cause cause;
    struct bytes reply;
    uint32_t attempts; /* new count */
    int64_t attempt_wall_us;
    bool delay_notified;
};

/*
 * Records outcomes durably; with `dsn` (a draft with its envelope) the notification is committed in
 * the same record group. When nobody is left waiting the message has ended. The lease stays.
 * Sleeps.
 */
struct settlement_group {
    const struct settlement *settlements;
    uint32_t count;
    struct spool_draft *dsn; /* or NULL */
    const struct envelope *dsn_envelope;
};
MUST_USE struct verdict spool_settle(struct spool *spool, struct queued_message *message,
                                     const struct settlement_group *group);

/* Operator: hold or release without a lease. ABSENT when unknown. Sleeps. */
MUST_USE struct lookup spool_hold(struct spool *spool, uint64_t id, bool held, struct bytes why);

struct spool_counts {
    uint64_t messages, ready, deferred, held, leased;
    int64_t oldest_wall_us; /* 0 when empty */
    uint64_t bytes_live;
    bool read_only;
    char fault[160]; /* the last fault in words, or "" */
};
void spool_counts(struct spool *spool, struct spool_counts *counts);

/* ------------------------------------------------------------------ reading from outside the
 * server */

/*
 * Reads index (and the log behind the index's offset) read-only, with the server up or down; for
 * `queue`, `why`, the page. Calls each row until it returns false. Blocks: call it from a
 * command, or in the worker pool.
 */
struct spool_row {
    uint64_t id;
    struct bytes from, to; /* one row a recipient */
    struct bytes domain;   /* of the recipient */
    int64_t accepted_wall_us, next_wall_us, last_attempt_wall_us;
    enum recipient_state state;
    enum cause cause;
    struct bytes last_reply;
    uint32_t attempts;
    uint64_t size_bytes;
    bool held;
};
struct spool_view_filter {
    uint64_t id;        /* 0: all */
    const char *domain; /* of the recipient, lower case; NULL: all */
    const char *cause;  /* NULL: all */
    const char *sender; /* an address, or "@domain"; NULL: all */
    uint64_t most;      /* 0: all */
    bool brief; /* only who waits, in no order, without `to`, `last_reply`, `held`: a million rows
                   in about a second */
};
MUST_USE bool spool_view(const char *directory, const struct spool_view_filter *filter,
                         bool (*each)(void *argument, const struct spool_row *row), void *argument,
                         char *why, size_t why_room);
/* Makes the index anew from the log, server down. */
MUST_USE bool spool_rebuild(const char *directory, char *why, size_t why_room);

#endif
