/*
 * A spool in memory with the real one's header, for tests of deliver and schedule on one loop: what
 * it is asked to record is kept and can be looked at, and it can be told to fail. Included by a
 * test program, it is linked instead of the real one.
 */
#ifndef TESTS_FAKE_SPOOL_H
#define TESTS_FAKE_SPOOL_H

#include <errno.h>
#include <string.h>

#include "spool/spool.h"

#define FAKE_MESSAGES 4096

struct fake_message {
    uint64_t id;
    struct arena arena;
    struct envelope envelope;
    struct queued_recipient *recipients;
    struct buffer body;
    bool used, leased, held;
    unsigned settlements, leases;
    int64_t not_before_wall_us; /* postponed */
};

struct spool {
    struct fake_message messages[FAKE_MESSAGES];
    uint64_t last_id;
    struct waitlist changed;
    unsigned settle_failures; /* so many settlements fail first */
    unsigned draft_failures;  /* so many drafts cannot be opened first */
    unsigned dsn_count, settle_count;
    bool body_missing;      /* spool_body_open says BODY_DAMAGED */
    uint64_t read_fails_at; /* a read from here on gives EIO; 0: none does */
};

struct spool_draft {
    struct spool *spool;
    uint64_t id;
    struct buffer body;
};

struct spool_body {
    const struct spool *spool;
    struct bytes bytes;
};

static struct fake_message *fake_find(struct spool *spool, uint64_t id)
{
    for (unsigned i = 0; i < FAKE_MESSAGES; i++) {
        if (spool->messages[i].used && spool->messages[i].id == id)
            return &spool->messages[i];
    }
    return NULL;
}

static void fake_copy_recipient(struct arena *arena, struct recipient *to,
                                const struct recipient *from)
{
    *to = *from;
    to->address.local = arena_copy(arena, from->address.local);
    to->address.domain = arena_copy(arena, from->address.domain);
    to->original = arena_copy(arena, from->original);
}

static void fake_copy_envelope(struct arena *arena, struct envelope *to,
                               const struct envelope *from)
{
    *to = *from;
    to->from.local = arena_copy(arena, from->from.local);
    to->from.domain = arena_copy(arena, from->from.domain);
    to->envelope_id = arena_copy(arena, from->envelope_id);
    to->recipients = ARENA_NEW_ARRAY(arena, from->recipient_count, struct recipient);
    for (uint32_t i = 0; i < from->recipient_count; i++)
        fake_copy_recipient(arena, &to->recipients[i], &from->recipients[i]);
}

/* Queues a message that is due at once. */
static struct fake_message *fake_add(struct spool *spool, const struct envelope *envelope,
                                     struct bytes body)
{
    struct fake_message *message = NULL;

    for (unsigned i = 0; i < FAKE_MESSAGES && !message; i++) {
        if (!spool->messages[i].used)
            message = &spool->messages[i];
    }
    INVARIANT(message);
    *message = (struct fake_message){.id = ++spool->last_id,
                                     .used = true,
                                     .arena = ARENA_WITH_LIMIT(MIB),
                                     .body = BUFFER_WITH_LIMIT(64 * MIB)};
    fake_copy_envelope(&message->arena, &message->envelope, envelope);
    message->recipients =
        ARENA_NEW_ARRAY(&message->arena, envelope->recipient_count, struct queued_recipient);
    buffer_add(&message->body, body);
    waitlist_wake_all(&spool->changed);
    return message;
}

static void fake_free(struct spool *spool)
{
    for (unsigned i = 0; i < FAKE_MESSAGES; i++) {
        if (!spool->messages[i].used)
            continue;
        arena_clear(&spool->messages[i].arena);
        buffer_free(&spool->messages[i].body);
    }
    free(spool);
}

/* ------------------------------------------------------------------ bodies */

struct verdict spool_body_open(struct spool *spool, uint64_t id, struct spool_body **body)
{
    const struct fake_message *message = fake_find(spool, id);

    if (spool->body_missing || !message)
        return verdict_of(CAUSE_BODY_DAMAGED);
    *body = calloc(1, sizeof(**body));
    INVARIANT(*body);
    **body = (struct spool_body){.spool = spool, .bytes = buffer_view(&message->body)};
    return verdict_accept();
}

uint64_t spool_body_size(const struct spool_body *body)
{
    return body->bytes.count;
}

struct io_result spool_body_read(struct spool_body *body, struct span into, uint64_t offset)
{
    const struct bytes part = bytes_slice(body->bytes, offset, into.count);

    if (body->spool->read_fails_at > 0 && offset >= body->spool->read_fails_at)
        return io_failed(EIO);
    if (part.count > 0)
        memcpy(into.at, part.at, part.count);
    return part.count > 0 ? io_ok(part.count) : io_status_only(IO_END);
}

void spool_body_close(struct spool_body **body)
{
    free(*body);
    *body = NULL;
}

/* ------------------------------------------------------------------ drafts */

struct spool_draft *spool_draft_open(struct spool *spool)
{
    struct spool_draft *draft = NULL;

    if (spool->draft_failures > 0) {
        spool->draft_failures--;
        return NULL;
    }
    draft = calloc(1, sizeof(*draft));
    INVARIANT(draft);
    *draft = (struct spool_draft){
        .spool = spool, .id = ++spool->last_id, .body = BUFFER_WITH_LIMIT(64 * MIB)};
    return draft;
}

uint64_t spool_draft_id(const struct spool_draft *draft)
{
    return draft->id;
}

struct verdict spool_draft_write(struct spool_draft *draft, struct bytes bytes)
{
    buffer_add(&draft->body, bytes);
    return verdict_accept();
}

void spool_draft_close(struct spool_draft **draft)
{
    if (!*draft)
        return;
    buffer_free(&(*draft)->body);
    free(*draft);
    *draft = NULL;
}

/* ------------------------------------------------------------------ the queue */

static bool fake_is_due(const struct fake_message *message, int64_t now)
{
    if (!message->used || message->leased || message->held || message->not_before_wall_us > now)
        return false;
    for (uint32_t i = 0; i < message->envelope.recipient_count; i++) {
        if (message->recipients[i].state == RECIPIENT_WAITING &&
            message->recipients[i].next_wall_us <= now)
            return true;
    }
    return false;
}

static struct queued_message *fake_lease(struct fake_message *message)
{
    struct queued_message *leased = calloc(1, sizeof(*leased));

    INVARIANT(leased);
    message->leased = true;
    message->leases++;
    leased->id = message->id;
    leased->size_bytes = message->body.count;
    leased->sender = (unsigned)(bytes_hash_nocase(message->envelope.from.local) >> 32) % 64;
    leased->arena = ARENA_WITH_LIMIT(MIB);
    fake_copy_envelope(&leased->arena, &leased->envelope, &message->envelope);
    leased->recipients =
        ARENA_NEW_ARRAY(&leased->arena, message->envelope.recipient_count, struct queued_recipient);
    memcpy(leased->recipients, message->recipients,
           message->envelope.recipient_count * sizeof(*leased->recipients));
    return leased;
}

enum io_status spool_take(struct spool *spool, unsigned most, uint64_t deadline_us,
                          struct queued_message **list)
{
    struct queued_message **end = list;
    struct waiter waiter;
    enum io_status status = IO_OK;
    unsigned count = 0;

    *list = NULL;
    waitlist_join(&spool->changed, &waiter);
    while (count == 0 && status == IO_OK) {
        const int64_t now = clock_wall_us();
        for (unsigned i = 0; i < FAKE_MESSAGES && count < most; i++) {
            if (!fake_is_due(&spool->messages[i], now))
                continue;
            *end = fake_lease(&spool->messages[i]);
            end = &(*end)->next;
            count++;
        }
        if (count == 0)
            status = fiber_park(MIN_OF(deadline_us, deadline_in(5 * US_PER_MS)));
        if (status == IO_TIMEOUT && clock_now_us() < deadline_us)
            status = IO_OK; /* time passed: something may be due */
    }
    waitlist_leave(&spool->changed, &waiter);
    return count > 0 ? IO_OK : status;
}

struct lookup spool_take_id(struct spool *spool, uint64_t id, struct queued_message **taken)
{
    struct fake_message *message = fake_find(spool, id);

    if (!message || message->leased)
        return lookup_absent();
    *taken = fake_lease(message);
    return lookup_found();
}

void spool_release(struct spool *spool, struct queued_message *leased)
{
    struct fake_message *message = fake_find(spool, leased->id);

    INVARIANT(message && message->leased);
    message->leased = false;
    arena_clear(&leased->arena);
    free(leased);
    waitlist_wake_all(&spool->changed);
}

void spool_postpone(struct spool *spool, struct queued_message *leased, int64_t until_wall_us)
{
    struct fake_message *message = fake_find(spool, leased->id);

    INVARIANT(message);
    message->not_before_wall_us = until_wall_us;
    spool_release(spool, leased);
}

struct verdict spool_settle(struct spool *spool, struct queued_message *leased,
                            const struct settlement_group *group)
{
    struct fake_message *message = fake_find(spool, leased->id);

    INVARIANT(message && message->leased);
    fiber_yield(); /* as the real one sleeps */
    if (spool->settle_failures > 0) {
        spool->settle_failures--;
        return verdict_of(CAUSE_SPOOL_FAILED);
    }
    spool->settle_count++;
    message->settlements++;
    message->not_before_wall_us = 0;
    for (uint32_t i = 0; i < group->count; i++) {
        const struct settlement *settlement = &group->settlements[i];
        struct queued_recipient *recipient = &message->recipients[settlement->recipient];
        INVARIANT(recipient->state == RECIPIENT_WAITING);
        recipient->state = settlement->state;
        recipient->next_wall_us = settlement->next_wall_us;
        recipient->cause = settlement->cause;
        recipient->attempts = settlement->attempts;
        recipient->last_reply = arena_copy(&message->arena, settlement->reply);
        recipient->last_attempt_wall_us = settlement->attempt_wall_us;
        recipient->delay_notified = settlement->delay_notified;
    }
    if (group->dsn) {
        fake_add(spool, group->dsn_envelope, buffer_view(&group->dsn->body));
        spool->dsn_count++;
    }
    return verdict_accept();
}

struct lookup spool_hold(struct spool *spool, uint64_t id, bool held, struct bytes why)
{
    struct fake_message *message = fake_find(spool, id);

    (void)why;
    if (!message)
        return lookup_absent();
    message->held = held;
    waitlist_wake_all(&spool->changed);
    return lookup_found();
}

static struct spool *fake_viewed; /* the queue that spool_view shows, whatever the directory */

bool spool_view(const char *directory, const struct spool_view_filter *filter,
                bool (*each)(void *argument, const struct spool_row *row), void *argument,
                char *why, size_t why_room)
{
    (void)directory;
    snprintf(why, why_room, "no queue");
    for (unsigned m = 0; fake_viewed && m < FAKE_MESSAGES; m++) {
        const struct fake_message *message = &fake_viewed->messages[m];
        for (uint32_t i = 0; message->used && i < message->envelope.recipient_count; i++) {
            const struct bytes domain = message->envelope.recipients[i].address.domain;
            const struct spool_row row = {.id = message->id,
                                          .from = message->envelope.from.local,
                                          .domain = domain,
                                          .state = message->recipients[i].state};
            if ((filter->domain && !bytes_equal_text(domain, filter->domain)) ||
                (filter->sender && !bytes_equal_text(row.from, filter->sender)))
                continue;
            if (!each(argument, &row))
                return true;
        }
    }
    return fake_viewed != NULL;
}

#endif
