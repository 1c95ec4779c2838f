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
#define PLACE_PAUSE_MAX_US                                                                         \
    (900 * US_PER_S) /* what came back is noticed so soon by those who wait */
#define SHARE_AFTER_US (15 * US_PER_S)
#define PLACE_LANES 16       /* senders, hashed, take turns at a place */
#define PLACE_JOBS_MOST 1000 /* in memory for one place: half of what is under lease... */
#define PLACE_LANE_MOST 250  /* ...and a quarter of it of one lane; the others wait in the spool */
#define SURPLUS_US (5 * US_PER_S)
#define SUSPENDED_PREFIX "suspended:"       /* of the key of a place for what is */
#define SUSPENDED_LOOK_US (3600 * US_PER_S) /* what is suspended goes back to the spool so long */
#define HOLD_BUCKETS 1024
#define ORDER_BUCKETS 256
#define ORDERS_MAX 10000
#define FLUSHES_MAX 32
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
    bool stuck;     /* an outcome could not be recorded: kept, so that it is not delivered again */
    bool postponed; /* a recipient's next time was put off in memory only */
    struct hold *next, *previous; /* in its bucket */
};

/* The recipients of one message that go to one place. */
struct job {
    struct hold *hold;
    struct place *place;
    struct job *next;      /* in its lane of the place's queue */
    struct job *hold_next; /* in the hold's list */
    bool queued;           /* false while a slot works on it */
    uint64_t queued_us;
    uint32_t *recipients;
    uint32_t count, room;
};

/* What waits at a place of the senders that share a hash. */
struct lane {
    struct job *first, *last;
    unsigned count;
};

/*
 * What places have in common whose mail goes to the same hosts by the same way: how many slots may
 * be open there, the slots with their connections, and the record of what failed. A place has a
 * pool of its own; one by MX joins that of its hosts when they are known (pool.c).
 */
struct pool {
    struct schedule *schedule;
    struct deliver *deliver; /* of the configuration that its places were found by */
    char key[320];           /* a place's key, or that of a set of hosts */
    struct pool *next_in_bucket;
    unsigned most;                 /* slots, whatever the window says; 0: no such bound */
    bool seeks;                    /* of one place whose hosts are not known yet */
    struct place *first, *last;    /* places with jobs that wait; they take turns */
    unsigned places;               /* that belong to it */
    unsigned waiting, slots, busy; /* jobs of its places; fibers; of those, at work */
    struct slot *idle;             /* linger with a connection; the last used first */
    double window;     /* how many slots may be open: +1/N on success, -1/N on failure */
    unsigned failures; /* connections failed in a row */
    unsigned pauses;   /* in a row */
    uint64_t resume_us;
    int64_t resume_wall_us;
    enum cause last_cause;
    char last_words[256];
};

/* A destination with what waits for it. */
struct place {
    struct schedule *schedule;
    struct deliver *deliver; /* of the configuration that the place was found by */
    struct destination to;
    uint64_t number; /* no other place has had it */
    struct place *next_in_bucket;
    struct pool *pool;
    struct place *next_waiting, *previous_waiting; /* in its pool */
    uint64_t asked_us;                             /* when its hosts are asked for again */
    char aside[256];                               /* as in struct flush_request */
    struct lane lanes[PLACE_LANES];
    unsigned turn; /* the lane that is looked at first */
    unsigned waiting, busy;
    bool suspended; /* nothing is tried here: its jobs go back to the spool */
    bool recovers;  /* its former pool paused: the next success brings its queue back */
    bool flush_due; /* it answers again, and what waits for it in the spool is still to be tried */
};

/* A `destination` section at work. */
struct limit {
    const struct config_destination *config;
    uint32_t active;  /* slots */
    uint64_t next_us; /* when the next message may go */
};

struct slot {
    struct schedule *schedule;
    struct limit *limit; /* that counts it */
    bool limit_known;    /* for the place that it serves */
    struct pool *pool;   /* NULL: it leaves */
    struct place *place; /* of the job at work, else NULL */
    uint64_t served;     /* number of the place that it served last */
    bool leaves;         /* another has what it would need */
    struct fiber *fiber;
    struct deliver_channel *channel;
    struct slot *next_idle;
    bool idle;
    struct arena arena;
    struct slot *next, *previous; /* all slots */
};

struct rescan;

struct schedule {
    const struct config *config;
    struct spool *spool;
    struct deliver *deliver;
    struct loop *loop;
    struct fiber *taker;
    struct place *buckets[SCHEDULE_BUCKETS];
    struct pool *pools[SCHEDULE_BUCKETS];
    bool pools_to_sweep; /* a place or a slot has left its pool, or a pool is new */
    unsigned place_count;
    uint64_t places_made;
    struct hold *holds[HOLD_BUCKETS];
    unsigned leased;
    struct order *orders[ORDER_BUCKETS];
    struct order *retired_orders; /* a place may still go by what they say */
    unsigned order_count;
    bool orders_saving;
    bool orders_stale, orders_tidying; /* the file holds some that have ended; a fiber writes it */
    uint64_t orders_tidy_us;           /* not before */
    struct limit *limits;              /* one a `destination` section, or NULL */
    struct flush *flushes;
    unsigned flush_count;
    struct slot *slots;
    unsigned slot_count;
    uint64_t share_after_us;
    schedule_scanner *scan;
    void *scan_argument;
    struct rescan *rescans; /* under way */
    unsigned rescan_count;
    bool stopping, taker_ended, taker_waits;
    bool starved; /* work waits for a slot because all are taken */
    uint64_t swept_us;
    int64_t clock_offset_us;      /* wall clock minus monotonic clock, when last looked at */
    bool strays_wanted;           /* mail that a wrong clock put off is to be looked for */
    uint64_t strays_next_look_us; /* not before */
};

/* retry.c: when an attempt that ended like this is followed by the next. accepted_wall_us: without
 * the time during which the destination was suspended, here and below. */
int64_t retry_next_wall_us(const struct config_retry *retry, int64_t accepted_wall_us,
                           uint32_t attempts, const struct outcome *outcome);
/* Not later than the next mark, warning or expiry, that the message's life has ahead of it. */
int64_t retry_before_mark(const struct config_retry *retry, int64_t accepted_wall_us,
                          int64_t next_wall_us);

/* Old enough for the sender to be told of the delay? warn_after 0: never. */
bool retry_is_late(const struct config_retry *retry, int64_t age_us);

/* place.c */
struct place *place_find(struct schedule *schedule, const struct destination *to); /* or makes */
struct place *place_known(struct schedule *schedule, const char *key);             /* or NULL */
bool place_is_full(const struct place *place, const struct hold *hold);
struct job *place_last_of(const struct place *place, const struct hold *hold); /* or NULL */
const struct job *place_longest_waiting(const struct place *place);            /* or NULL */
void place_push(struct place *place, struct job *job);
void place_push_front(struct place *place, struct job *job); /* it goes next of its lane */
struct job *place_pop(struct place *place);
struct job *place_cut_half(struct place *place); /* the later half of each lane, linked by next */
void place_withdraw(struct place *place, struct job *job);
void place_note_aside(struct place *place, struct bytes domain);
/* What waits for it in the spool need not wait longer: now, or when fewer flushes run. */
void place_flush(struct place *place);
void places_sweep(struct schedule *schedule); /* starts what waits, forgets what is idle */
/* Forgets the idle places of a former configuration; how many are left. */
unsigned places_leave(struct schedule *schedule, const struct deliver *deliver);
void places_free(struct schedule *schedule);

/* pool.c */
struct pool *pool_find(struct schedule *schedule, struct deliver *deliver,
                       const char *key);                 /* or makes; NULL: no memory */
void pool_enter(struct pool *pool, struct place *place); /* a place that is in none */
void pool_leave(struct place *place);
struct job *pool_pop(struct pool *pool);               /* its places take turns */
void pool_note_waiting(struct place *place, int more); /* so many jobs more or less */
/* The pool of the hosts that its mail goes to, when they may have become others. Sleeps on DNS. */
void place_join(struct slot *slot, struct place *place);
void place_succeeded(struct place *place);
/* What failed for reasons of its own, names or a TLS policy, is no failure of others' hosts. */
void place_failed(struct place *place, const struct outcome *outcome);
void place_slowed(struct place *place);
bool place_pauses(const struct place *place);
unsigned pool_limit(const struct pool *pool);
void place_clear_pause(struct place *place);
void pools_sweep(struct schedule *schedule); /* forgets those without places and slots */
unsigned pools_left(const struct schedule *schedule, const struct deliver *deliver);
void pools_free(struct schedule *schedule);

/* slot.c */
void slots_start(struct pool *pool); /* as many as the work and the window ask for */
void job_end(struct job *job);       /* frees it, and its hold with the last one */
void job_postpone(struct schedule *schedule, struct job *job, int64_t until_wall_us);

/* orders.c: what operators have ordered for as long as they do not take it back: that a destination
 * is suspended, that mail goes by another next hop. They survive a restart. */
struct order {
    struct order *next; /* in its bucket, or among the retired */
    bool routes;        /* else it suspends */
    char what[320];     /* a recipient's domain, a destination's key, or #ID of a message */
    char who[96];
    int64_t since_wall_us, until_wall_us; /* 0: it lasts; a suspension that is over is remembered */
    char via_text[320];
    struct config_deliver via;
};
void orders_load(struct schedule *schedule); /* Sleeps. */
void orders_free(struct schedule *schedule);
void orders_message_ended(struct schedule *schedule, uint64_t message);
void orders_tidy(struct schedule *schedule); /* once a second */
const struct order *order_that_suspends(const struct schedule *schedule, const char *key,
                                        struct bytes domain);
const struct order *order_that_routes(const struct schedule *schedule, uint64_t message,
                                      struct bytes domain);
/* When the message was accepted, but later by the time that its destination was suspended since. */
int64_t order_accepted_wall_us(const struct place *place, const struct queued_message *message,
                               uint32_t recipient);
/* Durable when they say FOUND; ABSENT: there was nothing to take back. via NULL: take back. */
MUST_USE struct lookup order_suspend(struct schedule *schedule, const char *what, const char *who);
MUST_USE struct lookup order_resume(struct schedule *schedule, const char *what);
struct order_route {
    const char *via, *who;
    const uint64_t *messages; /* or */
    size_t message_count;
    const char *domain;
};
MUST_USE struct lookup order_reroute(struct schedule *schedule, const struct order_route *route);

/* limits.c */
MUST_USE bool limits_open(struct schedule *schedule);
/* 0: go on; else the message has to wait, untried, until then. Sleeps on DNS. */
int64_t limits_delay_until(struct slot *slot);
void limit_leave(struct slot *slot); /* the slot ends */

/* flush.c: brings back what waits in the spool for its next time, as fast as it can be tried. */
#define ANY_DOMAIN "*"
struct flush_request {
    const char *key;                     /* only for this destination; NULL: all of the message */
    const char *domain, *cause, *sender; /* what is chosen; NULL: any */
    const char *aside;  /* mail for this domain, or ANY_DOMAIN, may go there by an order or by its
                           user's own way; NULL: none does */
    uint64_t beyond_us; /* only what is not due for so long; 0: any */
    uint64_t *ids;      /* or these, of malloc: the flush frees them */
    size_t id_count;
};
bool flush_start(struct schedule *schedule, const struct flush_request *request);
/* Once a second: see flush.c. */
void flush_watch_clock(struct schedule *schedule);
void flushes_cancel(struct schedule *schedule);
/* The ids of what waits, each once, in the worker pool. False: it could not be read. Sleeps. */
struct id_list {
    uint64_t *ids; /* of malloc */
    size_t count, room;
};
MUST_USE bool flush_collect(struct schedule *schedule, const struct flush_request *request,
                            struct id_list *list);

/* schedule.c */
struct hold_choice {
    bool untimely;    /* recipients whose time has not come, too... */
    const char *only; /* ...but of them only those that go there; NULL: all */
};
MUST_USE bool hold_add(struct schedule *schedule, struct queued_message *message,
                       const struct hold_choice *choice);
/* For rescan.c alone, which has had it scanned. */
MUST_USE bool hold_add_scanned(struct schedule *schedule, struct queued_message *message,
                               const struct hold_choice *choice);
void hold_release(struct schedule *schedule, struct hold *hold);
struct hold *hold_find(struct schedule *schedule, uint64_t id);
/* Runs `work` in a fiber of the scheduler's loop (at once when it is the caller's). Sleeps. */
MUST_USE bool schedule_on_loop(struct schedule *schedule, void (*work)(void *argument),
                               void *argument);

/* rescan.c */
bool rescan_is_due(const struct queued_message *message); /* nothing of it may be tried before */
/* Scans it in a fiber, and goes on as the verdict says; takes the lease over. False: given back. */
bool rescan_begin(struct schedule *schedule, struct queued_message *message, bool force);
void rescans_cancel(struct schedule *schedule);

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
    struct bytes filter;                  /* whose scan it was; or empty */
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
