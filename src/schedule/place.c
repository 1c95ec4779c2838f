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

struct place *place_find(struct schedule *schedule, const struct destination *to)
{
    struct place **bucket = bucket_of(schedule, to->key);

    for (struct place *place = *bucket; place; place = place->next_in_bucket) {
        if (strcmp(place->to.key, to->key) == 0)
            return place;
    }
    struct place *place =
        schedule->place_count < SCHEDULE_PLACES_MAX ? calloc(1, sizeof(*place)) : NULL;
    if (!place)
        return NULL;
    place->schedule = schedule;
    place->to = *to;
    place->window = PLACE_WINDOW_START;
    place->next_in_bucket = *bucket;
    *bucket = place;
    schedule->place_count++;
    return place;
}

void place_push(struct place *place, struct job *job)
{
    job->next = NULL;
    job->queued = true;
    job->queued_us = clock_now_us();
    if (place->last)
        place->last->next = job;
    else
        place->first = job;
    place->last = job;
    place->waiting++;
}

struct job *place_pop(struct place *place)
{
    struct job *job = place->first;

    if (!job)
        return NULL;
    place->first = job->next;
    if (!place->first)
        place->last = NULL;
    place->waiting--;
    job->next = NULL;
    job->queued = false;
    return job;
}

struct job *place_cut_half(struct place *place)
{
    struct job *last_kept = place->first;

    for (unsigned i = 1; i < (place->waiting + 1) / 2; i++)
        last_kept = last_kept->next;
    struct job *cut = last_kept ? last_kept->next : NULL;
    if (!cut)
        return NULL;
    last_kept->next = NULL;
    place->last = last_kept;
    for (struct job *job = cut; job; job = job->next) {
        job->queued = false;
        place->waiting--;
    }
    return cut;
}

void place_withdraw(struct place *place, struct job *job)
{
    struct job *before = NULL;

    for (struct job *at = place->first; at && at != job; at = at->next)
        before = at;
    if (before)
        before->next = job->next;
    else
        place->first = job->next;
    if (place->last == job)
        place->last = before;
    place->waiting--;
    job->next = NULL;
    job->queued = false;
}

bool place_pauses(const struct place *place)
{
    return place->resume_us > clock_now_us();
}

unsigned place_limit(const struct place *place)
{
    return place_pauses(place) ? (unsigned)PLACE_WINDOW_START : (unsigned)place->window;
}

void place_clear_pause(struct place *place)
{
    place->resume_us = 0;
    place->resume_wall_us = 0;
}

void place_succeeded(struct place *place)
{
    place->failures = 0;
    place->pauses = 0;
    place->last_cause = CAUSE_UNDECIDED;
    place_clear_pause(place);
    place->window = MIN_OF(place->window + 1.0 / place->window, PLACE_WINDOW_MAX);
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
    for (unsigned i = 0; i < SCHEDULE_BUCKETS; i++) {
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
