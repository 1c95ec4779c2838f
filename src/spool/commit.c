/*
 * From a draft, a settlement or an operator's word to a request, and the sleep on it.
 *
 * A request has its own reference to all memory that the writer reads. A session whose deadline
 * passes leaves it behind as abandoned; the writer then withdraws what it made durable.
 */
#include "spool/inside.h"

#include <errno.h>
#include <string.h>

#define SETTLE_PATIENCE_US (600 * US_PER_S)

struct request *request_new(void)
{
    struct request *request = calloc(1, sizeof *request);

    if (!request)
        return NULL;
    *request = (struct request){.references = 1, .carried = BUFFER_WITH_LIMIT(RECORD_BODY_MAX)};
    for (unsigned i = 0; i < RECORD_GROUP_MAX; i++)
        request->records[i].meta = BUFFER_WITH_LIMIT(RECORD_META_MAX);
    request->fiber = fiber_self();
    return request;
}

void request_release(struct spool *spool, struct request *request)
{
    pthread_mutex_lock(&spool->lock);
    const bool last = --request->references == 0;
    pthread_mutex_unlock(&spool->lock);
    if (!last)
        return;
    if (request->draft)
        draft_release(request->draft);
    for (unsigned i = 0; i < RECORD_GROUP_MAX; i++)
        buffer_free(&request->records[i].meta);
    buffer_free(&request->carried);
    free(request);
}

bool request_enqueue(struct spool *spool, struct request *request)
{
    struct fiber *writer = NULL;

    pthread_mutex_lock(&spool->lock);
    const bool taken = !spool->stopping && !spool->read_only;
    if (taken) {
        request->references++;
        if (spool->queue_last)
            spool->queue_last->next = request;
        else
            spool->queue_first = request;
        spool->queue_last = request;
        writer = spool->writer_sleeps ? spool->writer : NULL;
        spool->writer_sleeps = false;
    }
    pthread_mutex_unlock(&spool->lock);
    if (writer)
        fiber_wake(writer);
    return taken;
}

static bool request_is_done(struct spool *spool, const struct request *request)
{
    pthread_mutex_lock(&spool->lock);
    const bool done = request->done;
    pthread_mutex_unlock(&spool->lock);
    return done;
}

static bool request_abandon(struct spool *spool, struct request *request)
{
    pthread_mutex_lock(&spool->lock);
    const bool abandoned = !request->done;
    request->abandoned = abandoned;
    pthread_mutex_unlock(&spool->lock);
    return abandoned;
}

/* Not cancellable: the writer always ends what it took, and the deadline bounds a disk that hangs.
 */
enum cause request_wait(struct spool *spool, struct request *request, uint64_t deadline_us)
{
    const bool masked = fiber_mask_cancel(true);

    while (!request_is_done(spool, request))
        if (fiber_park(deadline_us) != IO_OK)
            break;
    fiber_mask_cancel(masked);
    return request_abandon(spool, request) ? CAUSE_SPOOL_FAILED : request->failure;
}

static enum cause spool_standing(const struct spool *spool)
{
    if (__atomic_load_n(&spool->read_only, __ATOMIC_ACQUIRE))
        return CAUSE_SPOOL_DOWN;
    return (enum cause)__atomic_load_n(&spool->admission, __ATOMIC_ACQUIRE);
}

static struct verdict verdict_by_cause(enum cause cause)
{
    return cause == CAUSE_ACCEPTED ? verdict_accept() : verdict_of(cause);
}

struct verdict spool_admits(const struct spool *spool, uint64_t declared_bytes)
{
    const enum cause standing = spool_standing(spool);

    if (standing == CAUSE_ACCEPTED &&
        declared_bytes > __atomic_load_n(&spool->room_bytes, __ATOMIC_ACQUIRE))
        return verdict_of(CAUSE_SPOOL_FULL);
    return verdict_by_cause(standing);
}

/* ------------------------------------------------------------------ an accepted record */

static void body_part(struct request_record *record, struct bytes part)
{
    record->body[record->body_parts++] = part;
    record->record.body_bytes += (uint32_t)part.count;
}

/* One contiguous front, made once here, so that a record has few parts. */
static struct bytes draft_front(struct spool_draft *draft, struct request *request)
{
    for (const struct prepended *front = draft->front; front; front = front->next)
        buffer_add(&request->carried, front->bytes);
    return buffer_view(&request->carried);
}

MUST_USE static bool record_accepted(struct spool *spool, struct request *request,
                                     struct spool_draft *draft, const struct envelope *envelope,
                                     struct bytes mark)
{
    struct request_record *record = &request->records[request->record_count++];
    struct buffer encoded = BUFFER_WITH_LIMIT(RECORD_META_MAX);

    record->record = (struct record){.kind = RECORD_ACCEPTED, .id = draft->id};
    envelope_encode(&encoded, envelope);
    accepted_meta_encode(&record->meta,
                         &(struct accepted_meta){.extent_bytes = draft->extent_bytes,
                                                 .extent_checksum = extent_checksum(draft),
                                                 .envelope = buffer_view(&encoded),
                                                 .mark = mark});
    const bool encoded_well = !encoded.failed && !record->meta.failed &&
                              envelope->recipient_count > 0 &&
                              envelope->recipient_count <= ENVELOPE_RECIPIENTS_MAX;
    buffer_free(&encoded);
    record->record.meta_bytes = (uint32_t)record->meta.count;
    body_part(record, draft_front(draft, request));
    if (!draft->extent)
        body_part(record, buffer_view(&draft->body));
    request->draft = draft;
    pthread_mutex_lock(&spool->lock);
    draft->references++;
    pthread_mutex_unlock(&spool->lock);
    return encoded_well && !request->carried.failed &&
           request_span(request) + 4 * BLOCK_BYTES <= spool->segment_bytes;
}

/* The extent and its name are durable before the record that refers to it joins a batch. */
MUST_USE static struct verdict draft_seal(struct spool *spool, struct spool_draft *draft)
{
    char path[SPOOL_PATH_MAX];
    const struct bytes tail = buffer_view(&draft->tail);

    if (draft->failed || draft->committed)
        return verdict_of(CAUSE_SPOOL_FAILED);
    if (!draft->extent)
        return verdict_accept();
    draft->failed = true; /* until all of it went well */
    if (tail.count && file_write_at(draft->extent, &tail, 1, draft->extent_bytes).status != IO_OK)
        return verdict_of(CAUSE_SPOOL_FAILED);
    draft->extent_bytes += tail.count;
    buffer_clear(&draft->tail);
    snprintf(path, sizeof path, "%s/body", spool->directory);
    if (file_sync(draft->extent).status != IO_OK || disk_sync_directory(path).status != IO_OK)
        return verdict_of(CAUSE_SPOOL_FAILED);
    draft->failed = false;
    return verdict_accept();
}

MUST_USE static struct verdict request_commit(struct spool *spool, struct request *request,
                                              uint64_t deadline_us)
{
    if (!request_enqueue(spool, request))
        return verdict_of(__atomic_load_n(&spool->read_only, __ATOMIC_ACQUIRE)
                              ? CAUSE_SPOOL_DOWN
                              : CAUSE_SERVER_STOPPING);
    return verdict_by_cause(request_wait(spool, request, deadline_us));
}

MUST_USE static struct verdict commit_draft(struct spool_draft *draft,
                                            const struct envelope *envelope,
                                            const struct spool_commit_options *options,
                                            struct spool_receipt *receipt)
{
    struct spool *spool = draft->spool;
    struct request *request = request_new();

    if (!request)
        return verdict_of(CAUSE_SERVER_BUSY);
    const bool built = record_accepted(spool, request, draft, envelope, options->mark);
    request->records[0].record.flags = options->discard ? RECORD_DISCARDED : 0;
    const struct verdict verdict = built ? request_commit(spool, request, options->deadline_us)
                                         : verdict_of(CAUSE_SPOOL_FAILED);
    if (verdict_accepts(&verdict))
        *receipt = (struct spool_receipt){request->records[0].position, draft->id, true};
    request_release(spool, request);
    return verdict;
}

struct verdict spool_commit(struct spool_draft *draft, const struct envelope *envelope,
                            const struct spool_commit_options *options,
                            struct spool_receipt *receipt)
{
    const uint64_t began_us = clock_now_us();

    *receipt = (struct spool_receipt){0};
    REQUIRE(spool_admits(draft->spool, 0));
    REQUIRE(draft_seal(draft->spool, draft));
    REQUIRE(commit_draft(draft, envelope, options, receipt));
    metric_observe(HISTOGRAM_SPOOL_COMMIT, clock_now_us() - began_us);
    return verdict_accept();
}

void spool_session_sending(struct spool *spool, bool sending)
{
    __atomic_add_fetch(&spool->sending, sending ? 1 : -1, __ATOMIC_RELAXED);
}

/* ------------------------------------------------------------------ settlements */

static struct status status_of(const struct settlement *settlement)
{
    return (struct status){.state = settlement->state,
                           .cause = settlement->cause,
                           .attempts = settlement->attempts,
                           .delay_notified = settlement->delay_notified,
                           .next_wall_us = settlement->next_wall_us,
                           .last_attempt_wall_us = settlement->attempt_wall_us,
                           .reply = bytes_slice(settlement->reply, 0, REPLY_MAX)};
}

MUST_USE static bool record_settled(struct request *request, const struct queued_message *message,
                                    const struct settlement_group *group)
{
    struct request_record *record = &request->records[request->record_count++];

    record->record = (struct record){.kind = RECORD_SETTLED, .id = message->id};
    status_list_begin(&record->meta, group->count);
    for (uint32_t i = 0; i < group->count; i++) {
        const struct status status = status_of(&group->settlements[i]);
        INVARIANT(group->settlements[i].recipient < message->envelope.recipient_count);
        status_list_add(&record->meta, group->settlements[i].recipient, &status);
    }
    record->record.meta_bytes = (uint32_t)record->meta.count;
    return !record->meta.failed;
}

/* The holder's own view of its message follows what is durable. */
static void message_follow(struct queued_message *message, const struct settlement *settlement)
{
    struct queued_recipient *recipient = &message->recipients[settlement->recipient];

    recipient->state = settlement->state;
    recipient->attempts = settlement->attempts;
    recipient->next_wall_us = settlement->next_wall_us;
    recipient->cause = settlement->cause;
    recipient->last_reply =
        arena_copy(&message->arena, bytes_slice(settlement->reply, 0, REPLY_MAX));
    recipient->last_attempt_wall_us = settlement->attempt_wall_us;
    recipient->delay_notified = settlement->delay_notified;
}

MUST_USE static bool settle_build(struct spool *spool, struct request *request,
                                  const struct queued_message *message,
                                  const struct settlement_group *group)
{
    request->settles = true;
    if (!record_settled(request, message, group))
        return false;
    return !group->dsn ||
           record_accepted(spool, request, group->dsn, group->dsn_envelope, BYTES_EMPTY);
}

static void note_settled(struct spool *spool, uint64_t id)
{
    pthread_mutex_lock(&spool->lock);
    struct entry *entry = table_find(&spool->table, id);
    if (entry)
        entry->settled_in_lease = true;
    pthread_mutex_unlock(&spool->lock);
}

struct verdict spool_settle(struct spool *spool, struct queued_message *message,
                            const struct settlement_group *group)
{
    if (group->count == 0 && !group->dsn)
        return verdict_accept();
    if (group->dsn)
        REQUIRE(draft_seal(spool, group->dsn));
    struct request *request = request_new();
    if (!request)
        return verdict_of(CAUSE_SERVER_BUSY);
    const struct verdict verdict =
        settle_build(spool, request, message, group)
            ? request_commit(spool, request, deadline_in(SETTLE_PATIENCE_US))
            : verdict_of(CAUSE_SPOOL_FAILED);
    request_release(spool, request);
    if (!verdict_accepts(&verdict))
        return verdict;
    for (uint32_t i = 0; i < group->count; i++)
        message_follow(message, &group->settlements[i]);
    note_settled(spool, message->id);
    return verdict;
}

/* ------------------------------------------------------------------ the operator's hold */

MUST_USE static struct verdict commit_hold(struct spool *spool, uint64_t id, bool held,
                                           struct bytes why)
{
    struct request *request = request_new();

    if (!request)
        return verdict_of(CAUSE_SERVER_BUSY);
    struct request_record *record = &request->records[0];
    request->record_count = 1;
    request->settles = true;
    record->record = (struct record){.kind = RECORD_HELD, .id = id};
    held_meta_encode(&record->meta, held, why);
    record->record.meta_bytes = (uint32_t)record->meta.count;
    const struct verdict verdict =
        record->meta.failed ? verdict_of(CAUSE_SERVER_BUSY)
                            : request_commit(spool, request, deadline_in(SETTLE_PATIENCE_US));
    request_release(spool, request);
    return verdict;
}

struct lookup spool_hold(struct spool *spool, uint64_t id, bool held, struct bytes why)
{
    struct entry *entry;
    const enum lookup_status status = entry_pin(spool, id, deadline_in(SETTLE_PATIENCE_US), &entry);

    if (status == LOOKUP_ABSENT)
        return lookup_absent();
    if (status == LOOKUP_FAILED)
        return lookup_failed(LOOKUP_REASON_UNAVAILABLE, bytes_of_text("index"));
    const struct verdict verdict = commit_hold(spool, id, held, why);
    entry_unpin(spool, entry);
    if (!verdict_accepts(&verdict))
        return lookup_failed(LOOKUP_REASON_UNAVAILABLE, bytes_of_text(cause_name(verdict.cause)));
    observe_event(&(struct event){
        .kind = held ? EVENT_MESSAGE_HELD : EVENT_MESSAGE_RELEASED, .message = id, .text = why});
    return lookup_found();
}
