/*
 * Pools: what destinations share that lead to the same hosts. The window of slots grows by 1/N with
 * each success and shrinks by 1/N with each failed connection; after some failures in a row the
 * pool pauses, and what waits for its places goes back to the spool untried and uncounted. After
 * the pause one slot tries, so hosts that recover are met by a ramp.
 *
 * Which hosts a domain has is known by asking DNS only, so a place by MX begins in a pool of its
 * own with one slot. That slot asks, takes the place into the pool of its hosts, and goes along.
 * What fails for the domain's own reasons (its names, its TLS policy) puts the place back into its
 * own pool until something succeeds there: a bad record of its own never slows others.
 */
#include "schedule/inside.h"

#include <string.h>

#define HOSTS_HOLD_US (60 * US_PER_S) /* then they are asked for again */

static struct pool **bucket_of(struct schedule *schedule, const char *key)
{
    return &schedule->pools[bytes_hash_nocase(bytes_of_text(key)) % SCHEDULE_BUCKETS];
}

/* ------------------------------------------------------------------ which places */

/* A new configuration does not make a dead host alive. */
static void pool_inherit(struct pool *pool, const struct pool *former)
{
    pool->window = former->window;
    pool->failures = former->failures;
    pool->pauses = former->pauses;
    pool->resume_us = former->resume_us;
    pool->resume_wall_us = former->resume_wall_us;
    pool->last_cause = former->last_cause;
    snprintf(pool->last_words, sizeof pool->last_words, "%s", former->last_words);
}

struct pool *pool_find(struct schedule *schedule, struct deliver *deliver, const char *key)
{
    struct pool **bucket = bucket_of(schedule, key);
    const struct pool *former = NULL;

    for (struct pool *pool = *bucket; pool; pool = pool->next_in_bucket) {
        if (strcmp(pool->key, key) != 0)
            continue;
        if (pool->deliver == deliver)
            return pool;
        former = former ? former : pool;
    }
    struct pool *pool = calloc(1, sizeof(*pool));
    if (!pool)
        return NULL;
    pool->window = PLACE_WINDOW_START;
    if (former)
        pool_inherit(pool, former);
    pool->schedule = schedule;
    schedule->pools_to_sweep = true;
    pool->deliver = deliver;
    snprintf(pool->key, sizeof pool->key, "%s", key);
    pool->next_in_bucket = *bucket;
    *bucket = pool;
    return pool;
}

static bool place_is_alone(const struct place *place)
{
    return strcmp(place->pool->key, place->to.key) == 0;
}

static bool place_seeks(const struct place *place)
{
    return deliver_is_by_mx(&place->to) && !place->suspended;
}

static void waiting_add(struct pool *pool, struct place *place)
{
    place->next_waiting = NULL;
    place->previous_waiting = pool->last;
    if (pool->last)
        pool->last->next_waiting = place;
    else
        pool->first = place;
    pool->last = place;
}

static void waiting_remove(struct pool *pool, struct place *place)
{
    if (place->previous_waiting)
        place->previous_waiting->next_waiting = place->next_waiting;
    else
        pool->first = place->next_waiting;
    if (place->next_waiting)
        place->next_waiting->previous_waiting = place->previous_waiting;
    else
        pool->last = place->previous_waiting;
    place->next_waiting = place->previous_waiting = NULL;
}

void pool_note_waiting(struct place *place, int more)
{
    struct pool *pool = place->pool;
    const bool waited = place->waiting > 0;

    place->waiting += (unsigned)more;
    pool->waiting += (unsigned)more;
    if (waited == (place->waiting > 0))
        return;
    if (waited)
        waiting_remove(pool, place);
    else
        waiting_add(pool, place);
}

void pool_enter(struct pool *pool, struct place *place)
{
    place->pool = pool;
    pool->places++;
    pool->waiting += place->waiting;
    pool->seeks = place_is_alone(place) && deliver_is_by_mx(&place->to);
    pool->most = place_is_alone(place) ? place->to.most : 0;
    if (place->waiting > 0)
        waiting_add(pool, place);
}

void pool_leave(struct place *place)
{
    struct pool *pool = place->pool;

    if (place->waiting > 0)
        waiting_remove(pool, place);
    pool->waiting -= place->waiting;
    pool->places--;
    place->schedule->pools_to_sweep = true;
    place->pool = NULL;
}

struct job *pool_pop(struct pool *pool)
{
    struct place *place = pool->first;
    struct job *job = place ? place_pop(place) : NULL;

    if (place && place->waiting > 0) {
        waiting_remove(pool, place);
        waiting_add(pool, place);
    }
    return job;
}

/* Without memory it stays where it is, which is right as well. */
static void place_move(struct place *place, const char *key)
{
    struct pool *to = pool_find(place->schedule, place->deliver, key);

    if (!to || to == place->pool)
        return;
    place->recovers = place->recovers || place->pool->pauses > 0;
    pool_leave(place);
    pool_enter(to, place);
}

/* The slot at work on a job of the place goes along. */
static void slot_follow(struct slot *slot, const struct place *place)
{
    if (slot->pool == place->pool)
        return;
    slot->pool->slots--;
    slot->pool->busy--;
    slot->schedule->pools_to_sweep = true;
    slot->pool = place->pool;
    slot->pool->slots++;
    slot->pool->busy++;
}

void place_join(struct slot *slot, struct place *place)
{
    char key[sizeof(place->pool->key)];
    const struct pool *pool = place->pool;
    const bool stays_apart =
        place_is_alone(place) && pool->failures > 0 && pool->last_cause == CAUSE_TLS_POLICY_UNMET;

    if (place_seeks(place) && !stays_apart && !place_pauses(place) &&
        clock_now_us() >= place->asked_us) {
        place->asked_us = deadline_in(HOSTS_HOLD_US);
        if (deliver_channel_hosts(slot->channel, key, sizeof key))
            place_move(place, key);
        else if (!fiber_cancelled())
            place_move(place, place->to.key);
    }
    slot_follow(slot, place);
}

/* ------------------------------------------------------------------ window and pauses */

static bool pool_pauses(const struct pool *pool)
{
    return pool->resume_us > clock_now_us();
}

bool place_pauses(const struct place *place)
{
    return pool_pauses(place->pool);
}

unsigned pool_limit(const struct pool *pool)
{
    const unsigned limit = pool_pauses(pool) ? (unsigned)PLACE_WINDOW_START
                           : pool->seeks     ? 1
                                             : (unsigned)pool->window;

    return pool->most > 0 ? MIN_OF(limit, pool->most) : limit;
}

void place_clear_pause(struct place *place)
{
    place->pool->resume_us = 0;
    place->pool->resume_wall_us = 0;
}

/* Back after a pause: what waits for any of its places is tried; the window, which begins at one
 * slot, is the ramp. */
static void pool_recovered(struct pool *pool)
{
    struct schedule *schedule = pool->schedule;

    for (unsigned i = 0; i < SCHEDULE_BUCKETS; i++)
        for (struct place *place = schedule->buckets[i]; place; place = place->next_in_bucket)
            if (place->pool == pool)
                place_flush(place);
}

void place_succeeded(struct place *place)
{
    struct pool *pool = place->pool;
    const bool recovered = pool->pauses > 0;

    if (pool->failures > 0 && place_is_alone(place))
        place->asked_us = 0; /* back to the others */
    if (place->recovers && !recovered)
        place_flush(place);
    place->recovers = false;
    pool->failures = 0;
    pool->pauses = 0;
    pool->last_cause = CAUSE_UNDECIDED;
    place_clear_pause(place);
    pool->window = MIN_OF(pool->window + 1.0 / pool->window, PLACE_WINDOW_MAX);
    if (recovered)
        pool_recovered(pool);
}

static void pool_slowed(struct pool *pool)
{
    pool->window = MAX_OF(pool->window - 1.0 / pool->window, 1.0);
}

void place_slowed(struct place *place)
{
    pool_slowed(place->pool);
}

/* The pause follows the retry schedule, counted by pauses, so it fits what messages do themselves.
 */
static void pool_pause(struct pool *pool)
{
    char text[64];
    const int64_t now = clock_wall_us();
    const int64_t next = schedule_next_wall_us(&pool->schedule->config->retry, ++pool->pauses, now,
                                               now, (unsigned)(random_u64() % 1001));
    const uint64_t pause_us = MIN_OF((uint64_t)MAX_OF(next - now, 1), PLACE_PAUSE_MAX_US);

    pool->window = 1.0;
    pool->resume_us = clock_now_us() + pause_us;
    pool->resume_wall_us = now + (int64_t)pause_us;
    observe_note(LOG_WARNING, "schedule", "%s: %u connections failed (%s), next try in %s",
                 pool->key, pool->failures, cause_name(pool->last_cause),
                 duration_print(pause_us, text, sizeof(text)));
}

void place_failed(struct place *place, const struct outcome *outcome)
{
    if (outcome->stage == STAGE_DNS || outcome->stage == STAGE_TLS)
        place_move(place, place->to.key);
    struct pool *pool = place->pool;
    pool->failures++;
    pool->last_cause = outcome->verdict.cause;
    snprintf(pool->last_words, sizeof(pool->last_words), "%.*s", BYTES_PRINT(outcome->reply));
    pool_slowed(pool);
    if (pool->failures >= PLACE_DEAD_AFTER && !pool_pauses(pool))
        pool_pause(pool);
}

/* ------------------------------------------------------------------ forgetting */

void pools_sweep(struct schedule *schedule)
{
    if (!schedule->pools_to_sweep)
        return;
    schedule->pools_to_sweep = false;
    for (unsigned i = 0; i < SCHEDULE_BUCKETS; i++) {
        for (struct pool **at = &schedule->pools[i]; *at;) {
            struct pool *pool = *at;
            if (pool->places > 0 || pool->slots > 0) {
                at = &pool->next_in_bucket;
                continue;
            }
            *at = pool->next_in_bucket;
            free(pool);
        }
    }
}

unsigned pools_left(const struct schedule *schedule, const struct deliver *deliver)
{
    unsigned left = 0;

    for (unsigned i = 0; i < SCHEDULE_BUCKETS; i++)
        for (const struct pool *pool = schedule->pools[i]; pool; pool = pool->next_in_bucket)
            left += pool->deliver == deliver;
    return left;
}

void pools_free(struct schedule *schedule)
{
    for (unsigned i = 0; i < SCHEDULE_BUCKETS; i++) {
        while (schedule->pools[i]) {
            struct pool *pool = schedule->pools[i];
            schedule->pools[i] = pool->next_in_bucket;
            free(pool);
        }
    }
}
