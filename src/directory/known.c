/*
 * known: many sessions that ask for the same address make one query; its answer goes to all of
 * them. FOUND answers are kept in a table of fixed size, for a short time as fresh, longer for when
 * the directory is down. An ABSENT is never kept, and it removes what was known before.
 */
#include <string.h>

#include "directory/known.h"

enum { ANSWER_BYTES_MAX = 4 * 1024 * 1024 };
static const uint64_t PATIENCE_US = 60 * US_PER_S;

void known_table_open(struct known_table *table)
{
    pthread_mutex_init(&table->lock, NULL);
}

void known_release(struct known *known)
{
    if (!known || --known->holders > 0)
        return;
    arena_clear(&known->arena);
    free(known);
}

void known_table_close(struct known_table *table)
{
    for (size_t i = 0; i < KNOWN_SLOTS; i++)
        known_release(table->slots[i]);
    pthread_mutex_destroy(&table->lock);
}

static struct known *known_new(struct bytes key)
{
    struct known *known = calloc(1, sizeof *known);

    if (!known)
        return NULL;
    known->arena = ARENA_WITH_LIMIT(ANSWER_BYTES_MAX);
    known->key = arena_copy(&known->arena, key);
    known->holders = 1;
    if (known->key.count == key.count)
        return known;
    known_release(known);
    return NULL;
}

/* Local parts differ by case where everybody is a user, so the key is compared as it is. */
static struct known **slot_of(struct known_table *table, struct bytes key)
{
    return &table->slots[bytes_hash_nocase(key) % KNOWN_SLOTS];
}

static struct known **bucket_of(struct known_table *table, struct bytes key)
{
    return &table->under_way[bytes_hash_nocase(key) % KNOWN_BUCKETS];
}

/* With the lock held; the caller gets a hold on what is returned. */
static struct known *slot_take(struct known_table *table, struct bytes key, uint64_t most_us)
{
    struct known *known = *slot_of(table, key);

    if (!known || most_us == 0 || !bytes_equal(known->key, key) ||
        clock_now_us() - known->ended_us >= most_us)
        return NULL;
    known->holders++;
    return known;
}

static struct known *under_way_take(struct known_table *table, struct bytes key)
{
    struct known *known = *bucket_of(table, key);

    while (known && !bytes_equal(known->key, key))
        known = known->next;
    if (known)
        known->holders++;
    return known;
}

static enum known_step known_step(struct known_table *table, struct bytes key, uint64_t fresh_us,
                                  struct known **known)
{
    enum known_step step = KNOWN_ANSWERED;

    pthread_mutex_lock(&table->lock);
    *known = slot_take(table, key, fresh_us);
    if (!*known)
        *known = under_way_take(table, key);
    if (!*known) {
        *known = known_new(key);
        step = *known ? KNOWN_ASK : KNOWN_FAILED;
        if (*known) {
            (*known)->holders++; /* the list's own */
            (*known)->next = *bucket_of(table, key);
            *bucket_of(table, key) = *known;
        }
    }
    pthread_mutex_unlock(&table->lock);
    return step;
}

static bool known_ended(struct known_table *table, const struct known *known)
{
    pthread_mutex_lock(&table->lock);
    const bool ended = known->ended;

    pthread_mutex_unlock(&table->lock);
    return ended;
}

static bool known_wait(struct known_table *table, struct known *known, uint64_t deadline_us)
{
    struct waiter waiter;
    enum io_status status = IO_OK;

    waitlist_join(&known->waiting, &waiter);
    while (!known_ended(table, known) && status == IO_OK)
        status = fiber_park(deadline_us);
    waitlist_leave(&known->waiting, &waiter);
    return status == IO_OK;
}

enum known_step known_begin(struct known_table *table, struct bytes key, uint64_t fresh_us,
                            struct known **known)
{
    const uint64_t deadline_us = deadline_in(PATIENCE_US);

    for (;;) {
        const enum known_step step = known_step(table, key, fresh_us, known);

        if (step != KNOWN_ANSWERED)
            return step;
        const bool answered = known_wait(table, *known, deadline_us);

        /* Who asked for us went away with its session: then we ask. */
        if (answered && !((*known)->lookup.status == LOOKUP_FAILED &&
                          (*known)->lookup.reason == LOOKUP_REASON_CANCELLED))
            return KNOWN_ANSWERED;
        known_release(*known);
        *known = NULL;
        if (!answered)
            return KNOWN_FAILED;
    }
}

/* Puts it in its place or empties that; what was there goes to *former. With the lock held. */
static void slot_learn(struct known_table *table, struct known *known, struct known **former)
{
    struct known **slot = slot_of(table, known->key);
    const bool same = *slot && bytes_equal((*slot)->key, known->key);

    switch (known->lookup.status) {
    case LOOKUP_FOUND:
        *former = *slot;
        *slot = known;
        known->holders++;
        break;
    case LOOKUP_ABSENT:
        *former = same ? *slot : NULL;
        *slot = same ? NULL : *slot;
        break;
    case LOOKUP_FAILED:
        break;
    }
}

void known_end(struct known_table *table, struct known *known)
{
    struct known *former = NULL, **at = bucket_of(table, known->key);

    pthread_mutex_lock(&table->lock);
    known->ended = true;
    known->ended_us = clock_now_us();
    while (*at != known)
        at = &(*at)->next;
    *at = known->next;
    slot_learn(table, known, &former);
    waitlist_wake_all(&known->waiting);
    pthread_mutex_unlock(&table->lock);
    known_release(former);
    known_release(known); /* the list's hold */
}

struct known *known_stale(struct known_table *table, struct bytes key, uint64_t stale_us)
{
    pthread_mutex_lock(&table->lock);
    struct known *known = slot_take(table, key, stale_us);

    pthread_mutex_unlock(&table->lock);
    return known;
}
