/*
 * The messages that memory knows: fresh ones, those under lease, those the index has not seen in
 * their present state. Everything else is only in the index. No I/O; the owner guards it.
 */
#ifndef SPOOL_TABLE_H
#define SPOOL_TABLE_H

#include "spool/codec.h"
#include "spool/fair.h"
#include "spool/record.h"

enum entry_place { PLACE_IDLE = 0, PLACE_READY, PLACE_LATER, PLACE_LEASED };

struct entry {
    struct entry *hash_next;
    struct link place_link; /* in a ready list or `later` */
    struct link dirty_link; /* in `dirty` */
    uint64_t id;
    uint64_t position; /* of its accepted record: generation << 32 | offset */
    uint64_t size_bytes, extent_bytes, extent_checksum;
    int64_t accepted_wall_us, due_wall_us;
    uint64_t not_before_us; /* PLACE_LATER: monotonic */
    uint32_t recipient_count, waiting_count;
    struct bytes envelope; /* encoded, malloc */
    struct status *status; /* NULL: every recipient is fresh */
    enum entry_place place;
    uint16_t pins; /* somebody looks at it while the lock is open */
    uint16_t flow; /* whose turn it waits for */
    bool fresh;    /* while PLACE_READY: in which of the two */
    bool held, indexed, dirty, ended, damaged, attempted;
    bool rewritten; /* more than `due` and `held` is not what the index has */
    bool settled_in_lease;
};

struct segment;
struct gone {
    struct gone *next;
    uint64_t id; /* its extent may go */
};

struct table {
    struct entry **buckets;
    uint32_t bucket_count;
    uint32_t entries, ready_count, later_count, leased_count, dirty_count;
    struct fair *ready_fresh, *ready_due; /* of malloc: they are large */
    struct link later, dirty;
    uint64_t messages, bytes, inline_bytes,
        held; /* all that live, in memory or not; true when `counting` */
    bool counting;
    struct segment *segments; /* oldest first; NULL outside the server */
    struct gone *gone;
};

struct row { /* as the index keeps a message */
    uint64_t id, position, size_bytes, extent_bytes, extent_checksum;
    int64_t accepted_wall_us, due_wall_us;
    bool held, damaged;
    bool same; /* the index has it, and only `due` and `held` may be others */
    uint16_t flow;
    struct bytes envelope, status_list; /* views */
};

MUST_USE bool table_open(struct table *table);
void table_free(struct table *table);

struct entry *table_find(struct table *table, uint64_t id);

/* A new message, or a copy that replaces what was known. NULL: no memory or an undecodable meta. */
struct accepted {
    uint64_t id, position;
    uint16_t flags;
    uint32_t body_bytes;
    struct bytes meta;
};
struct entry *table_accept(struct table *table, const struct accepted *accepted);
struct entry *table_load(struct table *table, const struct row *row); /* clean, indexed, idle */
/* False: undecodable or no memory; then nothing was changed. */
MUST_USE bool table_settle(struct table *table, struct entry *entry, struct bytes list);
void table_set_held(struct table *table, struct entry *entry, bool held);
void table_end(struct table *table, struct entry *entry); /* may free it */

void table_place(struct table *table, struct entry *entry, enum entry_place place, bool fresh);
void table_mark_dirty(struct table *table, struct entry *entry);
void table_clear_dirty(struct table *table, struct entry *entry);
void table_drop_idle(struct table *table, struct entry *entry); /* frees it when nobody needs it */

void entry_row(const struct entry *entry, struct row *row); /* without the status list */
void entry_status_list(const struct entry *entry, struct buffer *into); /* nothing when fresh */
/* Whose turn it is, or NULL; the turn moves on. */
struct entry *ready_next(struct table *table, bool fresh);
/* Who has to leave when there are too many: the last one of the sender who has most, unless that is
 * no more than the sender of this entry has; then NULL. */
struct entry *ready_surplus(struct table *table, const struct entry *entry, bool fresh);
/* Not before that time, whatever its recipients' states say; forgotten with the next settlement. */
void table_postpone(struct table *table, struct entry *entry, int64_t until_wall_us);
/* The head of a ring's entry, or NULL. */
struct entry *later_first(const struct table *table);
struct entry *dirty_first(const struct table *table);

#endif
