/* Shared by the files of schedule only. Everything here lives on one loop, so nothing is locked. */
#ifndef SCHEDULE_INSIDE_H
#define SCHEDULE_INSIDE_H

#include "schedule/schedule.h"

#define SCHEDULE_MESSAGES_MAX 2000 /* under lease at a time, in all */
#define SCHEDULE_SLOTS_MAX 400     /* fibers that deliver, in all */
#define SCHEDULE_BUCKETS 512
#define SCHEDULE_PLACES_MAX 10000 /* destinations remembered, because of work or of failures */
#define PLACE_WINDOW_START 5.0
#define PLACE_WINDOW_MAX 20.0
#define PLACE_DEAD_AFTER 3 /* connection failures in a row */
#define PLACE_PAUSE_MAX_US (3600 * US_PER_S)
#define SHARE_AFTER_US (15 * US_PER_S)
#define SLOT_LINGER_US (1 * US_PER_S) /* a kept connection waits so long for the next message */
#define SLOT_ARENA_BYTES (32 * MIB)
#define SETTLE_TRIES 10

struct place;
struct job;

/* A message under lease. It is released when its last job has ended. */
struct hold {
    struct queued_message *message;
    struct job *jobs; /* linked by hold_next */
    unsigned job_count;
    bool stuck; /* an outcome could not be recorded: kept, so that it is not delivered again */
    struct hold *next, *previous;
};

/* The recipients of one message that go to one place. */
struct job {
    struct hold *hold;
    struct place *place;
    struct job *next;      /* in the place's queue */
    struct job *hold_next; /* in the hold's list */
    bool queued;           /* false while a slot works on it */
    uint64_t queued_us;
    uint32_t *recipients;
    uint32_t count, room;
};

/* A destination with what waits for it. */
struct place {
    struct schedule *schedule;
    struct destination to;
    struct place *next_in_bucket;
    struct job *first, *last;
    unsigned waiting, slots, busy;
    struct slot *idle; /* linger with a connection; the last used first */
    double window;     /* how many slots may be open: +1/N on success, -1/N on failure */
    unsigned failures; /* connections failed in a row */
    unsigned pauses;   /* in a row */
    uint64_t resume_us;
    int64_t resume_wall_us;
    enum cause last_cause;
    char last_words[256];
};

struct slot {
    struct schedule *schedule;
    struct place *place;
    struct fiber *fiber;
    struct deliver_channel *channel;
    struct slot *next_idle;
    bool idle;
    struct arena arena;
    struct slot *next, *previous; /* all slots */
};

struct schedule {
    const struct config *config;
    struct spool *spool;
    struct deliver *deliver;
    struct loop *loop;
    struct fiber *taker;
    struct place *buckets[SCHEDULE_BUCKETS];
    unsigned place_count;
    struct hold *holds;
    unsigned leased;
    struct slot *slots;
    unsigned slot_count;
    uint64_t share_after_us;
    bool stopping, taker_ended, taker_waits;
    bool starved; /* work waits for a slot because all are taken */
    uint64_t swept_us;
};

/* retry.c: when an attempt that ended like this is followed by the next. */
int64_t retry_next_wall_us(const struct config_retry *retry, const struct queued_message *message,
                           uint32_t attempts, const struct outcome *outcome);

/* Old enough for the sender to be told of the delay? warn_after 0: never. */
bool retry_is_late(const struct config_retry *retry, int64_t age_us);

/* place.c */
struct place *place_find(struct schedule *schedule, const struct destination *to); /* or makes */
void place_push(struct place *place, struct job *job);
struct job *place_pop(struct place *place);
struct job *place_cut_half(struct place *place); /* the later half, linked by next */
void place_withdraw(struct place *place, struct job *job);
void place_succeeded(struct place *place);
void place_failed(struct place *place, const struct outcome *outcome);
void place_slowed(struct place *place);
bool place_pauses(const struct place *place);
unsigned place_limit(const struct place *place);
void place_clear_pause(struct place *place);
void places_sweep(struct schedule *schedule); /* starts what waits, forgets what is idle */
void places_free(struct schedule *schedule);

/* slot.c */
void slots_start(struct place *place); /* as many as the work and the window ask for */
void job_end(struct job *job);         /* frees it, and its hold with the last one */
void job_postpone(struct schedule *schedule, struct job *job, int64_t until_wall_us);

/* schedule.c */
MUST_USE bool hold_add(struct schedule *schedule, struct queued_message *message, bool force);
void hold_release(struct schedule *schedule, struct hold *hold);
struct hold *hold_find(struct schedule *schedule, uint64_t id);
/* Runs `work` in a fiber of the scheduler's loop (at once when it is the caller's). Sleeps. */
MUST_USE bool schedule_on_loop(struct schedule *schedule, void (*work)(void *argument),
                               void *argument);

/* settle.c: what is to be recorded about one recipient. */
struct decision {
    struct settlement settlement;
    const struct outcome *outcome; /* may be NULL */
    enum event_kind event;
    bool quiet; /* no event: nothing was tried */
    bool tells; /* the sender is told `action` */
    enum dsn_action action;
};
struct report {
    struct schedule *schedule;
    struct queued_message *message;
    struct arena *arena;
    struct decision *decisions;
    uint32_t count;
    uint64_t took_us;
    struct bytes destination, transcript; /* for the journal and the history; or empty */
};
/* Decides about each outcome of an attempt and records it. False: it could not be recorded. */
MUST_USE bool settle_attempt(const struct place *place, const struct attempt *attempt,
                             uint64_t took_us);
/* Records decisions with the notification they ask for, in one group, and tells the journal. */
MUST_USE bool settle_report(struct report *report);

/* notify.c */
bool notify_wanted(const struct queued_message *message, const struct recipient *recipient,
                   enum dsn_action action);
/* The DSN for all decisions that tell; *draft stays NULL when there is none. Sleeps. */
MUST_USE struct verdict notify_prepare(const struct report *report, struct spool_draft **draft,
                                       struct envelope *envelope);

#endif
