/*
 * The one writer: takes all that waits, one vectored write, one sync, then wakes the sleepers.
 *
 * A batch begins on a block of its own, so a torn write never touches what was acknowledged. When
 * a write or a sync fails, the segment is poisoned and a spare is activated whose header cuts the
 * log at the failed batch's first sequence number: from then on the batch never happened, whatever
 * of it reached the disk. Only after that do its sessions hear spool.failed; settlements, whose
 * facts are true, are simply written again on the new segment.
 */
#include "spool/inside.h"

#include <errno.h>
#include <stdarg.h>
#include <string.h>

#define SPARE_PATIENCE_US (10 * US_PER_S)
#define PROBE_EVERY_US (5 * US_PER_S)
#define IDLE_PATIENCE_US (30 * US_PER_S)

struct batch {
    struct request *first, **last;
    uint32_t count, messages;
    uint64_t bytes; /* with padding to the block */
    uint64_t sequence_end;
};

static uint64_t round_up(uint64_t size, uint64_t step)
{
    return (size + step - 1) / step * step;
}

void spool_set_fault(struct spool *spool, const char *format, ...)
{
    char text[sizeof spool->fault];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    observe_note(LOG_ERROR, "spool", "%s", text);
    pthread_mutex_lock(&spool->lock);
    memcpy(spool->fault, text, sizeof spool->fault);
    pthread_mutex_unlock(&spool->lock);
}

void writer_wake(struct spool *spool)
{
    pthread_mutex_lock(&spool->lock);
    struct fiber *const writer = spool->writer_sleeps ? spool->writer : NULL;
    spool->writer_sleeps = false;
    pthread_mutex_unlock(&spool->lock);
    if (writer)
        fiber_wake(writer);
}

/* ------------------------------------------------------------------ segments */

static int spare_pick(struct spool *spool)
{
    int picked = -1;

    pthread_mutex_lock(&spool->lock);
    for (int i = 0; i < SPARE_COUNT && picked < 0; i++)
        if (spool->spares[i] == SPARE_READY)
            picked = i;
    if (picked >= 0)
        spool->spares[picked] = SPARE_TAKEN;
    pthread_mutex_unlock(&spool->lock);
    return picked;
}

static unsigned spares_left(struct spool *spool)
{
    unsigned left = 0;

    pthread_mutex_lock(&spool->lock);
    for (int i = 0; i < SPARE_COUNT; i++)
        left += spool->spares[i] == SPARE_READY;
    pthread_mutex_unlock(&spool->lock);
    return left;
}

/* The indexer makes spares in the background; under a flood the writer has to wait for it. */
static void spare_await(struct spool *spool, unsigned least)
{
    const uint64_t deadline_us = deadline_in(SPARE_PATIENCE_US);
    struct waiter waiter;

    waitlist_join(&spool->spare_made, &waiter);
    while (spares_left(spool) < least && !__atomic_load_n(&spool->spare_error, __ATOMIC_ACQUIRE)) {
        indexer_wake(spool);
        if (fiber_park(deadline_us) != IO_OK)
            break;
    }
    waitlist_leave(&spool->spare_made, &waiter);
}

static void segment_append(struct spool *spool, struct segment *segment)
{
    struct segment **at = &spool->table.segments;

    while (*at)
        at = &(*at)->next;
    *at = segment;
    spool->current = segment;
    spool->write_at = BLOCK_BYTES;
    spool->applied_position = position_of(segment->header.generation, BLOCK_BYTES);
}

struct io_result writer_rotate(struct spool *spool)
{
    const int spare = spare_pick(spool);
    struct segment_header header = spool->identity;
    struct segment *segment;

    if (spare < 0)
        return io_failed(ENOSPC);
    header.generation = spool->generation + 1;
    header.first_sequence = spool->sequence;
    header.proven = spool->proven;
    header.size_bytes = spool->segment_bytes;
    random_fill((struct span){header.secret, sizeof header.secret});
    /* Whatever comes of it, this file is a spare no more and this generation is used up. */
    spool->generation++;
    const struct io_result result =
        segment_activate(spool->directory, (unsigned)spare, &header, &segment);
    pthread_mutex_lock(&spool->lock);
    spool->spares[spare] = SPARE_NONE;
    if (result.status == IO_OK)
        segment_append(spool, segment);
    pthread_mutex_unlock(&spool->lock);
    indexer_wake(spool);
    return result;
}

/* ------------------------------------------------------------------ taking a batch */

uint64_t request_span(const struct request *request)
{
    uint64_t span = 0;

    for (unsigned i = 0; i < request->record_count; i++)
        span += record_span(&request->records[i].record);
    return span;
}

static void batch_take(struct spool *spool, struct batch *batch)
{
    const uint64_t limit = MIN_OF(BATCH_BYTES, spool->segment_bytes / 2);

    *batch = (struct batch){.first = NULL};
    batch->last = &batch->first;
    pthread_mutex_lock(&spool->lock);
    while (spool->queue_first && batch->count < BATCH_REQUESTS) {
        struct request *request = spool->queue_first;
        const uint64_t span = request_span(request);
        if (batch->count > 0 && batch->bytes + span > limit)
            break;
        spool->queue_first = request->next;
        if (!spool->queue_first)
            spool->queue_last = NULL;
        request->next = NULL;
        *batch->last = request;
        batch->last = &request->next;
        batch->bytes += span;
        batch->count++;
        batch->messages += request->records[0].record.kind == RECORD_ACCEPTED;
    }
    pthread_mutex_unlock(&spool->lock);
}

/* A copy carries the message's state of this very moment: nothing settles it but this fiber. */
static void copy_refresh(struct spool *spool, struct request *request)
{
    struct request_record *record = &request->records[0];
    struct buffer list = BUFFER_WITH_LIMIT(RECORD_META_MAX);

    pthread_mutex_lock(&spool->lock);
    const struct entry *entry = table_find(&spool->table, record->record.id);
    if (!entry || entry->ended || entry->position != record->position) {
        request->record_count = 0;
    } else {
        entry_status_list(entry, &list);
        buffer_clear(&record->meta);
        accepted_meta_encode(&record->meta, &(struct accepted_meta){
                                                entry->extent_bytes, entry->extent_checksum,
                                                entry->envelope, buffer_view(&list), BYTES_EMPTY});
        record->record.flags = (uint16_t)(RECORD_COPY | (entry->held ? RECORD_COPY_HELD : 0) |
                                          (entry->damaged ? RECORD_DAMAGED : 0));
        record->record.meta_bytes = (uint32_t)record->meta.count;
        if (record->meta.failed || list.failed)
            request->record_count = 0;
    }
    pthread_mutex_unlock(&spool->lock);
    buffer_free(&list);
}

/* Copies go in front: what settles a message in the same batch comes behind its copy. */
static void batch_copies_first(struct spool *spool, struct batch *batch)
{
    struct request *copies = NULL, **last_copy = &copies, **at = &batch->first;

    while (*at) {
        struct request *request = *at;
        if (!request->copies) {
            at = &request->next;
            continue;
        }
        *at = request->next;
        copy_refresh(spool, request);
        *last_copy = request;
        last_copy = &request->next;
    }
    *last_copy = batch->first;
    batch->last = batch->first ? at : last_copy;
    batch->first = copies;
    batch->bytes = 0;
    for (struct request *request = batch->first; request; request = request->next)
        batch->bytes += request_span(request);
    batch->bytes = round_up(batch->bytes, BLOCK_BYTES);
}

/* ------------------------------------------------------------------ writing it */

struct vector {
    struct bytes *parts;
    size_t count;
};

static void vector_add(struct vector *vector, struct bytes part)
{
    if (part.count)
        vector->parts[vector->count++] = part;
}

static const uint8_t zeros[BLOCK_BYTES];

static void record_seal(struct spool *spool, struct request *request, unsigned index)
{
    struct request_record *record = &request->records[index];
    const struct segment_header *segment = &spool->current->header;

    record->record.group_index = (uint16_t)index;
    record->record.group_count = request->record_count;
    record->record.proven = spool->proven;
    record->record.meta_checksum = record_checksum(segment, buffer_view(&record->meta));
    record->record.body_checksum =
        record->body_parts == 1 ? record_checksum(segment, record->body[0])
                                : record_checksum_parts(segment, record->body, record->body_parts);
    record_encode(&record->record, segment, record->header);
}

static uint64_t vector_add_record(struct vector *vector, const struct request_record *record)
{
    const uint64_t payload = (uint64_t)record->record.meta_bytes + record->record.body_bytes;
    const uint64_t span = record_span(&record->record);

    vector_add(vector, bytes_of(record->header, RECORD_HEADER_BYTES));
    vector_add(vector, buffer_view(&record->meta));
    for (unsigned i = 0; i < record->body_parts; i++)
        vector_add(vector, record->body[i]);
    vector_add(vector, bytes_of(zeros, (size_t)(span - RECORD_HEADER_BYTES - payload)));
    return span;
}

static struct io_result batch_write(struct spool *spool, struct batch *batch)
{
    struct vector vector = {
        calloc((size_t)batch->count * RECORD_GROUP_MAX * 6 + 1, sizeof(struct bytes)), 0};
    uint64_t at = spool->write_at;

    if (!vector.parts)
        return io_failed(ENOMEM);
    batch->sequence_end = spool->sequence;
    for (struct request *request = batch->first; request; request = request->next)
        for (unsigned i = 0; i < request->record_count; i++) {
            struct request_record *record = &request->records[i];
            record->record.sequence = batch->sequence_end++;
            record_seal(spool, request, i);
            record->position = position_of(spool->current->header.generation, at);
            at += vector_add_record(&vector, record);
        }
    vector_add(&vector, bytes_of(zeros, (size_t)(spool->write_at + batch->bytes - at)));
    const struct io_result written =
        vector.count
            ? file_write_at(spool->current->file, vector.parts, vector.count, spool->write_at)
            : io_ok(0);
    free(vector.parts);
    return written.status == IO_OK && batch->bytes ? file_sync(spool->current->file) : written;
}

/* ------------------------------------------------------------------ after the sync */

static void apply_accepted(struct spool *spool, const struct request *request,
                           const struct request_record *record)
{
    const struct accepted accepted = {record->record.id, record->position, record->record.flags,
                                      record->record.body_bytes, buffer_view(&record->meta)};

    if (record->record.flags & RECORD_DISCARDED)
        return;
    struct entry *entry = table_accept(&spool->table, &accepted);
    INVARIANT(entry); /* without memory for what was acknowledged, the restart will read it */
    if (request->copies)
        return;
    if (request->draft)
        request->draft->committed = true;
    entry_settle_down(spool, entry, true);
}

static void apply_record(struct spool *spool, const struct request *request,
                         const struct request_record *record)
{
    struct entry *entry = table_find(&spool->table, record->record.id);
    struct bytes why;
    bool held = false;

    switch (record->record.kind) {
    case RECORD_ACCEPTED:
        apply_accepted(spool, request, record);
        break;
    case RECORD_SETTLED:
        INVARIANT(!entry || table_settle(&spool->table, entry, buffer_view(&record->meta)));
        break;
    case RECORD_HELD:
        INVARIANT(held_meta_decode(buffer_view(&record->meta), &held, &why));
        if (entry) {
            table_set_held(&spool->table, entry, held);
            if (entry->place != PLACE_LEASED && !entry->ended)
                entry_settle_down(spool, entry, false);
        }
        break;
    case RECORD_WITHDRAWN:
        if (entry)
            table_end(&spool->table, entry);
        break;
    case RECORD_NONE:
    case RECORD_KIND_COUNT:
        INVARIANT(false);
    }
}

/* An abandoned commit became durable after all: its session said 451, so it must not be delivered.
 */
static struct request *withdrawal_of(const struct request *request)
{
    struct request *withdrawal = request_new();

    if (!withdrawal)
        return NULL;
    withdrawal->record_count = 1;
    withdrawal->settles = true;
    withdrawal->fiber = NULL;
    withdrawal->records[0].record =
        (struct record){.kind = RECORD_WITHDRAWN, .id = request->records[0].record.id};
    return withdrawal;
}

static void queue_front(struct spool *spool, struct request *request)
{
    request->next = spool->queue_first;
    spool->queue_first = request;
    if (!spool->queue_last)
        spool->queue_last = request;
}

/* Under the lock. The fiber is woken by the caller, outside of it. */
static struct fiber *request_finish(struct request *request, enum cause cause)
{
    struct fiber *fiber = request->abandoned ? NULL : request->fiber;

    request->failure = cause;
    request->done = true;
    return fiber;
}

static bool request_is_withdrawn(const struct request *request)
{
    return request->abandoned && !request->settles && !request->copies &&
           request->records[0].record.kind == RECORD_ACCEPTED;
}

/* Under the lock. */
static void copy_let_go(struct spool *spool, struct request *request)
{
    struct entry *entry = request->pinned;

    request->pinned = NULL;
    spool->copies--;
    entry->pins--;
    if (entry->place == PLACE_IDLE && !entry->ended)
        entry_settle_down(spool, entry, false);
    else
        table_drop_idle(&spool->table, entry);
}

static void finish_one(struct spool *spool, struct request *request, enum cause cause)
{
    struct request *withdrawal = NULL;

    pthread_mutex_lock(&spool->lock);
    if (cause == CAUSE_ACCEPTED && request_is_withdrawn(request)) {
        withdrawal = withdrawal_of(request);
        request->draft->committed = true; /* its extent goes with the sweep at the next opening */
    }
    for (unsigned i = 0; cause == CAUSE_ACCEPTED && !withdrawal && i < request->record_count; i++)
        apply_record(spool, request, &request->records[i]);
    if (withdrawal)
        queue_front(spool, withdrawal);
    if (request->pinned)
        copy_let_go(spool, request);
    struct fiber *const fiber = request_finish(request, cause);
    pthread_mutex_unlock(&spool->lock);
    if (fiber)
        fiber_wake(fiber);
    request_release(spool, request);
}

static void batch_finish(struct spool *spool, struct batch *batch, enum cause cause)
{
    while (batch->first) {
        struct request *request = batch->first;
        batch->first = request->next;
        finish_one(spool, request, cause);
    }
}

static void batch_succeeded(struct spool *spool, struct batch *batch)
{
    const uint64_t end = spool->write_at + batch->bytes;

    spool->sequence = batch->sequence_end;
    spool->proven = batch->sequence_end - 1;
    spool->write_at = end;
    spool->failures_in_a_row = 0;
    if (batch->messages)
        metric_observe(HISTOGRAM_SPOOL_BATCH, batch->messages);
    batch_finish(spool, batch, CAUSE_ACCEPTED);
    pthread_mutex_lock(&spool->lock);
    spool->applied_position = position_of(spool->current->header.generation, end);
    spool->applied_sequence = spool->proven;
    const bool lagging = spool->table.dirty_count > READY_MOST / 4;
    pthread_mutex_unlock(&spool->lock);
    if (lagging)
        indexer_wake(spool);
}

/* ------------------------------------------------------------------ failures */

static void go_read_only(struct spool *spool, struct io_result result)
{
    spool_set_fault(spool, "read-only: %s", io_result_text(result));
    spool->probe_at_us = deadline_in(PROBE_EVERY_US);
    __atomic_store_n(&spool->read_only, true, __ATOMIC_RELEASE);
}

/* Back to the front of the queue, once; a second failure fails them too. */
static void keep_settlements(struct spool *spool, struct batch *batch)
{
    struct request **at = &batch->first, *kept = NULL, **last = &kept;

    while (*at) {
        struct request *request = *at;
        if (!request->settles || request->tried_before) {
            at = &request->next;
            continue;
        }
        *at = request->next;
        request->next = NULL;
        request->tried_before = true;
        *last = request;
        last = &request->next;
    }
    pthread_mutex_lock(&spool->lock);
    *last = spool->queue_first;
    if (kept && !spool->queue_first)
        spool->queue_last = CONTAINER_OF(last, struct request, next);
    if (kept)
        spool->queue_first = kept;
    pthread_mutex_unlock(&spool->lock);
}

/* The cut failed too: the batch may be found after a restart. Better whole than without its
 * extents; what is not found goes with the sweep. */
static void keep_extents(struct batch *batch)
{
    for (struct request *request = batch->first; request; request = request->next)
        if (request->draft)
            request->draft->committed = true;
}

static void batch_failed(struct spool *spool, struct batch *batch, struct io_result result)
{
    spool->failures_in_a_row++;
    pthread_mutex_lock(&spool->lock);
    spool->current->poisoned = true;
    pthread_mutex_unlock(&spool->lock);
    spool_set_fault(spool, "segment %08llx poisoned: %s",
                    (unsigned long long)spool->current->header.generation, io_result_text(result));
    spare_await(spool, 1);
    const struct io_result cut = writer_rotate(spool); /* cancels the batch on disk */
    if (cut.status != IO_OK)
        keep_extents(batch);
    if (cut.status != IO_OK || spool->failures_in_a_row > 1)
        go_read_only(spool, cut.status != IO_OK ? cut : result);
    else
        keep_settlements(spool, batch);
    batch_finish(spool, batch, CAUSE_SPOOL_FAILED);
}

/* ------------------------------------------------------------------ the loop */

/* The last spare is for settlements: finishing existing work needs no new file on a full disk. */
static void refuse_messages(struct spool *spool, struct batch *batch, enum cause cause)
{
    struct request **at = &batch->first;

    while (*at) {
        struct request *request = *at;
        if (request->settles) {
            at = &request->next;
            continue;
        }
        *at = request->next;
        finish_one(spool, request, cause);
    }
}

static bool batch_fits(const struct spool *spool, const struct batch *batch)
{
    return spool->write_at + batch->bytes + BLOCK_BYTES <= spool->segment_bytes;
}

/* False: there is no segment for it, and every request of the batch was told. */
static bool batch_make_room(struct spool *spool, struct batch *batch)
{
    if (batch_fits(spool, batch))
        return true;
    spare_await(spool, SPARE_COUNT);
    if (spares_left(spool) < SPARE_COUNT) {
        refuse_messages(spool, batch, house_spare_cause(spool));
        batch_copies_first(spool, batch); /* counts anew */
        if (!batch->first || batch_fits(spool, batch))
            return batch->first != NULL;
    }
    const struct io_result rotated = writer_rotate(spool);
    if (rotated.status == IO_OK)
        return true;
    if (rotated.error == ENOSPC && spares_left(spool) == 0)
        spool_set_fault(spool, "no segment left: %s", io_result_text(rotated));
    else
        go_read_only(spool, rotated);
    batch_finish(spool, batch, rotated.error == ENOSPC ? CAUSE_SPOOL_FULL : CAUSE_SPOOL_FAILED);
    return false;
}

static void batch_commit(struct spool *spool, struct batch *batch)
{
    batch_copies_first(spool, batch);
    if (!batch_make_room(spool, batch))
        return;
    const struct io_result result = batch_write(spool, batch);
    if (result.status == IO_OK)
        batch_succeeded(spool, batch);
    else if (result.error == ENOMEM)
        batch_finish(spool, batch, CAUSE_SPOOL_FAILED); /* nothing was written */
    else
        batch_failed(spool, batch, result);
}

/* A fresh segment that can be written and synced ends the read-only state. */
static void writer_probe(struct spool *spool)
{
    if (clock_now_us() < spool->probe_at_us)
        return;
    spool->probe_at_us = deadline_in(PROBE_EVERY_US);
    spare_await(spool, 1);
    if (writer_rotate(spool).status != IO_OK)
        return;
    spool->failures_in_a_row = 0;
    pthread_mutex_lock(&spool->lock);
    spool->fault[0] = '\0';
    pthread_mutex_unlock(&spool->lock);
    __atomic_store_n(&spool->read_only, false, __ATOMIC_RELEASE);
    observe_note(LOG_WARNING, "spool", "writing again, on a fresh segment");
}

/* True: there is something to write. */
static bool writer_wait(struct spool *spool)
{
    /* Whoever has something to write wakes it; only the probe of a failed disk goes by the clock.
     */
    const uint64_t patience_us = spool->read_only ? US_PER_S : IDLE_PATIENCE_US;

    pthread_mutex_lock(&spool->lock);
    const bool waiting = spool->queue_first != NULL;
    spool->writer_sleeps = !waiting && !spool->stopping;
    const bool sleeps = spool->writer_sleeps;
    pthread_mutex_unlock(&spool->lock);
    /* A world that ends without spool_close cancels its fibers: that is a stop too. */
    if (sleeps && fiber_park(deadline_in(patience_us)) == IO_CANCELLED) {
        __atomic_store_n(&spool->stopping, true, __ATOMIC_RELEASE);
        fiber_mask_cancel(true);
    }
    return waiting;
}

void writer_main(void *argument)
{
    struct spool *spool = argument;
    struct batch batch;

    spool->writer = fiber_self();
    for (;;) {
        const bool waiting = writer_wait(spool);
        if (spool->read_only)
            writer_probe(spool);
        if (!waiting && __atomic_load_n(&spool->stopping, __ATOMIC_ACQUIRE))
            break;
        if (!waiting)
            continue;
        batch_take(spool, &batch);
        if (spool->read_only)
            batch_finish(spool, &batch, CAUSE_SPOOL_FAILED);
        else
            batch_commit(spool, &batch);
    }
    pthread_mutex_lock(&spool->lock);
    spool->writer_ended = true;
    indexer_wake(spool);
    waitlist_wake_all(&spool->changed); /* inside: once unlocked, the closer may free all of it */
    pthread_mutex_unlock(&spool->lock);
}
