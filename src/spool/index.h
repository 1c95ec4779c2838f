/*
 * The index: SQLite in WAL mode, one writing connection, used by one fiber at a time. It may lag
 * behind the log; `position` says where the log has to be read from.
 */
#ifndef SPOOL_INDEX_H
#define SPOOL_INDEX_H

#include "spool/table.h"

struct index;

struct index_state { /* row 1 of table `state` */
    uint64_t spool;
    uint64_t position; /* everything before it in the log is in here */
    uint64_t sequence; /* of the last record before it: proven */
};

enum index_opened { INDEX_FAILED = 0, INDEX_OK, INDEX_NEW, INDEX_DAMAGED };
/* NEW: it was made, empty, with state zero. DAMAGED: not readable as ours; *index is NULL. */
enum index_opened index_open(const char *directory, bool read_only, struct index **index, char *why,
                             size_t why_room);
void index_close(struct index *index);
MUST_USE bool index_remove(const char *directory); /* its files. Sleeps. */
const char *index_fault(const struct index *index);
/* Since it was opened SQLite found it damaged, or a sync of it failed. After the latter nobody
 * knows what of the WAL is on the disk: no later sync proves anything about it, and it never
 * becomes durable again. */
bool index_is_damaged(const struct index *index);

MUST_USE bool index_state(struct index *index, struct index_state *state);

/* One transaction: begin, put and delete, then end. `durable` syncs the WAL before it returns. */
MUST_USE bool index_begin(struct index *index, bool durable);
MUST_USE bool index_put(struct index *index, const struct row *row);
MUST_USE bool index_delete(struct index *index, uint64_t id);
MUST_USE bool index_end(struct index *index, const struct index_state *state); /* or NULL */
void index_abandon(struct index *index);

enum lookup_status index_row(struct index *index, uint64_t id,
                             void (*take)(void *argument, const struct row *row), void *argument);
/* The least flow beyond that one that has a message which is not held; -1: none. */
MUST_USE bool index_next_flow(struct index *index, int flow, int *next);
/* Ids of one flow that are due, the longest due first, until `each` returns false. *next: when the
 * first one is due that was not yet; INT64_MAX: none, or not looked at. */
struct index_due {
    int flow;
    int64_t now_wall_us;
    bool (*each)(void *argument, uint64_t id);
    void *argument;
};
MUST_USE bool index_due(struct index *index, const struct index_due *due, int64_t *next_wall_us);
MUST_USE bool index_oldest(struct index *index, int64_t *accepted_wall_us); /* 0: none */
/* Ids of a segment's messages, at most `most`. */
MUST_USE bool index_of_segment(struct index *index, uint64_t generation, uint32_t most,
                               bool (*each)(void *argument, uint64_t id), void *argument);

struct index_totals {
    uint64_t generation, messages, bytes, extent_bytes, held;
};
MUST_USE bool index_totals(struct index *index,
                           void (*each)(void *argument, const struct index_totals *totals),
                           void *argument);
MUST_USE bool index_checkpoint(struct index *index);

/* For the view: rows by id, or those with a recipient of that domain or cause. A read transaction
 * spans begin_read and end_read. */
MUST_USE bool index_begin_read(struct index *index);
void index_end_read(struct index *index);
struct index_question {
    uint64_t id;
    const char *domain, *cause, *sender; /* sender: may find more than asked for */
};
MUST_USE bool index_rows(struct index *index, const struct index_question *question,
                         bool (*each)(void *argument, const struct row *row), void *argument);

/* One row a recipient who waits, without the envelopes: quick. Views last until the next row. */
struct waiting_row {
    uint64_t message, size_bytes;
    struct bytes domain, cause, sender;
    int64_t next_wall_us, accepted_wall_us;
    uint32_t attempts;
};
MUST_USE bool index_waiting(struct index *index, const struct index_question *question,
                            bool (*each)(void *argument, const struct waiting_row *row),
                            void *argument);

#endif
