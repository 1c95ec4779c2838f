/*
 * schedule: the fiber that takes messages from the spool and parts them by destination; start, stop
 * and the view from outside. The spool alone remembers: a restart goes on from what it holds.
 */
#include "schedule/inside.h"

#include <stdatomic.h>
#include <string.h>

/* ------------------------------------------------------------------ on the scheduler's loop */

struct call {
    void (*work)(void *argument);
    void *argument;
    struct fiber *caller;
    atomic_bool done;
};

static void call_main(void *argument)
{
    struct call *call = argument;
    struct fiber *caller = call->caller;

    call->work(call->argument);
    atomic_store(&call->done, true); /* from here on the call may be gone */
    fiber_wake(caller);
}

bool schedule_on_loop(struct schedule *schedule, void (*work)(void *argument), void *argument)
{
    struct call call = {.work = work, .argument = argument, .caller = fiber_self()};

    if (loop_self() == schedule->loop) {
        work(argument);
        return true;
    }
    if (!fiber_start_on(schedule->loop, "schedule.call", call_main, &call))
        return false;
    const bool masked = fiber_mask_cancel(true); /* the call stands on this stack */
    while (!atomic_load(&call.done)) {
        const enum io_status status = fiber_park(deadline_in(60 * US_PER_S));
        (void)status; /* whatever woke us, only `done` counts */
    }
    fiber_mask_cancel(masked);
    return true;
}

/* ------------------------------------------------------------------ holds */

static struct hold **holds_of(struct schedule *schedule, uint64_t id)
{
    return &schedule->holds[id * UINT64_C(0x9E3779B97F4A7C15) >> 32 & (HOLD_BUCKETS - 1)];
}

struct hold *hold_find(struct schedule *schedule, uint64_t id)
{
    for (struct hold *hold = *holds_of(schedule, id); hold; hold = hold->next) {
        if (hold->message->id == id)
            return hold;
    }
    return NULL;
}

/* When the first of those who still wait is due. */
static int64_t first_due(const struct queued_message *message)
{
    int64_t first = INT64_MAX;

    for (uint32_t i = 0; i < message->envelope.recipient_count; i++) {
        if (message->recipients[i].state == RECIPIENT_WAITING)
            first = MIN_OF(first, message->recipients[i].next_wall_us);
    }
    return first;
}

void hold_release(struct schedule *schedule, struct hold *hold)
{
    if (hold->previous)
        hold->previous->next = hold->next;
    else
        *holds_of(schedule, hold->message->id) = hold->next;
    if (hold->next)
        hold->next->previous = hold->previous;
    if (hold->postponed)
        spool_postpone(schedule->spool, hold->message, first_due(hold->message));
    else
        spool_release(schedule->spool, hold->message);
    free(hold);
    schedule->leased--;
    if (schedule->taker_waits && schedule->leased < SCHEDULE_MESSAGES_MAX - 64)
        fiber_wake(schedule->taker);
}

static struct hold *hold_open(struct schedule *schedule, struct queued_message *message)
{
    struct hold *hold = calloc(1, sizeof(*hold));

    if (!hold)
        return NULL;
    struct hold **bucket = holds_of(schedule, message->id);
    hold->message = message;
    hold->next = *bucket;
    if (hold->next)
        hold->next->previous = hold;
    *bucket = hold;
    schedule->leased++;
    return hold;
}

/* ------------------------------------------------------------------ parting by destination */

static struct job *job_open(struct hold *hold, struct place *place)
{
    struct job *job = calloc(1, sizeof(*job));

    if (!job)
        return NULL;
    job->hold = hold;
    job->place = place;
    job->hold_next = hold->jobs;
    hold->jobs = job;
    hold->job_count++;
    place_push(place, job);
    return job;
}

static bool job_add(struct job *job, uint32_t index)
{
    if (job->count == job->room) {
        const uint32_t room = job->room ? job->room * 2 : 1;
        uint32_t *recipients = reallocarray(job->recipients, room, sizeof(*recipients));
        if (!recipients)
            return false;
        job->recipients = recipients;
        job->room = room;
    }
    job->recipients[job->count++] = index;
    return true;
}

static bool job_fits(const struct job *job, const struct hold *hold, uint32_t index)
{
    const struct recipient *recipients = hold->message->envelope.recipients;

    return job->count > 0 && deliver_may_share(job->place->schedule->deliver,
                                               &recipients[job->recipients[0]], &recipients[index]);
}

/* The job of this message at this place that the recipient can join. Nobody else has run since the
 * message's jobs were queued, so they are the last ones there; with many senders (lists with
 * owners) only some are looked at, and another job is no harm. */
static struct job *hold_find_job(struct hold *hold, struct place *place, uint32_t index)
{
    unsigned looked = 0;

    struct job *last = place_last_of(place, hold);

    if (!last || job_fits(last, hold, index))
        return last;
    for (struct job *job = hold->jobs; job && looked++ < 64; job = job->hold_next)
        if (job->place == place && job_fits(job, hold, index))
            return job;
    return NULL;
}

/* By the configuration, unless an operator ordered otherwise. */
static void route(struct schedule *schedule, const struct queued_message *message, uint32_t index,
                  struct destination *to)
{
    const struct recipient *recipient = &message->envelope.recipients[index];

    deliver_route(schedule->deliver, recipient, to);
    const struct order *by = order_that_routes(schedule, message->id, recipient->address.domain);
    if (by)
        deliver_route_by(to, &by->via);
}

/* What is suspended has a place of its own, where nothing is tried. */
static void place_suspend(struct place *place, const struct order *order)
{
    place->suspended = true;
    place->pool->seeks = false;
    place->pool->last_cause = CAUSE_OPERATOR_SUSPENDED;
    snprintf(place->pool->last_words, sizeof(place->pool->last_words), "suspended by %s",
             order->who);
}

/* Another way than the configuration has for its domain? */
static bool goes_aside(const struct schedule *schedule, const struct queued_message *message,
                       uint32_t index)
{
    const struct recipient *recipient = &message->envelope.recipients[index];

    return recipient->deliver.count > 0 ||
           order_that_routes(schedule, message->id, recipient->address.domain) != NULL;
}

static bool hold_add_recipient(struct schedule *schedule, struct hold *hold, uint32_t index,
                               const struct destination *to)
{
    const struct bytes domain = hold->message->envelope.recipients[index].address.domain;
    const struct order *suspends = order_that_suspends(schedule, to->key, domain);
    struct destination aside = *to;

    if (suspends)
        snprintf(aside.key, sizeof(aside.key), SUSPENDED_PREFIX "%.300s", suspends->what);
    struct place *place = place_find(schedule, &aside);
    if (!place)
        return false;
    if (suspends)
        place_suspend(place, suspends);
    if (goes_aside(schedule, hold->message, index))
        place_note_aside(place, domain);
    struct job *job = hold_find_job(hold, place, index);
    if (!job && place_is_full(place, hold)) {
        hold->postponed = true;
        hold->message->recipients[index].next_wall_us =
            clock_wall_us() + (int64_t)(SURPLUS_US + random_u64() % (2 * SURPLUS_US));
        return true;
    }
    if (!job)
        job = job_open(hold, place);
    return job && job_add(job, index);
}

/* Due now, or as soon as the first one is: what the spool gave is never given back untouched. */
static int64_t due_until(const struct queued_message *message)
{
    return MAX_OF(first_due(message), clock_wall_us());
}

static void hold_start(struct hold *hold)
{
    for (struct job *job = hold->jobs; job; job = job->hold_next)
        slots_start(job->place->pool);
}

/* Ends jobs that got no recipient for want of memory; true when something is left to do. */
static bool hold_trim(struct hold *hold)
{
    for (struct job *job = hold->jobs, *next; job; job = next) {
        next = job->hold_next;
        if (job->count > 0)
            continue;
        place_withdraw(job->place, job);
        struct job **at = &hold->jobs;
        while (*at != job)
            at = &(*at)->hold_next;
        *at = next;
        hold->job_count--;
        free(job);
    }
    return hold->job_count > 0;
}

/* What may have been delivered keeps its pause: only an operator's own word is stronger. */
static bool is_chosen(const struct queued_recipient *recipient, const struct hold_choice *choice,
                      const struct destination *to, int64_t until)
{
    if (recipient->next_wall_us <= until || !choice || !choice->untimely)
        return recipient->next_wall_us <= until;
    return !choice->only ||
           (strcmp(choice->only, to->key) == 0 && recipient->cause != CAUSE_AMBIGUOUS_DOT);
}

bool hold_add_scanned(struct schedule *schedule, struct queued_message *message,
                      const struct hold_choice *choice)
{
    const int64_t until = choice ? clock_wall_us() : due_until(message);
    struct hold *hold = hold_open(schedule, message);
    bool complete = hold != NULL;

    if (!hold) {
        spool_release(schedule->spool, message);
        return false;
    }
    for (uint32_t i = 0; i < message->envelope.recipient_count && complete; i++) {
        const struct queued_recipient *recipient = &message->recipients[i];
        struct destination to;
        if (recipient->state != RECIPIENT_WAITING)
            continue;
        route(schedule, message, i, &to);
        if (is_chosen(recipient, choice, &to, until))
            complete = hold_add_recipient(schedule, hold, i, &to);
    }
    if (hold_trim(hold))
        hold_start(hold);
    else
        hold_release(schedule, hold);
    return complete;
}

/* The one way to any attempt: what was taken unscanned goes another way first. */
bool hold_add(struct schedule *schedule, struct queued_message *message,
              const struct hold_choice *choice)
{
    return rescan_is_due(message) ? rescan_begin(schedule, message, choice && choice->untimely)
                                  : hold_add_scanned(schedule, message, choice);
}

/* ------------------------------------------------------------------ sharing the memory */

static struct place *place_slowest(struct schedule *schedule)
{
    struct place *slowest = NULL;

    for (unsigned i = 0; i < SCHEDULE_BUCKETS; i++) {
        for (struct place *place = schedule->buckets[i]; place; place = place->next_in_bucket) {
            const struct job *first = place_longest_waiting(place);
            if (place->waiting > SCHEDULE_MESSAGES_MAX / 4 &&
                clock_now_us() - first->queued_us > schedule->share_after_us &&
                (!slowest || place->waiting > slowest->waiting))
                slowest = place;
        }
    }
    return slowest;
}

/* All leases are out: a slow place with the lion's share gives back half of what waits for it, so
 * that mail for others can come in. */
static void schedule_share(struct schedule *schedule)
{
    struct place *place = place_slowest(schedule);

    struct job *job = place ? place_cut_half(place) : NULL;

    for (struct job *next; job; job = next) {
        next = job->next;
        place->busy++; /* as if by a slot: the place stays while this sleeps */
        job_postpone(schedule, job, clock_wall_us() + 60 * (int64_t)US_PER_S);
        place->busy--;
    }
}

/* ------------------------------------------------------------------ the taker */

static void taker_sweep(struct schedule *schedule)
{
    if (clock_now_us() - schedule->swept_us < US_PER_S)
        return;
    schedule->swept_us = clock_now_us();
    places_sweep(schedule);
    flush_watch_clock(schedule);
    orders_tidy(schedule);
}

static void taker_wait_for_room(struct schedule *schedule)
{
    schedule_share(schedule);
    if (schedule->leased < SCHEDULE_MESSAGES_MAX)
        return;
    schedule->taker_waits = true;
    const enum io_status status = fiber_park(deadline_in(US_PER_S));
    (void)status; /* the loop looks at the count again, and at `stopping` */
    schedule->taker_waits = false;
}

static void taker_add_all(struct schedule *schedule, struct queued_message *list)
{
    bool complete = true;

    for (struct queued_message *message = list, *next; message; message = next) {
        next = message->next;
        if (schedule->stopping)
            spool_release(schedule->spool, message);
        else
            complete = hold_add(schedule, message, NULL) && complete;
    }
    if (!complete) { /* out of memory: wait for some of it to come back */
        const enum io_status status = fiber_sleep_until(deadline_in(US_PER_S));
        (void)status;
    }
}

static void taker_main(void *argument)
{
    struct schedule *schedule = argument;

    orders_load(schedule);
    while (!schedule->stopping && !fiber_cancelled()) {
        struct queued_message *list = NULL;
        taker_sweep(schedule);
        if (schedule->leased >= SCHEDULE_MESSAGES_MAX) {
            taker_wait_for_room(schedule);
            continue;
        }
        const unsigned most = MIN_OF(SCHEDULE_MESSAGES_MAX - schedule->leased, 256u);
        const enum io_status status =
            spool_take(schedule->spool, most, deadline_in(US_PER_S), &list);
        if (status == IO_OK) {
            taker_add_all(schedule, list);
        } else if (status == IO_FAILED) {
            const enum io_status slept = fiber_sleep_until(deadline_in(US_PER_S));
            (void)slept;
        }
    }
    schedule->taker_ended = true;
}

/* ------------------------------------------------------------------ open, stop, close */

struct schedule *schedule_open(const struct schedule_settings *settings, char *why, size_t why_room)
{
    struct schedule *schedule = calloc(1, sizeof(*schedule));

    if (!schedule) {
        snprintf(why, why_room, "schedule: out of memory");
        return NULL;
    }
    schedule->config = settings->config;
    schedule->spool = settings->spool;
    schedule->deliver = settings->deliver;
    schedule->scan = settings->scan;
    schedule->scan_argument = settings->scan_argument;
    schedule->share_after_us = settings->share_after_us ? settings->share_after_us : SHARE_AFTER_US;
    schedule->loop = loop_session(0);
    schedule->strays_wanted = true;
    schedule->strays_next_look_us = deadline_in(10 * US_PER_S); /* others have more to do first */
    if (!limits_open(schedule)) {
        snprintf(why, why_room, "schedule: out of memory");
        free(schedule);
        return NULL;
    }
    schedule->taker = fiber_start_on(schedule->loop, "schedule", taker_main, schedule);
    if (!schedule->taker) {
        snprintf(why, why_room, "schedule: no fiber");
        free(schedule->limits);
        free(schedule);
        return NULL;
    }
    return schedule;
}

struct renewal {
    struct schedule *schedule;
    const struct config *config;
    struct deliver *deliver;
    unsigned left;
};

static void renew_on_loop(void *argument)
{
    const struct renewal *renewal = argument;

    renewal->schedule->config = renewal->config;
    renewal->schedule->deliver = renewal->deliver;
}

bool schedule_renew(struct schedule *schedule, const struct config *config, struct deliver *deliver)
{
    struct renewal renewal = {.schedule = schedule, .config = config, .deliver = deliver};

    return schedule_on_loop(schedule, renew_on_loop, &renewal);
}

static void leave_on_loop(void *argument)
{
    struct renewal *renewal = argument;

    renewal->left = places_leave(renewal->schedule, renewal->deliver) +
                    renewal->schedule->rescan_count; /* may still ask the former policy */
}

bool schedule_has_left(struct schedule *schedule, struct deliver *deliver)
{
    struct renewal renewal = {.schedule = schedule, .deliver = deliver, .left = 1};

    return schedule_on_loop(schedule, leave_on_loop, &renewal) && renewal.left == 0;
}

struct stop {
    struct schedule *schedule;
    uint64_t deadline_us;
};

/* What waits goes back to the spool as it is; the slots are cancelled, but deliver masks that from
 * the dot to its reply, and settle while it records. Shortly before the deadline deliver gives up
 * the replies that have not come, so that this, too, is recorded. */
static void stop_on_loop(void *argument)
{
    const struct stop *stop = argument;
    struct schedule *schedule = stop->schedule;

    const uint64_t now_us = clock_now_us();
    const uint64_t left_us = stop->deadline_us > now_us ? stop->deadline_us - now_us : 0;

    schedule->stopping = true;
    const uint64_t give_up_us = stop->deadline_us - MIN_OF(left_us / 4, 2 * US_PER_S);
    deliver_give_up(schedule->deliver, give_up_us);
    fiber_cancel(schedule->taker);
    flushes_cancel(schedule);
    for (struct slot *slot = schedule->slots; slot; slot = slot->next) {
        if (slot->pool && slot->pool->deliver != schedule->deliver)
            deliver_give_up(slot->pool->deliver, give_up_us);
        fiber_cancel(slot->fiber);
    }
    rescans_cancel(schedule);
    const bool masked = fiber_mask_cancel(true);
    while ((schedule->slot_count > 0 || schedule->flush_count > 0 || schedule->rescan_count > 0 ||
            schedule->orders_tidying || !schedule->taker_ended) &&
           clock_now_us() < stop->deadline_us) {
        const uint64_t soon_us = deadline_in(10 * US_PER_MS);
        const enum io_status status = fiber_sleep_until(MIN_OF(soon_us, stop->deadline_us));
        (void)status;
    }
    fiber_mask_cancel(masked);
}

void schedule_stop(struct schedule *schedule, uint64_t deadline_us)
{
    struct stop stop = {.schedule = schedule, .deadline_us = deadline_us};

    if (!schedule_on_loop(schedule, stop_on_loop, &stop))
        schedule->stopping = true; /* no fiber to be had: the slots end at their next look */
}

static void holds_free(struct schedule *schedule)
{
    for (unsigned i = 0; i < HOLD_BUCKETS; i++) {
        while (schedule->holds[i]) {
            struct hold *hold = schedule->holds[i];
            while (hold->jobs) {
                struct job *job = hold->jobs;
                hold->jobs = job->hold_next;
                free(job->recipients);
                free(job);
            }
            hold_release(schedule, hold);
        }
    }
}

bool schedule_close(struct schedule *schedule)
{
    if (!schedule)
        return true;
    if (schedule->slot_count > 0 || schedule->flush_count > 0 || schedule->rescan_count > 0 ||
        schedule->orders_tidying || !schedule->taker_ended)
        return false; /* somebody is still past the dot: the end of the process frees it */
    holds_free(schedule);
    places_free(schedule);
    orders_free(schedule);
    free(schedule->limits);
    free(schedule);
    return true;
}

/* ------------------------------------------------------------------ the view from outside */

struct listing {
    struct schedule *schedule;
    struct destination_row *rows;
    unsigned room, count;
};

static void listing_add(struct listing *listing, const struct place *place)
{
    if (listing->count == listing->room)
        return;
    struct destination_row *row = &listing->rows[listing->count++];
    *row = (struct destination_row){.waiting = place->waiting,
                                    .active = place->busy,
                                    .limit = pool_limit(place->pool),
                                    .failures = place->pool->failures,
                                    .suspended = place->suspended,
                                    .backing_off = place_pauses(place),
                                    .next_wall_us = place->pool->resume_wall_us,
                                    .last_cause = place->pool->last_cause};
    snprintf(row->key, sizeof(row->key), "%s", place->to.key);
}

/* What is suspended is shown though nothing of it is in memory now. */
static void listing_add_order(struct listing *listing, const struct order *order)
{
    char key[320];

    snprintf(key, sizeof(key), SUSPENDED_PREFIX "%.300s", order->what);
    if (order->routes || order->until_wall_us || place_known(listing->schedule, key) ||
        listing->count == listing->room)
        return;
    struct destination_row *row = &listing->rows[listing->count++];
    *row = (struct destination_row){.suspended = true, .last_cause = CAUSE_OPERATOR_SUSPENDED};
    snprintf(row->key, sizeof(row->key), "%s", key);
}

static void listing_main(void *argument)
{
    struct listing *listing = argument;

    for (unsigned i = 0; i < SCHEDULE_BUCKETS; i++) {
        for (const struct place *place = listing->schedule->buckets[i]; place;
             place = place->next_in_bucket)
            listing_add(listing, place);
    }
    for (unsigned i = 0; i < ORDER_BUCKETS; i++) {
        for (const struct order *order = listing->schedule->orders[i]; order; order = order->next)
            listing_add_order(listing, order);
    }
}

unsigned schedule_destinations(struct schedule *schedule, struct destination_row *rows,
                               unsigned room)
{
    struct listing listing = {.schedule = schedule, .rows = rows, .room = room};

    return schedule_on_loop(schedule, listing_main, &listing) ? listing.count : 0;
}
