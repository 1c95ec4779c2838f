/*
 * Places: the destinations that have work or a bad record, with the queue of each, in which senders
 * take turns. What connects to them is in pools (pool.c).
 */
#include "schedule/inside.h"

#include <string.h>

static struct place **bucket_of(struct schedule *schedule, const char *key)
{
    return &schedule->buckets[bytes_hash_nocase(bytes_of_text(key)) % SCHEDULE_BUCKETS];
}

struct place *place_find(struct schedule *schedule, const struct destination *to)
{
    struct place **bucket = bucket_of(schedule, to->key);

    for (struct place *place = *bucket; place; place = place->next_in_bucket)
        if (place->deliver == schedule->deliver && strcmp(place->to.key, to->key) == 0)
            return place;
    struct pool *pool = schedule->place_count < SCHEDULE_PLACES_MAX
                            ? pool_find(schedule, schedule->deliver, to->key)
                            : NULL;
    struct place *place = pool ? calloc(1, sizeof(*place)) : NULL;
    if (!place)
        return NULL; /* the sweep forgets the pool */
    place->number = ++schedule->places_made;
    place->schedule = schedule;
    place->deliver = schedule->deliver;
    place->to = *to;
    place->next_in_bucket = *bucket;
    *bucket = place;
    schedule->place_count++;
    pool_enter(pool, place);
    return place;
}

struct place *place_known(struct schedule *schedule, const char *key)
{
    struct place *place = *bucket_of(schedule, key);

    while (place && strcmp(place->to.key, key) != 0)
        place = place->next_in_bucket;
    return place;
}

/* ------------------------------------------------------------------ the queue, by lanes */

static struct lane *lane_of(struct place *place, const struct hold *hold)
{
    return &place->lanes[hold->message->sender % PLACE_LANES];
}

bool place_is_full(const struct place *place, const struct hold *hold)
{
    const struct lane *lane = &place->lanes[hold->message->sender % PLACE_LANES];

    return place->waiting >= PLACE_JOBS_MOST || lane->count >= PLACE_LANE_MOST;
}

struct job *place_last_of(const struct place *place, const struct hold *hold)
{
    struct job *last = place->lanes[hold->message->sender % PLACE_LANES].last;

    return last && last->hold == hold ? last : NULL;
}

const struct job *place_longest_waiting(const struct place *place)
{
    const struct job *longest = NULL;

    for (unsigned i = 0; i < PLACE_LANES; i++) {
        const struct job *first = place->lanes[i].first;
        if (first && (!longest || first->queued_us < longest->queued_us))
            longest = first;
    }
    return longest;
}

void place_push(struct place *place, struct job *job)
{
    struct lane *lane = lane_of(place, job->hold);

    job->next = NULL;
    job->queued = true;
    job->queued_us = clock_now_us();
    if (lane->last)
        lane->last->next = job;
    else
        lane->first = job;
    lane->last = job;
    lane->count++;
    pool_note_waiting(place, 1);
}

void place_push_front(struct place *place, struct job *job)
{
    struct lane *lane = lane_of(place, job->hold);

    job->next = lane->first;
    job->queued = true;
    lane->first = job;
    if (!lane->last)
        lane->last = job;
    lane->count++;
    pool_note_waiting(place, 1);
}

struct job *place_pop(struct place *place)
{
    for (unsigned i = 0; i < PLACE_LANES; i++) {
        struct lane *lane = &place->lanes[(place->turn + i) % PLACE_LANES];
        struct job *job = lane->first;
        if (!job)
            continue;
        place->turn = (place->turn + i + 1) % PLACE_LANES;
        lane->first = job->next;
        if (!lane->first)
            lane->last = NULL;
        lane->count--;
        pool_note_waiting(place, -1);
        job->next = NULL;
        job->queued = false;
        return job;
    }
    return NULL;
}

static struct job *lane_cut_half(struct place *place, struct lane *lane, struct job *behind)
{
    struct job *last_kept = lane->first;

    for (unsigned i = 1; i < (lane->count + 1) / 2; i++)
        last_kept = last_kept->next;
    struct job *cut = last_kept ? last_kept->next : NULL;
    if (!cut)
        return behind;
    last_kept->next = NULL;
    lane->last->next = behind;
    lane->last = last_kept;
    for (struct job *job = cut; job != behind; job = job->next) {
        job->queued = false;
        lane->count--;
        pool_note_waiting(place, -1);
    }
    return cut;
}

struct job *place_cut_half(struct place *place)
{
    struct job *cut = NULL;

    for (unsigned i = 0; i < PLACE_LANES; i++)
        cut = lane_cut_half(place, &place->lanes[i], cut);
    return cut;
}

void place_withdraw(struct place *place, struct job *job)
{
    struct lane *lane = lane_of(place, job->hold);
    struct job *before = NULL;

    for (struct job *at = lane->first; at && at != job; at = at->next)
        before = at;
    if (before)
        before->next = job->next;
    else
        lane->first = job->next;
    if (lane->last == job)
        lane->last = before;
    lane->count--;
    pool_note_waiting(place, -1);
    job->next = NULL;
    job->queued = false;
}

/* ------------------------------------------------------------------ forgetting */

/* Nothing waits, nobody works, and no bad record is fresh enough to matter. */
static bool place_is_idle(const struct place *place)
{
    const struct pool *pool = place->pool;

    return place->waiting == 0 && place->busy == 0 && !place->flush_due &&
           (pool->failures == 0 || clock_now_us() > pool->resume_us + PLACE_PAUSE_MAX_US);
}

static void place_forget(struct place **at)
{
    struct place *place = *at;

    *at = place->next_in_bucket;
    place->schedule->place_count--;
    pool_leave(place);
    free(place);
}

/* Mail came here by another way than the configuration's for its domain. */
void place_note_aside(struct place *place, struct bytes domain)
{
    if (*place->aside == 0)
        snprintf(place->aside, sizeof place->aside, "%.*s", BYTES_PRINT(domain));
    else if (!bytes_equal_text_nocase(domain, place->aside))
        snprintf(place->aside, sizeof place->aside, "%s", ANY_DOMAIN);
}

void place_flush(struct place *place)
{
    const struct flush_request request = {.key = place->to.key,
                                          .domain = place->to.via ? NULL : place->to.domain,
                                          .aside = *place->aside ? place->aside : NULL};

    place->flush_due = !flush_start(place->schedule, &request);
    if (place->flush_due)
        return;
    observe_note(LOG_INFO, "schedule", "%s: answers again, its queue is tried", place->to.key);
}

void places_sweep(struct schedule *schedule)
{
    unsigned left = schedule->place_count;

    for (unsigned i = 0; i < SCHEDULE_BUCKETS && left > 0; i++) {
        for (struct place **at = &schedule->buckets[i]; *at; left--) {
            struct place *place = *at;
            if (place->flush_due)
                place_flush(place);
            if (place_is_idle(place)) {
                place_forget(at);
            } else {
                slots_start(place->pool);
                at = &place->next_in_bucket;
            }
        }
    }
    pools_sweep(schedule);
}

unsigned places_leave(struct schedule *schedule, const struct deliver *deliver)
{
    unsigned left = 0;

    for (unsigned i = 0; i < SCHEDULE_BUCKETS; i++) {
        for (struct place **at = &schedule->buckets[i]; *at;) {
            struct place *place = *at;
            const bool ends = place->deliver == deliver && place->waiting == 0 &&
                              place->busy == 0 && !place_pauses(place);
            left += place->deliver == deliver && !ends;
            if (ends)
                place_forget(at);
            else
                at = &place->next_in_bucket;
        }
    }
    pools_sweep(schedule);
    return left + pools_left(schedule, deliver);
}

void places_free(struct schedule *schedule)
{
    for (unsigned i = 0; i < SCHEDULE_BUCKETS; i++)
        while (schedule->buckets[i])
            place_forget(&schedule->buckets[i]);
    pools_free(schedule);
}
