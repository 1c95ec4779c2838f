/* What the files of history share. */
#ifndef HISTORY_INSIDE_H
#define HISTORY_INSIDE_H

#include <sqlite3.h>

#include "history/history.h"

#define HISTORY_FILE "history.db"
#define HISTORY_TRANSCRIPT_MAX (16 * 1024)

/* ------------------------------------------------------------------ one event, kept */

enum kept_number {
    KEPT_STAGE,
    KEPT_CAUSE,
    KEPT_CODE,
    KEPT_ATTEMPT,
    KEPT_NEXT,
    KEPT_TOOK,
    KEPT_SIZE,
    KEPT_SESSION,
    KEPT_NUMBERS
};
enum kept_text {
    KEPT_CLIENT,
    KEPT_HELO,
    KEPT_FROM,
    KEPT_TO,
    KEPT_MX,
    KEPT_FILTER,
    KEPT_TEXT,
    KEPT_ENHANCED,
    KEPT_TLS,
    KEPT_DESTINATION,
    KEPT_TRANSCRIPT, /* in memory only: on disk it has a table of its own, with its own bounds */
    KEPT_TEXTS
};

/* In memory kind, stage and cause are the enums' numbers; on disk they are rows of `names`. */
struct kept {
    uint64_t kind, message;
    uint64_t mail; /* in memory only: the ledger has it */
    int64_t wall_us;
    uint64_t numbers[KEPT_NUMBERS];
    struct bytes texts[KEPT_TEXTS];
};

/* The memory form: appended under the queue's lock, so one copy and no more. */
size_t kept_size(const struct event *event);
void kept_write(const struct event *event, uint8_t *at); /* kept_size octets */
bool kept_read(struct bytes *rest, struct kept *kept);   /* the next one off the front */

/* The disk form: variable-length numbers, absent fields left out. base_us: the row's time. */
void kept_pack(struct buffer *into, const struct kept *kept, int64_t base_us);
bool kept_unpack(struct bytes *rest, struct kept *kept, int64_t base_us);

/* ------------------------------------------------------------------ the store (one thread) */

struct ledger {
    uint64_t *open; /* fingerprints of open rows: open addressing, 0 is a free place */
    size_t room, count;
    bool overflowed; /* more are open than remembered: ask the table each time */
    int64_t still_out, came_back, overdue;
};

enum { INCIDENT_TELL_OPEN = 1, INCIDENT_TELL_MARK = 2, INCIDENT_TELL_CLOSED = 4 };

/* One that is open, or may become one. */
struct incident {
    uint64_t id;
    enum incident_direction direction;
    enum cause cause;
    char subject[256];
    int64_t first_wall_us, last_wall_us, good_wall_us, over_wall_us;
    uint64_t
        age_from_us; /* on the monotonic clock, so that a jump of the other one marks nothing */
    uint64_t last_us, good_us, over_us; /* on the monotonic clock */
    uint64_t count, good, waiting;
    enum incident_state mark;
    unsigned tell;     /* events that are due once the table has it */
    unsigned messages; /* of its rows in incident_messages, at most */
    bool shown;        /* it counts as an incident; before, it may be one message's bad luck */
    bool over;         /* kept for a while in case that it comes again */
    bool breaker;      /* a breaker of its name is open */
    bool dirty;
    uint64_t message; /* the latest one; 0 */
    char text[512], host[256], from[256], to[256];
};

/* Which recipients wait because of which incident: open addressing by the hash of message and
 * recipient, 0 is a free place. */
struct waiting_set {
    struct waiting {
        uint64_t key, incident;
    } * at;
    size_t room, count;
};

enum { INCIDENTS_MAX = 512 };

struct incidents {
    struct incident **at;
    unsigned count, shown_open; /* of them that are shown and not over */
    struct waiting_set waiting;
    struct incident_times times;
    bool changed;                 /* since incidents_brief was last asked */
    uint64_t looked_us, swept_us; /* when they were tended, and what is old forgotten */
    uint64_t pruned_us;           /* and the table cut to its bounds */
    sqlite3_stmt *upsert, *message_add, *message_trim, *wait_set, *wait_end, *any_stale, *stale,
        *prune, *prune_messages, *out_of_ledger, *told[INCIDENT_WAYS];
};

/* The wall clock, believed when it has said the same for a day: see store_wall_us. */
struct sober_clock {
    int64_t wall_us; /* that was believed last, at `steady_us` */
    uint64_t steady_us;
    uint64_t ahead_since_us; /* 0: the wall clock is not ahead of itself */
};

struct store {
    struct sober_clock clock;
    const char *directory;
    sqlite3 *database;
    sqlite3_stmt *begin, *commit, *rollback, *insert, *prune_rows, *prune_age, *bounds;
    sqlite3_stmt *ledger_update, *ledger_insert, *ledger_close, *ledger_rest, *ledger_overdue,
        *ledger_prune;
    uint64_t kind_names[EVENT_KIND_COUNT], stage_names[STAGE_COUNT], cause_names[CAUSE_COUNT];
    uint64_t keep_rows, keep_us;
    bool suspect;           /* called damaged once, and opened anew */
    bool may_prune;         /* rows came since, or the last slice took some out */
    uint64_t next_prune_us; /* when to look for rows that have grown old */
    int64_t overdue_us;
    struct ledger ledger;
    struct incidents incidents;
    uint64_t incident_now; /* that the event at hand belongs to; 0: none */
    struct transcripts {
        sqlite3_stmt *insert, *any_aged, *prune;
        uint64_t keep_us, keep_bytes;
        int64_t bytes; /* in the table */
    } transcripts;
};

MUST_USE bool store_open(struct store *store, char *why, size_t why_room);
void store_close(struct store *store);
/* Writes a batch of kept events in one transaction; false: nothing of it was kept. */
MUST_USE bool store_write(struct store *store, struct bytes batch);
/* The time by which rows are too old. */
int64_t store_wall_us(struct store *store);
/* A slice of pruning. */
void store_tend(struct store *store);
/* Prepares one statement; false with the reason in why. */
MUST_USE bool store_prepare(sqlite3 *database, const char *sql, sqlite3_stmt **statement);
/* Binds a view as text; it must outlive the step. */
void store_bind(sqlite3_stmt *statement, int index, struct bytes text);
/* Runs a prepared statement that gives no row, and resets it. */
MUST_USE bool store_step(sqlite3_stmt *statement);

MUST_USE bool ledger_load(struct store *store);
MUST_USE bool ledger_prepare(struct store *store);
MUST_USE bool ledger_take(struct store *store, const struct kept *kept);
bool ledger_is_open(const struct ledger *ledger); /* some row may be waiting for its end */
/* Sets the gauges; cheap. */
void ledger_show(const struct store *store);
/* Counts what is overdue and forgets what is old: once a second is plenty. */
void ledger_tend(struct store *store);  /* counts what is overdue, which takes no write */
void ledger_prune(struct store *store); /* rows that are too old or too many */
void ledger_unload(struct store *store);
/* After a rollback the memory must agree with the table again. */
void ledger_reload(struct store *store);
/* /24 or /64: a sender's farm retries from its neighbours. */
void ledger_network(struct bytes client, char into[ENDPOINT_TEXT_MAX]);

/* incident.c, incident_table.c */
MUST_USE bool incidents_prepare(struct store *store);
MUST_USE bool incidents_load(struct store *store);
void incidents_unload(struct store *store);
void incidents_finalize(struct store *store);
/* What this event says of incidents. Sets store->incident_now. False: the table failed. */
MUST_USE bool incidents_take(struct store *store, const struct kept *kept);
/* Writes what changed: the last step of a batch; then, after the commit, that it is written. */
MUST_USE bool incidents_save(struct store *store);
void incidents_saved(struct incidents *incidents);
/* Marks and closes by time, and writes that. Called between batches. */
void incidents_tend(struct store *store);
/* When it should be called next at the latest (monotonic). */
uint64_t incidents_due_us(const struct store *store);
void incidents_show(const struct store *store); /* the gauges */
/* The open ones, those of the highest marks first; false when nothing changed. */
bool incidents_brief(struct store *store, struct incident_brief rows[INCIDENT_BRIEFS_MAX],
                     unsigned *count);
/* After the commit: the events about what changed. */
void incidents_tell(struct store *store);
struct incident *incident_by_id(const struct incidents *incidents, uint64_t id);
/* NULL: no memory, or all places are taken. */
struct incident *incident_make(struct incidents *incidents);

/* incident_table.c: the rows. False: the table failed. */
MUST_USE bool incident_message(struct store *store, struct incident *incident,
                               const struct kept *kept);
MUST_USE bool incident_wait(struct store *store, struct incident *incident,
                            const struct kept *kept);
MUST_USE bool incident_wait_end(struct store *store, const struct kept *kept);
MUST_USE bool incident_told(struct store *store, const struct kept *kept);
void incident_sweep(struct store *store); /* forgets what is old */

/* transcript.c */
MUST_USE bool transcripts_prepare(struct store *store);
void transcripts_finalize(struct store *store);
MUST_USE bool transcripts_take(struct store *store, const struct kept *kept);
void transcripts_prune_aged(struct store *store);
void transcripts_prune_surplus(struct store *store);

/* read.c: the read-only connection. 1: open; 0: there is no history yet; -1: it cannot be read. */
MUST_USE int history_read_open(const char *directory, sqlite3 **database, char *why,
                               size_t why_room);

/* shape.c: columns that files of before lack. Added, or shown as if they were there. */
MUST_USE bool shape_complete(sqlite3 *database);
MUST_USE bool shape_shade(sqlite3 *database);

#define LEDGER_OVERDUE_US ((int64_t)24 * 3600 * 1000000)

#endif
