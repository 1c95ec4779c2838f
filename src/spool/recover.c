/*
 * Opening: from whatever a crash left on disk to a spool that writes again. Every step may be cut
 * off and done again: nothing is removed before what replaces it is durable.
 */
#include "spool/inside.h"
#include "spool/replay.h"

#include <errno.h>
#include <string.h>

enum { REPLAY_DIRTY_MOST = 4000, ID_CLOCK_SHIFT = 11 };
#define IDS_AN_INCARNATION (UINT64_C(1) << 40)

static bool refuse(struct spool *spool, const char *what, struct io_result result)
{
    snprintf(spool->why, sizeof spool->why, "%.180s%s: %s", spool->directory, what,
             io_result_text(result));
    return false;
}

static bool make_folder(struct spool *spool, const char *name)
{
    char path[SPOOL_PATH_MAX];

    snprintf(path, sizeof path, "%s%s", spool->directory, name);
    const struct io_result made = disk_make_directory(path);
    return made.status == IO_OK || refuse(spool, name, made);
}

/* The folder itself is a name in its parent: without this, a power cut soon after the first start
 * could take the whole spool. A parent that we may not read is somebody else's care. */
static bool sync_parent(struct spool *spool)
{
    char parent[SPOOL_PATH_MAX];

    snprintf(parent, sizeof parent, "%s", spool->directory);
    char *slash = strrchr(parent, '/');
    if (slash)
        slash[slash == parent] = 0;
    const struct io_result synced = disk_sync_directory(slash ? parent : ".");
    return synced.status == IO_OK || synced.error == EACCES || refuse(spool, "/..", synced);
}

static bool make_folders(struct spool *spool)
{
    if (!make_folder(spool, "") || !sync_parent(spool) || !make_folder(spool, "/log") ||
        !make_folder(spool, "/body") || !make_folder(spool, "/damaged"))
        return false;
    const struct io_result synced = disk_sync_directory(spool->directory);
    return synced.status == IO_OK || refuse(spool, "", synced);
}

static bool take_lock(struct spool *spool)
{
    char path[SPOOL_PATH_MAX];

    snprintf(path, sizeof path, "%s/lock", spool->directory);
    const struct io_result opened = file_open(path, FILE_WRITE | FILE_CREATE, &spool->lock_file);
    if (opened.status != IO_OK)
        return refuse(spool, "/lock", opened);
    const struct io_result locked = file_lock(spool->lock_file);
    if (locked.status == IO_OK)
        return true;
    if (locked.error == EWOULDBLOCK) {
        snprintf(spool->why, sizeof spool->why, "%.180s: another process holds this spool",
                 spool->directory);
        return false;
    }
    return refuse(spool, "/lock", locked);
}

/* ------------------------------------------------------------------ segments */

/* A file named like a segment, with neither header readable: nothing in it can be told apart from
 * forgery. It goes aside whole. */
static void set_aside_segment(struct spool *spool, const char *name)
{
    char from[SPOOL_PATH_MAX], to[SPOOL_PATH_MAX], text[160];

    snprintf(from, sizeof from, "%s/log/%.50s", spool->directory, name);
    snprintf(to, sizeof to, "%s/damaged/%.50s", spool->directory, name);
    const struct io_result moved = disk_rename(from, to);
    snprintf(text, sizeof text, "segment %.50s has no readable header (set aside: %s)", name,
             moved.status == IO_OK ? "yes" : io_result_text(moved));
    damage_set_aside(spool, 0, BYTES_EMPTY, text);
}

static bool read_segments(struct spool *spool, struct segment_list *list)
{
    for (unsigned round = 0; round < 64; round++) {
        if (!segment_list_read(spool->directory, list))
            return refuse(spool, "/log", io_failed(EIO));
        if (list->unreadable == 0)
            return true;
        set_aside_segment(spool, list->bad_name);
        segment_list_free(list);
    }
    return refuse(spool, "/log", io_failed(EIO));
}

static bool segment_open(struct spool *spool, const struct segment_header *header,
                         struct segment ***last)
{
    char path[SPOOL_PATH_MAX];
    struct segment *segment = calloc(1, sizeof *segment);

    if (!segment)
        return refuse(spool, "/log", io_failed(ENOMEM));
    segment->header = *header;
    segment_path(spool->directory, header->generation, path, sizeof path);
    const struct io_result opened = file_open(path, FILE_WRITE, &segment->file);
    if (opened.status != IO_OK) {
        segment_close(segment);
        return refuse(spool, path + strlen(spool->directory), opened);
    }
    **last = segment;
    *last = &segment->next;
    return true;
}

static bool open_segments(struct spool *spool, const struct segment_list *list)
{
    struct segment **last = &spool->table.segments;

    for (size_t i = 0; i < list->count; i++)
        if (!segment_open(spool, &list->at[i].header, &last))
            return false;
    return true;
}

/* A killed process may have left whole records in the page cache that no sync covers. What is
 * replayed has to be durable first: else a power cut later takes away what is relied on from now
 * on. Only the newest segment can hold such records. */
static bool sync_newest(struct spool *spool)
{
    struct segment *newest = spool->table.segments;

    while (newest && newest->next)
        newest = newest->next;
    const struct io_result synced = newest ? file_sync(newest->file) : io_ok(0);
    return synced.status == IO_OK || refuse(spool, "/log", synced);
}

/* ------------------------------------------------------------------ replay */

static bool replay_applied(void *argument, const struct index_state *up_to)
{
    struct spool *spool = argument;

    spool->applied_position = up_to->position;
    spool->applied_sequence = up_to->sequence;
    return spool->table.dirty_count < REPLAY_DIRTY_MOST || indexer_flush(spool, false);
}

static enum lookup_status replay_load(void *argument, uint64_t id)
{
    return indexer_load(argument, id);
}

static void replay_damage(void *argument, uint64_t generation, uint64_t id, struct bytes raw,
                          const char *what)
{
    struct spool *spool = argument;
    struct segment *segment = segment_find(spool->table.segments, generation);

    if (segment)
        segment->suspect = true;
    damage_set_aside(spool, id, raw, what);
}

static void replay_marked(void *argument, uint64_t id, int64_t accepted_wall_us, struct bytes mark)
{
    struct spool *spool = argument;
    const size_t kept = MIN_OF(spool->mark_count, (size_t)SPOOL_MARKS_MOST);

    for (size_t i = 0; mark.count == 0 && i < kept; i++)
        if (spool->marks[i].message == id)
            spool->marks[i].message = 0;
    if (mark.count == 0)
        return;
    if (!spool->marks)
        spool->marks = calloc(SPOOL_MARKS_MOST, sizeof *spool->marks);
    if (!spool->marks)
        return;
    struct spool_mark *row = &spool->marks[spool->mark_count++ % SPOOL_MARKS_MOST];
    *row = (struct spool_mark){.message = id, .accepted_wall_us = accepted_wall_us};
    memcpy(row->mark, mark.at, sizeof row->mark);
}

size_t spool_marks(const struct spool *spool, const struct spool_mark **marks)
{
    *marks = spool->marks;
    return MIN_OF(spool->mark_count, (size_t)SPOOL_MARKS_MOST);
}

uint64_t spool_secret(const struct spool *spool)
{
    return spool->identity.spool;
}

static bool open_index(struct spool *spool, const struct segment_list *list, bool anew)
{
    struct index_state state = {0};
    char why[WHY_ROOM];

    for (unsigned round = 0; round < 2; round++) {
        if (anew && !index_remove(spool->directory))
            return refuse(spool, "/index.db", io_failed(EIO));
        const enum index_opened opened =
            index_open(spool->directory, false, &spool->index, why, sizeof why);
        if (opened == INDEX_FAILED) {
            snprintf(spool->why, sizeof spool->why, "%s", why);
            return false;
        }
        const bool read = opened == INDEX_OK && index_state(spool->index, &state);
        const bool ours = !list->count || state.spool == list->at[0].header.spool;
        if (opened == INDEX_NEW || (read && ours)) {
            spool->indexed = spool->durable = state;
            return true;
        }
        observe_note(LOG_WARNING, "spool", "the index is made anew from the log: %s",
                     read ? "it belongs to another spool" : why);
        if (spool->index)
            index_close(spool->index);
        spool->index = NULL;
        anew = true;
    }
    return refuse(spool, "/index.db", io_failed(EIO));
}

static void forget_index(struct spool *spool)
{
    index_close(spool->index);
    spool->index = NULL;
    table_free(&spool->table);
}

static bool replay(struct spool *spool, struct replay *run)
{
    spool->applied_position = spool->indexed.position;
    spool->applied_sequence = spool->indexed.sequence;
    run->from = spool->indexed;
    return replay_run(run) && indexer_flush(spool, true);
}

static bool replay_log(struct spool *spool, struct segment_list *list, bool anew,
                       struct replay *run)
{
    struct segment *const segments = spool->table.segments;

    spool->identity.spool = list->count ? list->at[0].header.spool : random_u64() >> 1;
    for (unsigned round = 0; round < 2; round++, anew = true) {
        if (!open_index(spool, list, anew))
            return false;
        if (!list->count && spool->indexed.spool)
            spool->identity.spool = spool->indexed.spool;
        spool->mark_count = 0;
        *run = (struct replay){.directory = spool->directory,
                               .table = &spool->table,
                               .list = *list,
                               .load = replay_load,
                               .applied = replay_applied,
                               .damage = replay_damage,
                               .marked = replay_marked,
                               .past_unreadable = spool->rebuild, /* the operator's word */
                               .argument = spool};
        if (replay(spool, run))
            return true;
        snprintf(spool->why, sizeof spool->why,
                 "%.100s: the log cannot be replayed (a disk fault?) %.100s", spool->directory,
                 index_fault(spool->index));
        if (!index_is_damaged(spool->index))
            return false;
        forget_index(spool);
        if (!table_open(&spool->table))
            return false;
        spool->table.segments = segments;
    }
    return false;
}

/* ------------------------------------------------------------------ who we are now */

/* An incarnation hands out at most 2^40 ids from its floor on, and floors are at least that far
 * apart, whatever the clock did: no id is ever given twice. */
static void set_identity(struct spool *spool, const struct segment_list *list,
                         const struct replay *run)
{
    const uint64_t by_clock = (uint64_t)MAX_OF(clock_wall_us(), (int64_t)0) << ID_CLOCK_SHIFT;

    spool->generation = position_generation(spool->indexed.position);
    spool->sequence = MAX_OF(run->last_sequence + 1, (uint64_t)1);
    spool->proven = run->proven;
    spool->identity.id_floor = by_clock;
    for (size_t i = 0; i < list->count; i++) {
        const struct segment_header *header = &list->at[i].header;
        spool->generation = MAX_OF(spool->generation, header->generation);
        spool->sequence = MAX_OF(spool->sequence, header->first_sequence);
        spool->identity.incarnation = MAX_OF(spool->identity.incarnation, header->incarnation);
        spool->identity.id_floor =
            MAX_OF(spool->identity.id_floor, header->id_floor + IDS_AN_INCARNATION);
    }
    spool->identity.incarnation++;
    spool->next_id = spool->identity.id_floor;
    spool->applied_sequence = spool->sequence - 1;
}

static void count_totals(void *argument, const struct index_totals *totals)
{
    struct spool *spool = argument;
    struct segment *segment = segment_find(spool->table.segments, totals->generation);

    spool->table.messages += totals->messages;
    spool->table.bytes += totals->bytes;
    spool->table.inline_bytes += totals->bytes - totals->extent_bytes;
    spool->table.held += totals->held;
    if (segment)
        segment->live += totals->messages;
}

/* ------------------------------------------------------------------ spares and extents */

static void find_spare(struct spool *spool, unsigned spare)
{
    char path[SPOOL_PATH_MAX];
    struct file_facts facts;

    spare_path(spool->directory, spare, path, sizeof path);
    if (disk_facts(path, &facts).status != IO_OK)
        return;
    if (facts.size_bytes == spool->segment_bytes)
        spool->spares[spare] = SPARE_READY;
    else if (disk_remove(path).status != IO_OK)
        observe_note(LOG_WARNING, "spool", "%s cannot be removed", path);
}

static bool note_extent(void *argument, const char *name)
{
    struct buffer *ids = argument;
    uint64_t id;

    if (id_parse(bytes_of_text(name), &id))
        buffer_add(ids, bytes_of(&id, sizeof id));
    return !ids->failed;
}

static void ignore_row(void *argument, const struct row *row)
{
    *(bool *)argument = row->extent_bytes > 0;
}

/* An extent whose message is in no row was never accepted, or has ended. */
static void sweep_extents(struct spool *spool)
{
    char path[SPOOL_PATH_MAX];
    struct buffer ids = BUFFER_WITH_LIMIT(64 * MIB);

    snprintf(path, sizeof path, "%s/body", spool->directory);
    if (disk_list(path, note_extent, &ids).status != IO_OK)
        observe_note(LOG_WARNING, "spool", "%s cannot be listed", path);
    for (size_t at = 0; at + sizeof(uint64_t) <= ids.count; at += sizeof(uint64_t)) {
        uint64_t id;
        bool used = false;
        memcpy(&id, ids.at + at, sizeof id);
        if (index_row(spool->index, id, ignore_row, &used) == LOOKUP_FAILED || used)
            continue;
        draft_path(spool, id, path, sizeof path);
        if (disk_remove(path).status != IO_OK)
            observe_note(LOG_WARNING, "spool", "%s cannot be removed", path);
    }
    buffer_free(&ids);
}

/* Without a segment to write on the spool is read-only, and delivers what it can. */
static void begin_segment(struct spool *spool)
{
    for (unsigned i = 0; i < SPARE_COUNT; i++)
        find_spare(spool, i);
    const bool there = spool->spares[0] == SPARE_READY || spool->spares[1] == SPARE_READY;
    const struct io_result made =
        there ? io_ok(0) : spare_make(spool->directory, 0, spool->segment_bytes);
    if (!there && made.status == IO_OK)
        spool->spares[0] = SPARE_READY;
    const struct io_result begun = made.status == IO_OK ? writer_rotate(spool) : made;
    if (begun.status == IO_OK)
        return;
    spool->read_only = true;
    spool_set_fault(spool, "read-only: no segment to write on: %s", io_result_text(begun));
}

/* ------------------------------------------------------------------ all of it */

static bool recover_log(struct spool *spool, struct segment_list *list)
{
    struct replay run;

    if (!open_segments(spool, list) || !sync_newest(spool) ||
        !replay_log(spool, list, spool->rebuild, &run))
        return false;
    if (!index_totals(spool->index, count_totals, spool)) {
        snprintf(spool->why, sizeof spool->why, "%s", index_fault(spool->index));
        return false;
    }
    spool->table.counting = true;
    set_identity(spool, list, &run);
    if (run.records || run.torn)
        observe_note(LOG_INFO, "spool", "recovered: %llu records replayed, %llu torn",
                     (unsigned long long)run.records, (unsigned long long)run.torn);
    return true;
}

bool recover(struct spool *spool)
{
    struct segment_list list = {0};

    if (!make_folders(spool) || !take_lock(spool) || !read_segments(spool, &list))
        return false;
    const bool recovered = recover_log(spool, &list);
    segment_list_free(&list);
    if (!recovered)
        return false;
    begin_segment(spool);
    sweep_extents(spool);
    house_measure(spool);
    return true;
}
