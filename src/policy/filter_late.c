/*
 * late: a filter that has the whole message and did not answer in time is listened to for a while
 * more, by a fiber of its own, while the client hears 451. The verdict is kept for its next
 * attempt.
 */
#include "policy/filter.h"

enum { LATE_MOST = 64, LATE_ARENA_BYTES = 256 * 1024 };
static const uint64_t LATE_PATIENCE_US = 300 * US_PER_S;

/* One filter that is listened to. Its connection belongs to the loop that opened it. */
struct late {
    struct policy *policy;
    struct filter_instance *instance;
    struct stream *stream; /* clamd, spamd */
    struct milter *milter;
    struct arena arena;
    struct bytes key;
    uint64_t message, asked_us;
    struct fiber *fiber;
    struct late *next, *previous;
};

/* ------------------------------------------------------------------ what it says */

/* False: nothing that counts as a verdict. */
static bool listen_clamd(struct late *late, uint64_t deadline_us, struct kept *kept)
{
    const struct clamd_verdict answer = clamd_listen(&late->arena, late->stream, deadline_us);

    instance_learn(late->instance, answer.result == CLAMD_FAILED ? answer.fault : FILTER_FAULT_NONE,
                   answer.words, clock_now_us() - late->asked_us);
    return clamd_kept(&late->arena, late->instance->filter, &answer, kept);
}

static bool listen_spamd(struct late *late, uint64_t deadline_us, struct kept *kept)
{
    const struct spamd_verdict answer = spamd_listen(&late->arena, late->stream, deadline_us);

    instance_learn(late->instance, answer.fault, answer.words, clock_now_us() - late->asked_us);
    return spamd_kept(&late->arena, late->instance->filter, &answer, kept);
}

static bool listen_milter(struct late *late, uint64_t deadline_us, struct kept *kept)
{
    const struct milter_call call = {.arena = &late->arena, .deadline_us = deadline_us};
    struct milter_changes changes = {0};
    const struct milter_verdict answer = milter_listen(late->milter, &call, &changes);

    instance_learn(late->instance, answer.fault, answer.words, clock_now_us() - late->asked_us);
    return milter_kept(&answer, &changes, kept);
}

static bool late_listen(struct late *late, struct kept *kept)
{
    const uint64_t deadline_us = late->asked_us + LATE_PATIENCE_US;

    switch (late->instance->filter->speaks) {
    case FILTER_CLAMD:
        return listen_clamd(late, deadline_us, kept);
    case FILTER_SPAMD:
        return listen_spamd(late, deadline_us, kept);
    case FILTER_MILTER:
        return listen_milter(late, deadline_us, kept);
    }
    return false;
}

/* ------------------------------------------------------------------ its fiber */

static void late_free(struct late *late)
{
    stream_close(late->stream);
    milter_close(&late->milter); /* sleeps a little, so under no lock */
    arena_clear(&late->arena);
    free(late);
}

static void late_leave(struct late *late)
{
    struct policy *policy = late->policy;

    pthread_mutex_lock(&policy->lock);
    if (late->previous)
        late->previous->next = late->next;
    else
        policy->lates = late->next;
    if (late->next)
        late->next->previous = late->previous;
    policy->late_count--;
    pthread_mutex_unlock(&policy->lock);
    late_free(late);
    pthread_mutex_lock(&policy->lock);
    policy->background--;
    waitlist_wake_all(&policy->ended);
    pthread_mutex_unlock(&policy->lock);
}

static void late_main(void *argument)
{
    struct late *late = argument;
    struct kept kept = {0};
    char id[ID_TEXT_MAX];

    if (late_listen(late, &kept)) {
        memory_keep(late->policy->memory, late->key, &kept);
        metric_add(COUNTER_FILTER_LATE, 1);
        observe_note(LOG_INFO, "policy",
                     "filter %s answered late about %s, after %llu ms: %s; kept",
                     late->instance->filter->name, id_print(late->message, id, sizeof id),
                     (unsigned long long)((clock_now_us() - late->asked_us) / US_PER_MS),
                     cause_name(kept.cause));
    }
    late_leave(late);
}

/* Under the lock. */
static bool late_enter(struct policy *policy, struct late *late)
{
    if (policy->closing || policy->late_count >= LATE_MOST)
        return false;
    late->fiber = fiber_start("policy.late", late_main, late);
    if (!late->fiber)
        return false;
    late->next = policy->lates;
    if (late->next)
        late->next->previous = late;
    policy->lates = late;
    policy->late_count++;
    policy->background++;
    return true;
}

void late_begin(const struct late_talk *talk, const struct transaction *transaction)
{
    struct policy *policy = talk->instance->breaker.policy;
    struct late *late = calloc(1, sizeof *late);
    const struct bytes key = memory_key(transaction, talk->instance->filter);

    if (late) {
        *late = (struct late){.policy = policy,
                              .instance = talk->instance,
                              .stream = talk->stream,
                              .milter = talk->milter,
                              .arena = ARENA_WITH_LIMIT(LATE_ARENA_BYTES),
                              .message = transaction->message,
                              .asked_us = talk->asked_us};
        late->key = arena_copy(&late->arena, key);
    }
    pthread_mutex_lock(&policy->lock);
    const bool entered = late && late->key.count > 0 && late_enter(policy, late);

    pthread_mutex_unlock(&policy->lock);
    if (entered)
        return;
    if (late) {
        late_free(late);
        return;
    }
    stream_close(talk->stream);
    struct milter *milter = talk->milter;
    milter_close(&milter);
}

void lates_cancel(struct policy *policy)
{
    for (struct late *late = policy->lates; late; late = late->next)
        fiber_cancel(late->fiber);
}
