/*
 * Slots: the fibers that deliver. A slot takes the next job of its place, makes one attempt,
 * records what came of it, and goes on with the same connection; with nothing to do it lingers a
 * moment, so that a steady flow keeps its connections.
 */
#include "schedule/inside.h"

#include <string.h>

/* ------------------------------------------------------------------ jobs */

void job_end(struct job *job)
{
    struct schedule *schedule = job->place->schedule;
    struct hold *hold = job->hold;
    struct job **at = &hold->jobs;

    while (*at != job)
        at = &(*at)->hold_next;
    *at = job->hold_next;
    free(job->recipients);
    free(job);
    if (--hold->job_count == 0 && !hold->stuck)
        hold_release(schedule, hold);
}

/* The first message that waits for a place learns why from the record; then `queue` can tell. */
static bool job_knows_why(const struct job *job)
{
    const struct queued_message *message = job->hold->message;

    for (uint32_t i = 0; i < job->count; i++) {
        if (job->place->pool->last_cause != CAUSE_UNDECIDED &&
            message->recipients[job->recipients[i]].cause != job->place->pool->last_cause)
            return false;
    }
    return true;
}

/* In memory and in the index only. A mark on the way, warning or expiry, is not slept over; while a
 * suspension lasts there is none. */
static void job_put_off(const struct schedule *schedule, struct job *job, int64_t until_wall_us)
{
    for (uint32_t i = 0; i < job->count; i++) {
        const uint32_t index = job->recipients[i];
        const int64_t accepted = order_accepted_wall_us(job->place, job->hold->message, index);
        const int64_t next = until_wall_us + (int64_t)(random_u64() % US_PER_S);
        job->hold->message->recipients[index].next_wall_us =
            job->place->suspended ? next
                                  : retry_before_mark(&schedule->config->retry, accepted, next);
    }
    job->hold->postponed = true;
}

static void job_record_why(struct schedule *schedule, struct job *job)
{
    struct arena arena = ARENA_WITH_LIMIT(SLOT_ARENA_BYTES);
    struct queued_message *message = job->hold->message;
    const struct place *place = job->place;
    struct decision *decisions = ARENA_NEW_ARRAY(&arena, job->count, struct decision);
    struct report report = {.schedule = schedule,
                            .message = message,
                            .arena = &arena,
                            .decisions = decisions,
                            .count = decisions ? job->count : 0};

    for (uint32_t i = 0; i < report.count; i++) {
        const uint32_t index = job->recipients[i];
        const struct queued_recipient *recipient = &message->recipients[index];
        decisions[i] =
            (struct decision){.quiet = true,
                              .settlement = {.recipient = index,
                                             .state = RECIPIENT_WAITING,
                                             .next_wall_us = recipient->next_wall_us,
                                             .cause = place->pool->last_cause,
                                             .reply = bytes_of_text(place->pool->last_words),
                                             .attempts = recipient->attempts,
                                             .attempt_wall_us = recipient->last_attempt_wall_us,
                                             .delay_notified = recipient->delay_notified}};
    }
    const bool masked = fiber_mask_cancel(true);
    if (report.count > 0 && !settle_report(&report))
        observe_note(LOG_WARNING, "schedule", "%s: why it waits is not recorded", place->to.key);
    fiber_mask_cancel(masked);
    arena_clear(&arena);
}

/* Back to the spool untried: neither the attempt's number nor the retry's step advances. */
void job_postpone(struct schedule *schedule, struct job *job, int64_t until_wall_us)
{
    job_put_off(schedule, job, until_wall_us);
    if (!job_knows_why(job))
        job_record_why(schedule, job);
    job_end(job);
}

/* ------------------------------------------------------------------ one attempt */

/* What the attempt tells about the place. A 4yz to a message tells nothing; 421 asks for less. */
static void slot_judge_place(struct place *place, const struct attempt *attempt, bool host_failed)
{
    bool closing = false;

    for (uint32_t i = 0; i < attempt->recipient_count; i++)
        closing = closing || attempt->outcomes[i].code == 421;
    if (host_failed)
        place_failed(place, &attempt->outcomes[0]);
    else if (closing)
        place_slowed(place);
    else if (cause_row(attempt->outcomes[0].verdict.cause)->side != SIDE_OURS)
        place_succeeded(place);
}

/* Is the sender owed a word, or the message its end, though its destination pauses? */
static bool job_is_overdue(const struct job *job)
{
    const struct config_retry *retry = &job->place->schedule->config->retry;
    const struct queued_message *message = job->hold->message;

    for (uint32_t i = 0; i < job->count; i++) {
        const uint32_t index = job->recipients[i];
        const int64_t age_us = clock_wall_us() - order_accepted_wall_us(job->place, message, index);
        if (age_us >= (int64_t)retry->expire_after_us ||
            (retry_is_late(retry, age_us) && !message->recipients[index].delay_notified))
            return true;
    }
    return false;
}

/* Then the place's last answer to another message is the answer to this one. */
static void attempt_answer(const struct place *place, struct attempt *attempt)
{
    const struct bytes words = arena_copy(attempt->arena, bytes_of_text(place->pool->last_words));

    for (uint32_t i = 0; i < attempt->recipient_count; i++)
        attempt->outcomes[i] =
            (struct outcome){.verdict = verdict_with(place->pool->last_cause, words),
                             .stage = STAGE_CONNECT,
                             .reply = words};
}

static void slot_attempt(struct slot *slot, struct job *job)
{
    const uint64_t begun_us = clock_now_us();
    bool host_failed = false;
    struct attempt attempt = {.to = &slot->place->to,
                              .message = job->hold->message,
                              .recipients = job->recipients,
                              .recipient_count = job->count,
                              .outcomes = ARENA_NEW_ARRAY(&slot->arena, job->count, struct outcome),
                              .arena = &slot->arena};

    if (!attempt.outcomes) { /* out of memory: the lease ends, the spool gives it again, but not at
                                once */
        const enum io_status slept = fiber_sleep_until(deadline_in(US_PER_S));
        (void)slept;
        job_end(job);
        return;
    }
    const bool answered = place_pauses(slot->place);
    if (answered)
        attempt_answer(slot->place, &attempt);
    else
        deliver_attempt(slot->channel, &attempt, &host_failed);
    const bool masked = fiber_mask_cancel(true); /* what was done is recorded, come what may */
    if (!slot->schedule->stopping && !answered)
        slot_judge_place(job->place, &attempt, host_failed);
    if (!settle_attempt(slot->place, &attempt, clock_now_us() - begun_us))
        job->hold->stuck = true;
    fiber_mask_cancel(masked);
    job_end(job);
}

/* At once when it was resumed meanwhile: then its next taking leads to its real place. */
static int64_t suspended_until(const struct place *place)
{
    const char *what = place->to.key + strlen(SUSPENDED_PREFIX);
    const bool lasts = order_that_suspends(place->schedule, what, BYTES_EMPTY) != NULL;

    return clock_wall_us() + (int64_t)(lasts ? SUSPENDED_LOOK_US : 0);
}

/* Its channel turns to the place; a bound that holds for another does not hold for this one. */
static bool slot_serve(struct slot *slot, struct place *place)
{
    if (!slot->channel)
        slot->channel = deliver_channel_open(place->deliver, &place->to);
    if (!slot->channel)
        return false;
    deliver_channel_turn(slot->channel, &place->to);
    slot->limit_known = slot->limit_known && slot->served == place->number;
    slot->served = place->number;
    place_join(slot, place);
    return true;
}

/* Gives the job back when those who have connections to the place's hosts can do it: a pool that
 * was just joined is full, or somebody in it lingers. */
static bool slot_yields(struct slot *slot, struct job *job, const struct pool *from)
{
    struct pool *pool = slot->pool;

    if (pool == from || (pool->slots <= pool_limit(pool) && !pool->idle))
        return false;
    slot->leaves = true;
    place_push_front(job->place, job);
    return true;
}

static void slot_do(struct slot *slot, struct job *job)
{
    struct place *place = job->place;
    const int64_t bound = place->suspended ? 0 : limits_delay_until(slot);

    if (place->suspended)
        job_postpone(slot->schedule, job, suspended_until(place));
    else if (bound > 0)
        job_postpone(slot->schedule, job, bound);
    else if (place_pauses(place) && !job_is_overdue(job))
        job_postpone(slot->schedule, job, place->pool->resume_wall_us);
    else
        slot_attempt(slot, job);
}

static void slot_run(struct slot *slot, struct job *job)
{
    struct place *place = job->place;
    const struct pool *from = slot->pool;

    place->busy++;
    slot->pool->busy++;
    slot->place = place;
    if (!slot_serve(slot, place)) {
        slot->leaves = true;
        place_push_front(place, job);
    } else if (!slot_yields(slot, job, from)) {
        if (slot->pool != from)
            slots_start(slot->pool); /* it may have brought more work along */
        slot_do(slot, job);
    }
    slot->place = NULL;
    slot->pool->busy--;
    place->busy--;
    if (place->pool != slot->pool)
        slots_start(place->pool);
    arena_clear(&slot->arena);
}

/* ------------------------------------------------------------------ a slot's life */

static void slot_leave_idle(struct slot *slot)
{
    struct slot **at = &slot->pool->idle;

    while (*at && *at != slot)
        at = &(*at)->next_idle;
    if (*at)
        *at = slot->next_idle;
    slot->idle = false;
}

/* Waits for the next job with the connection open; false when none came. */
static bool slot_linger(struct slot *slot)
{
    const uint64_t deadline_us = deadline_in(SLOT_LINGER_US);

    if (slot->schedule->starved)
        return slot->pool->waiting > 0; /* others wait for this slot */
    slot->idle = true;
    slot->next_idle = slot->pool->idle;
    slot->pool->idle = slot;
    while (slot->idle && slot->pool->waiting == 0) {
        if (fiber_park(deadline_us) != IO_OK)
            break;
    }
    if (slot->idle)
        slot_leave_idle(slot);
    return slot->pool->waiting > 0;
}

static bool slot_goes_on(const struct slot *slot)
{
    return !slot->schedule->stopping && !fiber_cancelled() && !slot->leaves &&
           slot->pool->slots <= pool_limit(slot->pool);
}

static void slot_unlink(struct slot *slot)
{
    struct schedule *schedule = slot->schedule;

    if (slot->previous)
        slot->previous->next = slot->next;
    else
        schedule->slots = slot->next;
    if (slot->next)
        slot->next->previous = slot->previous;
    schedule->slot_count--;
}

/* The pool forgets the slot before the QUIT, which may sleep: no job waits for a slot that leaves.
 * Without memory for a channel the sweep tries again, lest it be tried without a pause. */
static void slot_main(void *argument)
{
    struct slot *slot = argument;

    while (slot_goes_on(slot)) {
        struct job *job = pool_pop(slot->pool);
        if (job)
            slot_run(slot, job);
        else if (!slot_linger(slot))
            break;
    }
    struct pool *pool = slot->pool;
    limit_leave(slot);
    pool->slots--;
    slot->schedule->pools_to_sweep = true;
    slot->pool = NULL;
    if (slot->channel)
        slots_start(pool);
    deliver_channel_close(slot->channel);
    arena_clear(&slot->arena);
    slot_unlink(slot);
    if (slot->schedule->starved && !slot->schedule->stopping) {
        slot->schedule->starved = false; /* unless the sweep finds it so again */
        places_sweep(slot->schedule);
    }
    free(slot);
}

static bool slot_start(struct pool *pool)
{
    struct schedule *schedule = pool->schedule;
    struct slot *slot = calloc(1, sizeof(*slot));

    if (!slot)
        return false;
    *slot = (struct slot){.schedule = schedule,
                          .pool = pool,
                          .arena = ARENA_WITH_LIMIT(SLOT_ARENA_BYTES),
                          .next = schedule->slots};
    slot->fiber = fiber_start("delivery", slot_main, slot);
    if (!slot->fiber) {
        free(slot);
        return false;
    }
    if (schedule->slots)
        schedule->slots->previous = slot;
    schedule->slots = slot;
    schedule->slot_count++;
    pool->slots++;
    return true;
}

static unsigned idle_wake(struct pool *pool, unsigned most)
{
    unsigned count = 0;

    while (pool->idle && count < most) {
        struct slot *slot = pool->idle;
        pool->idle = slot->next_idle;
        slot->idle = false;
        fiber_wake(slot->fiber);
        count++;
    }
    return count;
}

/* Slots that are neither busy nor idle are on their way to the queue already. */
void slots_start(struct pool *pool)
{
    struct schedule *schedule = pool->schedule;
    unsigned idle = 0;

    for (const struct slot *slot = pool->idle; slot; slot = slot->next_idle)
        idle++;
    const unsigned coming = pool->slots - pool->busy - idle;
    unsigned wanted = pool->waiting > coming ? pool->waiting - coming : 0;
    wanted -= idle_wake(pool, wanted);
    while (wanted-- > 0 && !schedule->stopping && pool->slots < pool_limit(pool)) {
        if (schedule->slot_count >= SCHEDULE_SLOTS_MAX || !slot_start(pool)) {
            schedule->starved = true;
            return;
        }
    }
}
