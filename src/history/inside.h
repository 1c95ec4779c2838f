/* What the files of history share. */
#ifndef HISTORY_INSIDE_H
#define HISTORY_INSIDE_H

#include <sqlite3.h>

#include "history/history.h"

#define HISTORY_FILE "history.db"

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
    KEPT_TEXTS
};

/* In memory kind, stage and cause are the enums' numbers; on disk they are rows of `names`. */
struct kept {
    uint64_t kind, message;
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

struct store {
    const char *directory;
    sqlite3 *database;
    sqlite3_stmt *begin, *commit, *rollback, *insert, *prune_rows, *prune_age, *bounds;
    sqlite3_stmt *ledger_update, *ledger_insert, *ledger_close, *ledger_overdue, *ledger_prune;
    uint64_t kind_names[EVENT_KIND_COUNT], stage_names[STAGE_COUNT], cause_names[CAUSE_COUNT];
    uint64_t keep_rows, keep_us;
    int64_t overdue_us;
    struct ledger ledger;
};

MUST_USE bool store_open(struct store *store, char *why, size_t why_room);
void store_close(struct store *store);
/* Writes a batch of kept events in one transaction; false: nothing of it was kept. */
MUST_USE bool store_write(struct store *store, struct bytes batch);
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
void ledger_tend(struct store *store);
void ledger_unload(struct store *store);
/* After a rollback the memory must agree with the table again. */
void ledger_reload(struct store *store);

#define LEDGER_OVERDUE_US ((int64_t)24 * 3600 * 1000000)

#endif
