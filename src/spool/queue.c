/*
 * Leases: what schedule holds in its hands. A lease lives in memory only; after a restart every
 * message is free again and what was settled is settled.
 */
#include "spool/inside.h"

#include <string.h>

#define MESSAGE_ARENA_BYTES (64 * MIB)
#define RETRY_PAUSE_US US_PER_S /* a message given back untouched is not offered at once */
#define DUE_SHARE 4             /* every fourth take begins with those that were deferred */

/* Under the lock. A full memory keeps no sender out: he who has most of it makes room, and what of
 * his leaves is brought back by the index. */
static bool ready_has_room(struct spool *spool, const struct entry *entry, bool fresh)
{
    struct table *table = &spool->table;

    if ((fresh ? table->ready_fresh : table->ready_due)->count < READY_MOST)
        return true;
    struct entry *const surplus = ready_surplus(table, entry, fresh);
    if (!surplus)
        return false;
    table_place(table, surplus, PLACE_IDLE, false);
    table_drop_idle(table, surplus);
    spool->due_left = true;
    return true;
}

/* Under the lock. */
void entry_settle_down(struct spool *spool, struct entry *entry, bool fresh)
{
    struct table *table = &spool->table;

    if (entry->place == PLACE_LEASED || entry->ended)
        return;
    if (!spool->opened) { /* recovery: the index keeps them all */
        table_drop_idle(table, entry);
        return;
    }
    const bool due = !entry->held && entry->due_wall_us <= clock_wall_us();
    if (!due) {
        table_place(table, entry, PLACE_IDLE, false);
        if (!entry->held && !entry->dirty)
            spool->next_due_wall_us = MIN_OF(spool->next_due_wall_us, entry->due_wall_us);
    } else if (entry->place == PLACE_READY || ready_has_room(spool, entry, fresh)) {
        if (entry->place != PLACE_READY)
            table_place(table, entry, PLACE_READY, fresh);
        waitlist_wake_one(&spool->ready_waiters);
    } else { /* too many in memory: the index will bring it back */
        table_place(table, entry, PLACE_IDLE, false);
        spool->due_left = true;
    }
    table_drop_idle(table, entry);
}

/* ------------------------------------------------------------------ taking */

static void recipient_fill(struct queued_message *message, uint32_t index,
                           const struct status *status)
{
    struct queued_recipient *recipient = &message->recipients[index];

    recipient->recipient = message->envelope.recipients[index];
    if (!status)
        return;
    recipient->state = status->state;
    recipient->attempts = status->attempts;
    recipient->next_wall_us = status->next_wall_us;
    recipient->cause = status->cause;
    recipient->last_reply = arena_copy(&message->arena, status->reply);
    recipient->last_attempt_wall_us = status->last_attempt_wall_us;
    recipient->delay_notified = status->delay_notified;
}

/* The entry is under lease: its envelope and states do not change. */
static bool message_fill(struct queued_message *message, const struct entry *entry)
{
    const struct bytes envelope = arena_copy(&message->arena, entry->envelope);

    if (!envelope_decode(&message->arena, envelope, &message->envelope))
        return false;
    message->recipients = ARENA_NEW_ARRAY(&message->arena, message->envelope.recipient_count,
                                          struct queued_recipient);
    if (!message->recipients)
        return false;
    for (uint32_t i = 0; i < message->envelope.recipient_count; i++)
        recipient_fill(message, i, entry->status ? &entry->status[i] : NULL);
    message->envelope.held = entry->held;
    return !message->arena.failed;
}

static void message_free(struct queued_message *message)
{
    arena_clear(&message->arena);
    free(message);
}

static struct queued_message *message_of(const struct entry *entry)
{
    struct queued_message *message = calloc(1, sizeof *message);

    if (!message)
        return NULL;
    *message = (struct queued_message){.id = entry->id,
                                       .size_bytes = entry->size_bytes,
                                       .sender = entry->flow / FAIR_WIDTH,
                                       .arena = ARENA_WITH_LIMIT(MESSAGE_ARENA_BYTES)};
    if (message_fill(message, entry))
        return message;
    message_free(message);
    return NULL;
}

/* Under the lock. */
static struct entry *lease_next(struct spool *spool)
{
    const bool due_first = ++spool->takes % DUE_SHARE == 0;
    struct entry *entry = ready_next(&spool->table, !due_first);

    if (!entry)
        entry = ready_next(&spool->table, due_first);
    if (entry) {
        table_place(&spool->table, entry, PLACE_LEASED, false);
        entry->settled_in_lease = false;
    }
    return entry;
}

static void lease_end(struct spool *spool, uint64_t id, bool pause)
{
    pthread_mutex_lock(&spool->lock);
    struct entry *entry = table_find(&spool->table, id);
    INVARIANT(entry && entry->place == PLACE_LEASED);
    table_place(&spool->table, entry, PLACE_IDLE, false);
    if (entry->ended) {
        table_drop_idle(&spool->table, entry);
    } else if (pause && !entry->held && entry->due_wall_us <= clock_wall_us()) {
        entry->not_before_us = deadline_in(RETRY_PAUSE_US);
        table_place(&spool->table, entry, PLACE_LATER, false);
    } else {
        entry_settle_down(spool, entry, false);
    }
    pthread_mutex_unlock(&spool->lock);
}

static unsigned take_some(struct spool *spool, unsigned most, struct queued_message **last)
{
    unsigned taken = 0;

    while (taken < most) {
        pthread_mutex_lock(&spool->lock);
        struct entry *entry = lease_next(spool);
        pthread_mutex_unlock(&spool->lock);
        if (!entry)
            break;
        struct queued_message *message = message_of(entry);
        if (!message) {
            lease_end(spool, entry->id, true);
            break;
        }
        *last = message;
        last = &message->next;
        taken++;
    }
    return taken;
}

/* What is left is for the next who waits; what the index still has is fetched in time. */
static void pass_on(struct spool *spool)
{
    pthread_mutex_lock(&spool->lock);
    const bool low = spool->due_left && spool->table.ready_due->count < READY_MOST / 2;
    const bool more = spool->table.ready_count > 0;
    pthread_mutex_unlock(&spool->lock);
    if (more)
        waitlist_wake_one(&spool->ready_waiters);
    if (low)
        indexer_wake(spool);
}

enum io_status spool_take(struct spool *spool, unsigned most, uint64_t deadline_us,
                          struct queued_message **list)
{
    enum io_status status = IO_OK;
    struct waiter waiter;

    *list = NULL;
    waitlist_join(&spool->ready_waiters, &waiter);
    while (status == IO_OK && take_some(spool, most, list) == 0)
        status = fiber_park(deadline_us);
    waitlist_leave(&spool->ready_waiters, &waiter);
    pass_on(spool);
    return *list ? IO_OK : status;
}

void spool_release(struct spool *spool, struct queued_message *message)
{
    const uint64_t id = message->id;

    message_free(message);
    pthread_mutex_lock(&spool->lock);
    const struct entry *entry = table_find(&spool->table, id);
    const bool untouched = entry && !entry->settled_in_lease;
    pthread_mutex_unlock(&spool->lock);
    lease_end(spool, id, untouched);
}

void spool_postpone(struct spool *spool, struct queued_message *message, int64_t until_wall_us)
{
    const uint64_t id = message->id;

    message_free(message);
    pthread_mutex_lock(&spool->lock);
    struct entry *entry = table_find(&spool->table, id);
    INVARIANT(entry && entry->place == PLACE_LEASED);
    table_postpone(&spool->table, entry, until_wall_us);
    const bool untouched = !entry->settled_in_lease;
    pthread_mutex_unlock(&spool->lock);
    lease_end(spool, id, untouched);
}

/* ------------------------------------------------------------------ one by id */

static void load_wait(struct spool *spool, const struct load_request *load, uint64_t deadline_us)
{
    for (;;) {
        pthread_mutex_lock(&spool->lock);
        const bool done = load->done;
        pthread_mutex_unlock(&spool->lock);
        if (done || fiber_park(deadline_us) != IO_OK)
            return;
    }
}

/* Its struct is on this stack: it leaves the list before the call returns, whatever happened. */
static enum lookup_status load_by_id(struct spool *spool, uint64_t id, uint64_t deadline_us)
{
    struct load_request load = {.fiber = fiber_self(), .id = id};

    pthread_mutex_lock(&spool->lock);
    load.next = spool->loads;
    if (load.next)
        load.next->previous = &load;
    spool->loads = &load;
    pthread_mutex_unlock(&spool->lock);
    indexer_wake(spool);
    load_wait(spool, &load, deadline_us);
    pthread_mutex_lock(&spool->lock);
    *(load.previous ? &load.previous->next : &spool->loads) = load.next;
    if (load.next)
        load.next->previous = load.previous;
    pthread_mutex_unlock(&spool->lock);
    return load.done ? load.status : LOOKUP_FAILED;
}

/* The indexer pins what it loads for a request; here the pin changes hands. */
enum lookup_status entry_pin(struct spool *spool, uint64_t id, uint64_t deadline_us,
                             struct entry **entry)
{
    *entry = NULL;
    pthread_mutex_lock(&spool->lock);
    struct entry *found = table_find(&spool->table, id);
    if (found && !found->ended)
        found->pins++;
    pthread_mutex_unlock(&spool->lock);
    if (found && found->ended)
        return LOOKUP_ABSENT;
    const enum lookup_status status = found ? LOOKUP_FOUND : load_by_id(spool, id, deadline_us);
    if (status != LOOKUP_FOUND)
        return status;
    pthread_mutex_lock(&spool->lock);
    *entry = table_find(&spool->table, id);
    pthread_mutex_unlock(&spool->lock);
    return *entry ? LOOKUP_FOUND : LOOKUP_ABSENT;
}

void entry_unpin(struct spool *spool, struct entry *entry)
{
    pthread_mutex_lock(&spool->lock);
    entry->pins--;
    if (entry->place == PLACE_IDLE && !entry->ended)
        entry_settle_down(spool, entry, false);
    else
        table_drop_idle(&spool->table, entry);
    pthread_mutex_unlock(&spool->lock);
}

struct lookup spool_take_id(struct spool *spool, uint64_t id, struct queued_message **message)
{
    struct entry *entry;
    const enum lookup_status status = entry_pin(spool, id, deadline_in(30 * US_PER_S), &entry);

    *message = NULL;
    if (status == LOOKUP_ABSENT)
        return lookup_absent();
    if (status == LOOKUP_FAILED)
        return lookup_failed(LOOKUP_REASON_UNAVAILABLE, bytes_of_text("index"));
    pthread_mutex_lock(&spool->lock);
    const bool free_to_take = entry->place != PLACE_LEASED && !entry->ended;
    if (free_to_take) {
        table_place(&spool->table, entry, PLACE_LEASED, false);
        entry->settled_in_lease = false;
    }
    pthread_mutex_unlock(&spool->lock);
    if (free_to_take)
        *message = message_of(entry);
    if (free_to_take && !*message)
        lease_end(spool, id, true);
    entry_unpin(spool, entry);
    if (!free_to_take)
        return lookup_absent();
    return *message ? lookup_found()
                    : lookup_failed(LOOKUP_REASON_OVERLOADED, bytes_of_text("memory"));
}

/* ------------------------------------------------------------------ counts */

void spool_counts(struct spool *spool, struct spool_counts *counts)
{
    pthread_mutex_lock(&spool->lock);
    const struct table *table = &spool->table;
    const uint64_t in_hand = table->ready_count + table->leased_count + table->held;
    *counts = (struct spool_counts){
        .messages = table->messages,
        .ready = table->ready_count,
        .leased = table->leased_count,
        .held = table->held,
        .deferred = table->messages > in_hand ? table->messages - in_hand : 0,
        .oldest_wall_us = table->messages ? spool->oldest_wall_us : 0,
        .bytes_live = table->bytes,
        .read_only = spool->read_only,
    };
    memcpy(counts->fault, spool->fault, sizeof counts->fault);
    pthread_mutex_unlock(&spool->lock);
}
