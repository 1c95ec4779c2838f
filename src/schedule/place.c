/*
 * Places: the destinations that have work or a bad record. The window of slots grows by 1/N with
 * each success and shrinks by 1/N with each failed connection; after some failures in a row the
 * place pauses, and what waits for it goes back to the spool untried and uncounted. After the pause
 * one slot tries, so a place that recovers is met by a ramp.
 */
#include "schedule/inside.h"

#include <string.h>

static struct place **bucket_of(struct schedule *schedule, const char *key)
{
    return &schedule->buckets[bytes_hash_nocase(bytes_of_text(key)) % SCHEDULE_BUCKETS];
}

/* A new configuration does not make a dead host alive. */
static void place_inherit(struct place *place, const struct place *former)
{
    place->window = former->window;
    place->failures = former->failures;
    place->pauses = former->pauses;
    place->resume_us = former->resume_us;
    place->resume_wall_us = former->resume_wall_us;
    place->last_cause = former->last_cause;
    snprintf(place->last_words, sizeof place->last_words, "%s", former->last_words);
}

struct place *place_find(struct schedule *schedule, const struct destination *to)
{
    struct place **bucket = bucket_of(schedule, to->key);

    const struct place *former = NULL;
    for (struct place *place = *bucket; place; place = place->next_in_bucket) {
        if (strcmp(place->to.key, to->key) != 0)
            continue;
        if (place->deliver == schedule->deliver)
            return place;
        former = former ? former : place;
    }
    struct place *place =
        schedule->place_count < SCHEDULE_PLACES_MAX ? calloc(1, sizeof(*place)) : NULL;
    if (!place)
        return NULL;
    place->window = PLACE_WINDOW_START;
    if (former)
        place_inherit(place, former);
    place->schedule = schedule;
    place->deliver = schedule->deliver;
    place->to = *to;
    place->next_in_bucket = *bucket;
    *bucket = place;
    schedule->place_count++;
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
    place->waiting++;
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
        place->waiting--;
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
        place->waiting--;
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
    place->waiting--;
    job->next = NULL;
    job->queued = false;
}

/* ------------------------------------------------------------------ window and pauses */

bool place_pauses(const struct place *place)
{
    return place->resume_us > clock_now_us();
}

unsigned place_limit(const struct place *place)
{
    const unsigned limit =
        place_pauses(place) ? (unsigned)PLACE_WINDOW_START : (unsigned)place->window;

    return place->to.most > 0 ? MIN_OF(limit, place->to.most) : limit;
}

void place_clear_pause(struct place *place)
{
    place->resume_us = 0;
    place->resume_wall_us = 0;
}

/* Back after a pause: what waits in the spool for its next time need not wait longer. The window,
 * which begins at one slot, is the ramp. */
static void place_recovered(struct place *place)
{
    const struct flush_request request = {.key = place->to.key,
                                          .domain = place->to.via ? NULL : place->to.domain};

    if (flush_start(place->schedule, &request))
        observe_note(LOG_INFO, "schedule", "%s: answers again, its queue is tried", place->to.key);
}

void place_succeeded(struct place *place)
{
    const bool recovered = place->pauses > 0;

    place->failures = 0;
    place->pauses = 0;
    place->last_cause = CAUSE_UNDECIDED;
    place_clear_pause(place);
    place->window = MIN_OF(place->window + 1.0 / place->window, PLACE_WINDOW_MAX);
    if (recovered)
        place_recovered(place);
}

void place_slowed(struct place *place)
{
    place->window = MAX_OF(place->window - 1.0 / place->window, 1.0);
}

/* The pause follows the retry schedule, counted by pauses, so it fits what messages do themselves.
 */
static void place_pause(struct place *place)
{
    char text[64];
    const int64_t now = clock_wall_us();
    const int64_t next = schedule_next_wall_us(&place->schedule->config->retry, ++place->pauses,
                                               now, now, (unsigned)(random_u64() % 1001));
    const uint64_t pause_us = MIN_OF((uint64_t)MAX_OF(next - now, 1), PLACE_PAUSE_MAX_US);

    place->window = 1.0;
    place->resume_us = clock_now_us() + pause_us;
    place->resume_wall_us = now + (int64_t)pause_us;
    observe_note(LOG_WARNING, "schedule", "%s: %u connections failed (%s), next try in %s",
                 place->to.key, place->failures, cause_name(place->last_cause),
                 duration_print(pause_us, text, sizeof(text)));
}

void place_failed(struct place *place, const struct outcome *outcome)
{
    place->failures++;
    place->last_cause = outcome->verdict.cause;
    snprintf(place->last_words, sizeof(place->last_words), "%.*s", BYTES_PRINT(outcome->reply));
    place_slowed(place);
    if (place->failures >= PLACE_DEAD_AFTER && !place_pauses(place))
        place_pause(place);
}

/* Nothing waits, nobody works, and no bad record is fresh enough to matter. */
static bool place_is_idle(const struct place *place)
{
    const uint64_t now_us = clock_now_us();

    return place->waiting == 0 && place->slots == 0 &&
           (place->failures == 0 || now_us > place->resume_us + PLACE_PAUSE_MAX_US);
}

void places_sweep(struct schedule *schedule)
{
    for (unsigned i = 0; i < SCHEDULE_BUCKETS && schedule->place_count > 0; i++) {
        for (struct place **at = &schedule->buckets[i]; *at;) {
            struct place *place = *at;
            if (place_is_idle(place)) {
                *at = place->next_in_bucket;
                schedule->place_count--;
                free(place);
            } else {
                slots_start(place);
                at = &place->next_in_bucket;
            }
        }
    }
}

unsigned places_leave(struct schedule *schedule, const struct deliver *deliver)
{
    unsigned left = 0;

    for (unsigned i = 0; i < SCHEDULE_BUCKETS; i++) {
        for (struct place **at = &schedule->buckets[i]; *at;) {
            struct place *place = *at;
            const bool ends = place->deliver == deliver && place->waiting == 0 &&
                              place->slots == 0 && !place_pauses(place);
            left += place->deliver == deliver && !ends;
            if (!ends) {
                at = &place->next_in_bucket;
                continue;
            }
            *at = place->next_in_bucket;
            schedule->place_count--;
            free(place);
        }
    }
    return left;
}

void places_free(struct schedule *schedule)
{
    for (unsigned i = 0; i < SCHEDULE_BUCKETS; i++) {
        while (schedule->buckets[i]) {
            struct place *place = schedule->buckets[i];
            schedule->buckets[i] = place->next_in_bucket;
            free(place);
        }
    }
}
