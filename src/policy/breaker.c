/*
 * breaker: stops asking a dependency that keeps failing, and finds out by itself when it is back. A
 * breaker is shared by all loops; its lock is held around memory operations only.
 */
#include <string.h>

#include "policy/inside.h"

enum { PROBE_FIRST_US = 500000, PROBE_MOST_US = 5000000, PROBE_ARENA_BYTES = 65536 };

static void breaker_show(const struct breaker *breaker, bool open)
{
    metric_set_labelled("holdfast_breaker_open", "dependency", bytes_of_text(breaker->name),
                        open ? 1 : 0);
}

void breaker_init(struct breaker *breaker, struct policy *policy, unsigned threshold)
{
    breaker->policy = policy;
    breaker->threshold = threshold;
    pthread_mutex_init(&breaker->lock, NULL);
    breaker_show(breaker, false);
}

void breaker_free(struct breaker *breaker)
{
    pthread_mutex_destroy(&breaker->lock);
}

bool breaker_is_open(struct breaker *breaker)
{
    pthread_mutex_lock(&breaker->lock);
    const bool open = breaker->open;

    pthread_mutex_unlock(&breaker->lock);
    return open;
}

/* ------------------------------------------------------------------ events */

static void breaker_tell(const struct breaker *breaker, enum event_kind kind, enum cause cause,
                         const char *words)
{
    const struct event event = {.kind = kind,
                                .verdict = verdict_of(cause),
                                .has_verdict = kind == EVENT_BREAKER_OPEN,
                                .filter = bytes_of_text(breaker->name),
                                .text = bytes_of_text(words)};

    breaker_show(breaker, kind == EVENT_BREAKER_OPEN); /* before the line that sends one to look */
    observe_event(&event);
}

static void breaker_close(struct breaker *breaker)
{
    pthread_mutex_lock(&breaker->lock);
    const bool was_open = breaker->open;

    breaker->open = false;
    breaker->failures = 0;
    pthread_mutex_unlock(&breaker->lock);
    if (was_open)
        breaker_tell(breaker, EVENT_BREAKER_CLOSED, CAUSE_ACCEPTED, "");
}

/* ------------------------------------------------------------------ the prober */

static bool prober_try(struct breaker *breaker)
{
    struct arena arena = ARENA_WITH_LIMIT(PROBE_ARENA_BYTES);
    struct bytes words = BYTES_EMPTY;
    const bool up = breaker->probe(breaker, &arena, &words);

    pthread_mutex_lock(&breaker->lock);
    breaker->last_probe_wall_us = clock_wall_us();
    if (!up && words.count > 0)
        snprintf(breaker->words, sizeof breaker->words, "%.*s", BYTES_PRINT(words));
    pthread_mutex_unlock(&breaker->lock);
    arena_clear(&arena);
    return up;
}

static void prober_end(struct breaker *breaker)
{
    struct policy *policy = breaker->policy;

    pthread_mutex_lock(&policy->lock);
    breaker->prober = NULL;
    policy->background--;
    waitlist_wake_all(&policy->ended);
    pthread_mutex_unlock(&policy->lock);
}

static void prober_main(void *argument)
{
    struct breaker *breaker = argument;
    uint64_t pause_us = PROBE_FIRST_US;

    while (breaker_is_open(breaker) && fiber_sleep_until(deadline_in(pause_us)) == IO_OK) {
        if (prober_try(breaker))
            breaker_close(breaker);
        pause_us = MIN_OF(2 * pause_us, (uint64_t)PROBE_MOST_US);
    }
    prober_end(breaker);
}

/* Where no fiber can be had now, the next caller tries again. */
static void prober_start(struct breaker *breaker)
{
    struct policy *policy = breaker->policy;

    pthread_mutex_lock(&policy->lock);
    if (!breaker->prober && !policy->closing) {
        breaker->prober = fiber_start("policy.probe", prober_main, breaker);
        policy->background += breaker->prober ? 1 : 0;
    }
    pthread_mutex_unlock(&policy->lock);
}

static void probers_cancel(struct policy *policy)
{
    policy->closing = true;
    for (unsigned i = 0; i < policy->instance_count; i++)
        if (policy->instances[i].breaker.prober)
            fiber_cancel(policy->instances[i].breaker.prober);
    if (policy->resolver.prober)
        fiber_cancel(policy->resolver.prober);
    lates_cancel(policy);
}

static bool probers_ended(struct policy *policy)
{
    pthread_mutex_lock(&policy->lock);
    const bool ended = policy->background == 0;

    pthread_mutex_unlock(&policy->lock);
    return ended;
}

void breakers_stop(struct policy *policy)
{
    struct waiter waiter;

    pthread_mutex_lock(&policy->lock);
    probers_cancel(policy);
    pthread_mutex_unlock(&policy->lock);
    if (!fiber_self())
        return;
    const bool masked = fiber_mask_cancel(true);
    const uint64_t deadline_us = deadline_in(10 * US_PER_S);

    /* Joined first: a prober that ends between the look and the sleep still wakes us. */
    waitlist_join(&policy->ended, &waiter);
    while (!probers_ended(policy) && fiber_park(deadline_us) != IO_TIMEOUT)
        ;
    waitlist_leave(&policy->ended, &waiter);
    fiber_mask_cancel(masked);
}

/* ------------------------------------------------------------------ what callers tell and ask */

bool breaker_allows(struct breaker *breaker, struct arena *arena, enum cause *cause,
                    struct bytes *words)
{
    pthread_mutex_lock(&breaker->lock);
    const bool open = breaker->open;

    if (open) {
        *cause = breaker->cause;
        *words = arena_copy(arena, bytes_of_text(breaker->words));
    }
    pthread_mutex_unlock(&breaker->lock);
    if (open)
        prober_start(breaker);
    return !open;
}

void breaker_succeeded(struct breaker *breaker)
{
    breaker_close(breaker);
}

void breaker_failed(struct breaker *breaker, enum cause cause, struct bytes words)
{
    char told[sizeof breaker->words];

    snprintf(told, sizeof told, "%.*s", BYTES_PRINT(words));
    pthread_mutex_lock(&breaker->lock);
    breaker->failures++;
    breaker->cause = cause;
    breaker->last_failure_wall_us = clock_wall_us();
    memcpy(breaker->words, told, sizeof told);
    const bool opens = !breaker->open && breaker->failures >= breaker->threshold;

    breaker->open = breaker->open || opens;
    pthread_mutex_unlock(&breaker->lock);
    if (!opens)
        return;
    breaker_tell(breaker, EVENT_BREAKER_OPEN, cause, told);
    prober_start(breaker);
}
