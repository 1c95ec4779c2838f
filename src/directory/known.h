/* What the directory said lately: one question under way per address, and last known answers. */
#ifndef DIRECTORY_KNOWN_H
#define DIRECTORY_KNOWN_H

#include <pthread.h>

#include "directory/directory.h"

/* One answer, shared by all who asked for it; immutable once `ended`. */
struct known {
    _Atomic unsigned holders;
    struct known *next; /* of those under way */
    bool ended;         /* guarded by the table's lock */
    struct waitlist waiting;
    struct arena arena;
    struct bytes key;
    uint64_t ended_us;
    struct lookup lookup;
    struct directory_targets targets;
    struct directory_user user;
};

enum { KNOWN_SLOTS = 4096, KNOWN_BUCKETS = 256 };
struct known_table {
    pthread_mutex_t lock; /* around memory only */
    struct known *under_way[KNOWN_BUCKETS];
    struct known *slots[KNOWN_SLOTS]; /* FOUND answers; a newer one with the same hash replaces */
};

void known_table_open(struct known_table *table);
void known_table_close(struct known_table *table);

enum known_step {
    KNOWN_FAILED = 0, /* no memory, or nobody answered in time */
    KNOWN_ANSWERED,   /* *known is held: read it, then release it */
    KNOWN_ASK,        /* *known is held: fill it in, call known_end, then read and release it */
};
/* An answer that is younger than `fresh_us`, one that somebody else is fetching, or the task to
 * fetch it. Sleeps. */
MUST_USE enum known_step known_begin(struct known_table *table, struct bytes key, uint64_t fresh_us,
                                     struct known **known);
void known_end(struct known_table *table, struct known *known);
/* The last known FOUND answer that is younger than `stale_us`, held; or NULL. */
struct known *known_stale(struct known_table *table, struct bytes key, uint64_t stale_us);
void known_release(struct known *known);

#endif
