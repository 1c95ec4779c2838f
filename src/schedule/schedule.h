/*
 * schedule: when, how many at once, and when to give up.
 *
 * Flow:   spool_take -> group by destination -> a fiber per destination slot -> deliver_attempt ->
 *         spool_settle -> done, next try, or a notification to the sender.
 * Owns:   the destinations' state and the leases; all on one loop.
 * Sleeps: its fibers.
 * Fails:  never gives up for a fault of ours.
 * Never:  bounces but here: schedule_expire is the only function that turns a defer into a bounce.
 */
#ifndef SCHEDULE_SCHEDULE_H
#define SCHEDULE_SCHEDULE_H

#include "base/base.h"
#include "config/config.h"
#include "deliver/deliver.h"
#include "history/history.h"
#include "runtime/runtime.h"
#include "spool/spool.h"

struct schedule;

/* A message that was taken unscanned, for whoever can scan it. */
struct schedule_scan {
    uint64_t message;
    const struct envelope *envelope;
    struct spool_body *body;
    struct arena *arena;  /* of the words of the verdict */
    struct bytes *filter; /* gets the name of the one that objected */
};
/* ACCEPT: every scanner found it clean. Sleeps. */
typedef struct verdict schedule_scanner(void *argument, const struct schedule_scan *scan);

struct schedule_settings {
    const struct config *config;
    struct spool *spool;
    struct deliver *deliver;
    schedule_scanner *scan; /* NULL: what came unscanned waits */
    void *scan_argument;
    uint64_t share_after_us; /* work waits so long: its destination may have to share the memory; 0:
                                15 s */
};
MUST_USE struct schedule *schedule_open(const struct schedule_settings *settings, char *why,
                                        size_t why_room);
/* From now on by these: what is queued already ends by the former, which live until it has left.
 * False: nothing changed. Both sleep. */
MUST_USE bool schedule_renew(struct schedule *schedule, const struct config *config,
                             struct deliver *deliver);
MUST_USE bool schedule_has_left(struct schedule *schedule, struct deliver *former);
/* Lets attempts that are past the dot end, cancels the others (they stay queued). Sleeps. */
void schedule_stop(struct schedule *schedule, uint64_t deadline_us);
/* False: attempts are still under way (the disk hangs), so nothing was freed, and nothing that they
 * use may be. */
bool schedule_close(struct schedule *schedule);

/*
 * Pure, for tests: the only function that turns a defer into a bounce. Gives back CAUSE_EXPIRED
 * when the message's lifetime is over and it had its fair number of attempts, else the verdict
 * itself. A fault of ours never expires, so an outage here bounces nothing; a clock that jumps
 * cannot replace attempts.
 */
MUST_USE struct verdict schedule_expire(const struct config_retry *retry, uint32_t attempts,
                                        int64_t accepted_wall_us, int64_t now_wall_us,
                                        struct verdict verdict);
/* Pure: attempts without which nothing expires: half of what the schedule makes, at most 12. */
uint32_t schedule_fair_attempts(const struct config_retry *retry);
/* Pure: the time that a greylisting reply names ("in 300 seconds", "5 min"), 0 when it is none; 5
 * minutes when it names no time. */
uint64_t schedule_named_delay_us(struct bytes reply);

/* Pure, for tests: the next try after `attempts` tries of a message accepted at accepted_wall_us.
 * chance: 0..1000. */
int64_t schedule_next_wall_us(const struct config_retry *retry, uint32_t attempts,
                              int64_t accepted_wall_us, int64_t now_wall_us, unsigned chance);

/*
 * Operator's actions on what the request names; they return how many messages they touched, and
 * each message's journal says so. Sleep.
 *
 * RETRY of many goes on by itself, as fast as it can be tried. SUSPEND and RESUME take a
 * destination only (a recipient's domain or a destination's key), last over restarts, and what
 * waits meanwhile neither ages nor is counted as tried. REROUTE sends what is named by another next
 * hop, also after restarts; by destination, what comes later too.
 */
enum schedule_action {
    ACTION_RETRY,
    ACTION_HOLD,
    ACTION_RELEASE,
    ACTION_DROP,
    ACTION_BOUNCE,
    ACTION_REROUTE,
    ACTION_SUSPEND,
    ACTION_RESUME
};
struct schedule_request {
    enum schedule_action action;
    uint64_t id;                                     /* 0: by the others */
    const char *destination_domain, *cause, *sender; /* or NULL */
    const char *via; /* REROUTE: "smtp:HOST:PORT"; NULL: as configured again */
    bool all;
    const char *who; /* for the journal */
};
MUST_USE struct lookup schedule_act(struct schedule *schedule,
                                    const struct schedule_request *request, uint64_t *touched);

struct destination_row {
    char key[320];
    unsigned waiting, active, limit, failures;
    bool suspended, backing_off;
    int64_t next_wall_us;
    enum cause last_cause;
};
/* Asks the scheduler's loop when called from another. Sleeps. */
unsigned schedule_destinations(struct schedule *schedule, struct destination_row *rows,
                               unsigned room);

#endif
