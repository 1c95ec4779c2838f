/*
 * Spares, recycling, room on the disk, removal of extents, gauges. All of it on the indexer's
 * fiber.
 *
 * Segments go strictly oldest first. So a settlement outlives every accepted record that it speaks
 * of, and the log alone always tells the truth: that is what makes the index expendable. The price
 * is that stragglers in the oldest segment are copied forward.
 */
#include "spool/inside.h"

#include <errno.h>

enum { COPIES_AT_ONCE = 64, SEGMENTS_LEAST = 4 };

/* ------------------------------------------------------------------ spares */

static int missing_spare(struct spool *spool)
{
    int missing = -1;

    pthread_mutex_lock(&spool->lock);
    for (int i = 0; i < SPARE_COUNT && missing < 0; i++)
        if (spool->spares[i] == SPARE_NONE)
            missing = i;
    pthread_mutex_unlock(&spool->lock);
    return missing;
}

static void spare_is(struct spool *spool, int spare, int error)
{
    pthread_mutex_lock(&spool->lock);
    spool->spares[spare] = error == 0 ? SPARE_READY : SPARE_NONE;
    pthread_mutex_unlock(&spool->lock);
    if (error && error != __atomic_load_n(&spool->spare_error, __ATOMIC_ACQUIRE))
        observe_note(LOG_WARNING, "spool", "no spare segment could be made: %s",
                     io_result_text(io_failed(error)));
    __atomic_store_n(&spool->spare_error, error, __ATOMIC_RELEASE);
    waitlist_wake_all(&spool->spare_made);
}

/* A failed one is tried again once a second, by house_keep. */
static void make_spares(struct spool *spool)
{
    int spare;

    while ((spare = missing_spare(spool)) >= 0) {
        const struct io_result made =
            spare_make(spool->directory, (unsigned)spare, spool->segment_bytes);
        spare_is(spool, spare, made.status == IO_OK ? 0 : made.error ? made.error : EIO);
        if (made.status != IO_OK)
            return;
    }
}

/* ------------------------------------------------------------------ recycling */

/* The oldest segment, when nothing in it lives or is being read. */
static struct segment *retire_oldest(struct spool *spool)
{
    struct segment *retired = NULL;

    pthread_mutex_lock(&spool->lock);
    struct segment *oldest = spool->table.segments;
    if (oldest && oldest != spool->current && oldest->live == 0 && oldest->readers == 0 &&
        position_generation(spool->durable.position) > oldest->header.generation) {
        spool->table.segments = oldest->next;
        retired = oldest;
    }
    pthread_mutex_unlock(&spool->lock);
    return retired;
}

static bool oldest_could_retire(struct spool *spool)
{
    pthread_mutex_lock(&spool->lock);
    const struct segment *oldest = spool->table.segments;
    const bool could = oldest && oldest != spool->current && oldest->live == 0 &&
                       oldest->readers == 0 &&
                       position_generation(spool->durable.position) <= oldest->header.generation;
    pthread_mutex_unlock(&spool->lock);
    return could;
}

static struct io_result retire_file(struct spool *spool, const struct segment *segment, int spare)
{
    char from[SPOOL_PATH_MAX], to[SPOOL_PATH_MAX], log[SPOOL_PATH_MAX];

    segment_path(spool->directory, segment->header.generation, from, sizeof from);
    snprintf(log, sizeof log, "%s/log", spool->directory);
    if (segment->suspect) {
        snprintf(to, sizeof to, "%s/damaged/%08llx.seg", spool->directory,
                 (unsigned long long)segment->header.generation);
        return disk_rename(from, to);
    }
    if (spare < 0 || segment->poisoned || segment->header.size_bytes != spool->segment_bytes)
        return disk_remove(from);
    spare_path(spool->directory, (unsigned)spare, to, sizeof to);
    const struct io_result renamed = disk_rename(from, to);
    return renamed.status == IO_OK ? disk_sync_directory(log) : renamed;
}

static void retire(struct spool *spool, struct segment *segment)
{
    const int spare = missing_spare(spool);
    const struct io_result result = retire_file(spool, segment, spare);
    const bool recycled = spare >= 0 && !segment->poisoned && !segment->suspect &&
                          segment->header.size_bytes == spool->segment_bytes;

    if (result.status != IO_OK) /* it is dead: the next opening reads it to no effect */
        observe_note(LOG_WARNING, "spool", "segment %08llx cannot be recycled: %s",
                     (unsigned long long)segment->header.generation, io_result_text(result));
    else if (recycled)
        spare_is(spool, spare, 0);
    segment_close(segment);
}

static void recycle(struct spool *spool)
{
    struct segment *segment;

    if (oldest_could_retire(spool) && !indexer_flush(spool, true))
        return;
    while ((segment = retire_oldest(spool)))
        retire(spool, segment);
}

void house_make_spares(struct spool *spool)
{
    if (missing_spare(spool) < 0 || __atomic_load_n(&spool->spare_error, __ATOMIC_ACQUIRE))
        return;
    recycle(spool);
    make_spares(spool);
}

/* ------------------------------------------------------------------ stragglers */

/* The generation to be emptied, or 0. The log may be twice what lives in it, and some. */
static uint64_t straggling_generation(struct spool *spool)
{
    uint64_t count = 0, generation = 0;

    pthread_mutex_lock(&spool->lock);
    for (const struct segment *at = spool->table.segments; at; at = at->next)
        count++;
    const uint64_t wanted = 2 * spool->table.inline_bytes / spool->segment_bytes + SEGMENTS_LEAST;
    const struct segment *oldest = spool->table.segments;
    if (count > wanted && oldest != spool->current && oldest->live > 0 && spool->copies == 0)
        generation = oldest->header.generation;
    pthread_mutex_unlock(&spool->lock);
    return generation;
}

static bool copy_fill(struct spool *spool, struct entry *entry, struct request *request)
{
    struct request_record *record = &request->records[0];
    struct record original;
    struct segment *segment = segment_hold(spool, entry, &record->position);

    if (!segment)
        return false;
    const enum body_read read =
        entry->damaged
            ? BODY_IS_DAMAGED
            : body_load(segment, position_offset(record->position), &original, &request->carried);
    segment_let_go(spool, segment);
    if (read == BODY_IS_DAMAGED && !entry->damaged) {
        entry->damaged = true; /* its body stays behind, aside; delivery tells the sender */
        damage_set_aside(spool, entry->id, buffer_view(&request->carried),
                         "stored body fails its checksum");
    }
    if (read == BODY_IS_DAMAGED)
        buffer_clear(&request->carried);
    record->record = (struct record){.kind = RECORD_ACCEPTED,
                                     .id = entry->id,
                                     .body_bytes = (uint32_t)request->carried.count,
                                     .meta_bytes = (uint32_t)entry->envelope.count};
    record->body[0] = buffer_view(&request->carried);
    record->body_parts = 1;
    request->record_count = 1;
    request->copies = true;
    request->fiber = NULL;
    return read != BODY_UNREADABLE;
}

/* From here on the request owns the pin; the writer lets go of it, whatever becomes of the copy. */
static void copy_send(struct spool *spool, struct entry *entry, struct request *request)
{
    request->pinned = entry;
    pthread_mutex_lock(&spool->lock);
    spool->copies++;
    pthread_mutex_unlock(&spool->lock);
    if (request_enqueue(spool, request))
        return;
    pthread_mutex_lock(&spool->lock);
    spool->copies--;
    pthread_mutex_unlock(&spool->lock);
    entry_unpin(spool, entry);
}

static bool copy_forward(void *argument, uint64_t id)
{
    struct spool *spool = argument;

    if (indexer_load(spool, id) != LOOKUP_FOUND)
        return true;
    pthread_mutex_lock(&spool->lock);
    struct entry *entry = table_find(&spool->table, id);
    if (entry)
        entry->pins++;
    pthread_mutex_unlock(&spool->lock);
    if (!entry)
        return true;
    struct request *request = request_new();
    if (request && copy_fill(spool, entry, request))
        copy_send(spool, entry, request);
    else
        entry_unpin(spool, entry);
    if (request)
        request_release(spool, request);
    return true;
}

static void copy_stragglers(struct spool *spool)
{
    const uint64_t generation = straggling_generation(spool);

    if (!generation || missing_spare(spool) >= 0 || !indexer_flush(spool, false))
        return;
    if (!index_of_segment(spool->index, generation, COPIES_AT_ONCE, copy_forward, spool))
        observe_note(LOG_WARNING, "spool", "%s", index_fault(spool->index));
    spool->house_at_us = 0; /* the next round soon: a segment has many */
}

/* ------------------------------------------------------------------ extents */

static void remove_extents(struct spool *spool)
{
    pthread_mutex_lock(&spool->lock);
    struct gone *gone = spool->table.gone;
    spool->table.gone = NULL;
    pthread_mutex_unlock(&spool->lock);
    while (gone) {
        char path[SPOOL_PATH_MAX];
        struct gone *next = gone->next;
        draft_path(spool, gone->id, path, sizeof path);
        const struct io_result removed = disk_remove(path);
        if (removed.status != IO_OK && removed.error != ENOENT)
            observe_note(LOG_WARNING, "spool", "%s: %s", path, io_result_text(removed));
        free(gone);
        gone = next;
    }
}

/* ------------------------------------------------------------------ room */

/* A disk that takes no new file for another reason than its room is not full: it fails. */
enum cause house_spare_cause(const struct spool *spool)
{
    const int error = __atomic_load_n(&spool->spare_error, __ATOMIC_ACQUIRE);

    return error == 0 || error == ENOSPC || error == EDQUOT ? CAUSE_SPOOL_FULL : CAUSE_SPOOL_FAILED;
}

static enum cause judge_space(struct spool *spool, const struct disk_space *space)
{
    const uint64_t free_percent = 100 - spool->high_water_percent;
    const uint64_t mark = MAX_OF(space->bytes_total / 100 * free_percent, spool->reserve_bytes);
    const bool inodes_low =
        space->inodes_total > 0 && space->inodes_free < space->inodes_total / 100 * free_percent;

    __atomic_store_n(&spool->room_bytes, space->bytes_free - MIN_OF(mark, space->bytes_free),
                     __ATOMIC_RELEASE);
    if (space->bytes_free < mark || inodes_low)
        return CAUSE_SPOOL_FULL;
    return __atomic_load_n(&spool->spare_error, __ATOMIC_ACQUIRE) ? house_spare_cause(spool)
                                                                  : CAUSE_ACCEPTED;
}

void house_measure(struct spool *spool)
{
    struct disk_space space;
    enum cause cause = CAUSE_SPOOL_FAILED;

    pthread_mutex_lock(&spool->lock);
    const bool lagging = spool->table.dirty_count > UNINDEXED_MOST;
    pthread_mutex_unlock(&spool->lock);
    if (disk_space(spool->directory, &space).status == IO_OK)
        cause = judge_space(spool, &space);
    if (lagging)
        cause = CAUSE_SPOOL_FAILED;
    const int before = __atomic_exchange_n(&spool->admission, (int)cause, __ATOMIC_ACQ_REL);
    if (before != (int)cause && (before != CAUSE_UNDECIDED || cause != CAUSE_ACCEPTED))
        observe_note(LOG_WARNING, "spool", "admission: %s", cause_name(cause));
}

/* ------------------------------------------------------------------ gauges */

static void set_gauges(struct spool *spool)
{
    struct spool_counts counts;
    int64_t oldest = 0;

    if (!index_oldest(spool->index, &oldest))
        oldest = 0;
    pthread_mutex_lock(&spool->lock);
    const struct entry *dirty = dirty_first(&spool->table);
    if (dirty && !dirty->ended && (oldest == 0 || dirty->accepted_wall_us < oldest))
        oldest = dirty->accepted_wall_us;
    spool->oldest_wall_us = oldest;
    pthread_mutex_unlock(&spool->lock);
    spool_counts(spool, &counts);
    metric_set(COUNTER_QUEUE_READY, (int64_t)counts.ready);
    metric_set(COUNTER_QUEUE_DEFERRED, (int64_t)counts.deferred);
    metric_set(COUNTER_QUEUE_HELD, (int64_t)counts.held);
    metric_set(COUNTER_QUEUE_OLDEST,
               oldest && counts.messages ? (clock_wall_us() - oldest) / (int64_t)US_PER_S : 0);
}

void house_keep(struct spool *spool)
{
    remove_extents(spool);
    recycle(spool);
    make_spares(spool);
    copy_stragglers(spool);
    house_measure(spool);
    set_gauges(spool);
}
