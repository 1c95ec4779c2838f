/*
 * What the files of this room share. One mutex guards the table, the queues and the segment list;
 * it is never held across a call that sleeps. The writer's fiber alone writes the log; the
 * indexer's fiber alone uses the index's connection and makes, recycles and removes files.
 */
#ifndef SPOOL_INSIDE_H
#define SPOOL_INSIDE_H

#include <pthread.h>

#include "spool/index.h"
#include "spool/segment.h"
#include "spool/spool.h"

#define READY_MOST 10000     /* ready messages kept in memory, fresh ones and due ones each */
#define UNINDEXED_MOST 50000 /* more than this and new mail has to wait */
#define BATCH_BYTES (4 * MIB)
#define BATCH_REQUESTS 512
#define HEAD_BYTES (256 * KIB)
#define WHY_ROOM 256

/* ------------------------------------------------------------------ drafts */

struct prepended {
    struct prepended *next;
    struct bytes bytes; /* behind the struct */
};

struct spool_draft {
    struct spool *spool;
    uint64_t id;
    uint32_t references;     /* the holder and the request; under the lock */
    struct buffer body;      /* all of it while inline, else its first HEAD_BYTES */
    struct prepended *front; /* the last call's first */
    size_t front_bytes;
    struct file *extent;   /* NULL: inline */
    struct buffer tail;    /* of the extent, not yet written */
    uint64_t extent_bytes; /* written */
    void *checksum;        /* XXH3 state over the extent */
    bool committed;        /* its extent belongs to a message now */
    bool failed;           /* a write failed: only closing or restarting is left */
};

void draft_release(struct spool_draft *draft); /* one reference; may sleep to remove an extent */
void draft_path(const struct spool *spool, uint64_t id, char *into, size_t room);
uint64_t extent_checksum(const struct spool_draft *draft);

/* ------------------------------------------------------------------ requests to the writer */

struct request_record {
    struct record record;
    struct buffer meta;
    struct bytes body[3]; /* front, inline body: views into the draft, or a copy's memory */
    uint8_t body_parts;
    uint64_t position;
    uint8_t header[RECORD_HEADER_BYTES];
};

struct request {
    struct request *next;
    struct fiber *fiber; /* who sleeps on it; NULL: nobody */
    struct spool_draft *draft;
    struct buffer carried; /* what was prepended; of a copy: the body */
    struct entry *pinned;  /* of a copy: stays in the table until it is applied */
    uint32_t references;
    uint16_t record_count;
    bool done, abandoned, settles, copies, tried_before;
    enum cause failure; /* meaningful when done: ACCEPTED or why not */
    struct request_record records[RECORD_GROUP_MAX];
};

struct request *request_new(void); /* woken: the calling fiber */
void request_release(struct spool *spool, struct request *request);
/* False: the spool stops or is down. */
MUST_USE bool request_enqueue(struct spool *spool, struct request *request);
/* Sleeps until it is done or abandoned. */
enum cause request_wait(struct spool *spool, struct request *request, uint64_t deadline_us);
uint64_t request_span(const struct request *request);

/* ------------------------------------------------------------------ requests to the indexer */

struct load_request {
    struct load_request *next, *previous;
    struct fiber *fiber;
    uint64_t id;
    uint32_t turn; /* of the indexer: its place there and one; 0: not taken up yet */
    bool done;
    enum lookup_status status;
};

/* ------------------------------------------------------------------ the spool */

/* Taken: the writer is making it a segment; nobody may put another file in its place meanwhile. */
enum spare_state { SPARE_NONE = 0, SPARE_READY, SPARE_TAKEN };

struct spool {
    char directory[SPOOL_PATH_MAX - 64];
    uint64_t segment_bytes, inline_body_bytes, reserve_bytes;
    unsigned high_water_percent;
    struct file *lock_file;

    pthread_mutex_t lock;
    uint64_t next_id;               /* atomic */
    struct spool_mark *marks;       /* of the recovery; NULL: none */
    size_t mark_count;              /* ever noted; the array goes around */
    struct segment_header identity; /* spool, incarnation, id_floor: the same in every segment */

    /* the writer */
    struct loop *writer_loop;
    struct fiber *writer;
    bool writer_sleeps;
    struct request *queue_first, *queue_last;
    struct segment *current;
    uint64_t write_at, sequence, proven, generation;
    enum spare_state spares[SPARE_COUNT];
    int spare_error; /* why none could be made; 0 */
    struct waitlist spare_made;
    unsigned failures_in_a_row;
    bool read_only; /* atomic */
    uint64_t probe_at_us;
    char fault[160];

    /* the table */
    struct table table; /* its segments are the log's, oldest first */
    uint64_t applied_position, applied_sequence;
    struct waitlist ready_waiters;
    unsigned takes;

    /* the indexer */
    struct loop *indexer_loop;
    struct fiber *indexer;
    struct index *index;
    struct index_state indexed; /* as last committed */
    struct index_state durable; /* as last synced */
    struct load_request *loads;
    int64_t next_due_wall_us;
    bool due_left;      /* more is due than was loaded */
    int due_flow;       /* whose due messages were loaded last; they take turns */
    uint32_t due_share; /* that many of a flow at a time */
    uint32_t copies;    /* on their way to the writer; under the lock */
    uint64_t flush_at_us, house_at_us;
    int64_t oldest_wall_us;
    char index_fault[WHY_ROOM];
    bool index_dropped; /* damaged: its files are removed */

    int admission;       /* atomic: enum cause; ACCEPTED when there is room */
    uint64_t room_bytes; /* atomic: below the high-water mark */
    int sending;         /* atomic: sessions between 354 and the dot */
    bool rebuild;        /* the index is thrown away first */
    bool stopping, writer_ended, indexer_ended, failed_to_open, opened;
    struct waitlist changed; /* opened, writer_ended, indexer_ended */
    char why[WHY_ROOM];
};

void writer_main(void *argument);
void writer_wake(struct spool *spool);
void spool_set_fault(struct spool *spool, const char *format, ...) PRINTF_LIKE(2, 3);
/* Activates a spare as the current segment: the cut stands at spool->sequence. Sleeps. */
struct io_result writer_rotate(struct spool *spool);

void indexer_main(void *argument);
void indexer_wake(struct spool *spool);
/* Writes what is dirty; true when the index then covers all that was applied. */
MUST_USE bool indexer_flush(struct spool *spool, bool durable);
/* Brings a message from the index into the table. For the indexer's fiber. */
enum lookup_status indexer_load(struct spool *spool, uint64_t id);
/* Finds or loads; pins the entry. Sleeps. */
enum lookup_status entry_pin(struct spool *spool, uint64_t id, uint64_t deadline_us,
                             struct entry **entry);
void entry_unpin(struct spool *spool, struct entry *entry);

void house_keep(struct spool *spool); /* spares, recycling, space, extents, gauges */
void house_make_spares(struct spool *spool);
/* What it means that no spare segment could be made. */
enum cause house_spare_cause(const struct spool *spool);
void house_measure(struct spool *spool);

MUST_USE bool recover(struct spool *spool); /* with spool->why when not */

/* Where an entry goes when nobody holds it: ready, waiting for its time, or out of memory. */
void entry_settle_down(struct spool *spool, struct entry *entry, bool fresh);

/* Reads the record at `position` and, when asked, its body into `body` (verified). Sleeps. */
enum body_read { BODY_UNREADABLE = 0, BODY_READ, BODY_IS_DAMAGED };
enum body_read body_load(struct segment *segment, uint64_t offset, struct record *record,
                         struct buffer *body);
/* A reader more on the segment where the entry's record is now, or NULL. */
struct segment *segment_hold(struct spool *spool, const struct entry *entry, uint64_t *position);
void segment_let_go(struct spool *spool, struct segment *segment);
/* Copies the raw record into spool/damaged and tells the journal. Sleeps. */
void damage_set_aside(struct spool *spool, uint64_t id, struct bytes raw, const char *what);

#endif
