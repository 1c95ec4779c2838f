/*
 * Reading the log from a position on and applying it to a table: for recovery, for the view, for a
 * rebuild. It never changes the disk. Applying twice what the index already has converges to the
 * same state, because records carry states, not differences.
 */
#ifndef SPOOL_REPLAY_H
#define SPOOL_REPLAY_H

#include "spool/index.h"
#include "spool/segment.h"

struct found_segment {
    struct segment_header header;
    uint64_t cut;    /* records from this sequence on never happened */
    uint64_t proven; /* by the segment behind it */
};

struct segment_list {
    struct found_segment *at;
    size_t count, room;
    size_t unreadable; /* named like a segment, but neither header is one */
    char bad_name[64];
};

/* Every segment of the log, oldest first. Sleeps in a world, blocks outside. */
MUST_USE bool segment_list_read(const char *directory, struct segment_list *list);
void segment_list_free(struct segment_list *list);

struct replay {
    const char *directory;
    struct table *table;
    struct segment_list list;
    struct index_state from; /* where to begin; zero: at the oldest segment */
    /* Brings a message from the index into the table. */
    enum lookup_status (*load)(void *argument, uint64_t id);
    /* After each group: false ends the replay as failed. NULL: goes on. */
    bool (*applied)(void *argument, const struct index_state *up_to);
    /* A damaged record under a proven sync. NULL: silent. */
    void (*damage)(void *argument, uint64_t generation, uint64_t id, struct bytes raw,
                   const char *what);
    /* A message with a mark was replayed; with an empty one: it was withdrawn. NULL: nobody asks.
     */
    void (*marked)(void *argument, uint64_t id, int64_t accepted_wall_us, struct bytes mark);
    void *argument;
    /* A block that cannot be read ends the replay: the disk may be well again tomorrow. Set, it is
     * told as damage and passed over. */
    bool past_unreadable;

    /* results */
    uint64_t last_sequence; /* the highest that counts */
    uint64_t proven;        /* everything up to here was found, without a tear */
    uint64_t records, torn;
};
MUST_USE bool replay_run(struct replay *replay);

#endif
