/*
 * A record counts when it lies below its segment's cut, is whole, and all of its group are. A
 * record that is not whole but lies under a sync that returned 0 is damage, and is told; above, it
 * is the torn end of what was never acknowledged.
 */
#include "spool/replay.h"

#include <errno.h>
#include <string.h>

#include "spool/look.h"

/* ------------------------------------------------------------------ the list of segments */

struct listing {
    const char *directory;
    struct segment_list *list;
    bool failed;
};

enum header_found { HEADER_UNREADABLE = 0, HEADER_FOUND, HEADER_BAD };

static enum header_found header_at(struct look *look, uint64_t offset,
                                   struct segment_header *header)
{
    uint8_t block[BLOCK_BYTES];

    if (!look_read(look, offset, (struct span){block, sizeof block}))
        return HEADER_UNREADABLE;
    return segment_header_decode(bytes_of(block, sizeof block), header) ? HEADER_FOUND : HEADER_BAD;
}

/* Bad only when both places could be read: a disk that fails for now is no reason to give up. */
static enum header_found header_read(struct look *look, struct segment_header *header)
{
    uint64_t size = 0;

    if (!look_size(look, &size))
        return HEADER_UNREADABLE;
    if (size < 4 * BLOCK_BYTES)
        return HEADER_BAD;
    const enum header_found first = header_at(look, 0, header);
    if (first == HEADER_FOUND)
        return first;
    const enum header_found last = header_at(look, size - BLOCK_BYTES, header);
    return last == HEADER_BAD ? first : last;
}

static bool list_add(struct segment_list *list, const struct segment_header *header)
{
    if (list->count == list->room) {
        const size_t room = MAX_OF(list->room * 2, (size_t)16);
        struct found_segment *more = realloc(list->at, room * sizeof *more);
        if (!more)
            return false;
        list->at = more;
        list->room = room;
    }
    list->at[list->count++] = (struct found_segment){.header = *header};
    return true;
}

/* A name that is gone by now was recycled under a view's eyes. */
static bool list_name(void *argument, const char *name)
{
    struct listing *listing = argument;
    char path[SPOOL_PATH_MAX];
    struct segment_header header;
    struct look *look;
    int error;

    if (!bytes_ends_with_nocase(bytes_of_text(name), BYTES_LITERAL(".seg")))
        return true;
    snprintf(path, sizeof path, "%s/log/%s", listing->directory, name);
    if (!look_open(path, &look, &error)) {
        listing->failed = error != ENOENT;
        return !listing->failed;
    }
    const enum header_found found = header_read(look, &header);
    look_close(look);
    if (found == HEADER_UNREADABLE || (found == HEADER_FOUND && !list_add(listing->list, &header)))
        listing->failed = true;
    if (found == HEADER_BAD) {
        listing->list->unreadable++;
        snprintf(listing->list->bad_name, sizeof listing->list->bad_name, "%s", name);
    }
    return !listing->failed;
}

static int by_generation(const void *a, const void *b)
{
    const struct found_segment *left = a, *right = b;

    return (left->header.generation > right->header.generation) -
           (left->header.generation < right->header.generation);
}

bool segment_list_read(const char *directory, struct segment_list *list)
{
    char path[SPOOL_PATH_MAX];
    struct listing listing = {directory, list, false};
    uint64_t cut = UINT64_MAX, proven = 0;

    *list = (struct segment_list){0};
    snprintf(path, sizeof path, "%s/log", directory);
    if (!look_list(path, list_name, &listing) || listing.failed) {
        segment_list_free(list);
        return false;
    }
    if (list->count)
        qsort(list->at, list->count, sizeof *list->at, by_generation);
    for (size_t i = list->count; i-- > 0;) {
        struct found_segment *segment = &list->at[i];
        segment->cut = cut;
        segment->proven = proven;
        cut = MIN_OF(cut, segment->header.first_sequence);
        proven = segment->header.proven;
    }
    return true;
}

void segment_list_free(struct segment_list *list)
{
    free(list->at);
    *list = (struct segment_list){0};
}

/* ------------------------------------------------------------------ applying */

struct run {
    struct replay *replay;
    const struct found_segment *segment;
    uint64_t proven;     /* for this segment */
    uint64_t expected;   /* the next sequence */
    struct record first; /* of a group that is not complete yet; kind NONE: none */
    uint64_t first_offset;
    bool first_damaged;
    struct buffer first_meta;
};

static void run_damage(struct run *run, uint64_t id, struct bytes raw, const char *what)
{
    if (run->replay->damage)
        run->replay->damage(run->replay->argument, run->segment->header.generation, id, raw, what);
}

static void tell_mark(const struct replay *replay, const struct entry *entry, struct bytes encoded)
{
    struct accepted_meta meta;

    if (replay->marked && accepted_meta_decode(encoded, &meta) &&
        meta.mark.count == SPOOL_MARK_BYTES)
        replay->marked(replay->argument, entry->id, entry->accepted_wall_us, meta.mark);
}

static bool apply_accepted(struct run *run, const struct record *record, uint64_t offset,
                           struct bytes meta, bool damaged)
{
    const struct accepted accepted = {
        .id = record->id,
        .position = position_of(run->segment->header.generation, offset),
        .flags = (uint16_t)(record->flags | (damaged ? RECORD_DAMAGED : 0)),
        .body_bytes = record->body_bytes,
        .meta = meta};

    if (record->flags & RECORD_DISCARDED)
        return true;
    struct entry *entry = table_accept(run->replay->table, &accepted);
    if (!entry)
        return false;
    if (!(accepted.flags & RECORD_DAMAGED))
        tell_mark(run->replay, entry, meta);
    entry->indexed = true; /* perhaps: then its row has to follow */
    return true;
}

/* What the index does not know either has ended before. */
static bool apply_to_known(struct run *run, const struct record *record, struct bytes meta)
{
    struct replay *replay = run->replay;
    struct bytes why;
    bool held;

    if (!table_find(replay->table, record->id) &&
        replay->load(replay->argument, record->id) == LOOKUP_FAILED)
        return false;
    struct entry *entry = table_find(replay->table, record->id);
    if (!entry)
        return true;
    if (record->kind == RECORD_WITHDRAWN) {
        if (replay->marked)
            replay->marked(replay->argument, record->id, 0, BYTES_EMPTY);
        table_end(replay->table, entry);
        return true;
    }
    if (record->kind == RECORD_SETTLED)
        return table_settle(replay->table, entry, meta);
    if (!held_meta_decode(meta, &held, &why))
        return false;
    table_set_held(replay->table, entry, held);
    return true;
}

static bool apply(struct run *run, const struct record *record, uint64_t offset, struct bytes meta,
                  bool damaged)
{
    run->replay->records++;
    return record->kind == RECORD_ACCEPTED ? apply_accepted(run, record, offset, meta, damaged)
                                           : apply_to_known(run, record, meta);
}

static bool told(struct run *run, uint64_t offset, uint64_t sequence)
{
    struct replay *replay = run->replay;
    const struct index_state up_to = {
        run->segment->header.spool, position_of(run->segment->header.generation, offset), sequence};

    replay->last_sequence = MAX_OF(replay->last_sequence, sequence);
    return !replay->applied || replay->applied(replay->argument, &up_to);
}

static void group_drop(struct run *run)
{
    if (run->first.kind != RECORD_NONE && run->first.sequence <= run->proven)
        run_damage(run, run->first.id, BYTES_EMPTY, "the other record of its group is lost");
    run->first.kind = RECORD_NONE;
}

/* False: cannot go on. A good record, alone or as a part of a group. */
static bool run_record(struct run *run, const struct record *record, uint64_t offset,
                       struct bytes meta, bool damaged)
{
    const uint64_t end = offset + record_span(record);

    if (record->group_count == 1) {
        group_drop(run);
        return apply(run, record, offset, meta, damaged) && told(run, end, record->sequence);
    }
    if (record->group_index == 0) {
        group_drop(run);
        run->first = *record;
        run->first_offset = offset;
        run->first_damaged = damaged;
        buffer_clear(&run->first_meta);
        buffer_add(&run->first_meta, meta);
        return !run->first_meta.failed;
    }
    if (run->first.kind == RECORD_NONE || run->first.sequence + 1 != record->sequence) {
        group_drop(run);
        if (record->sequence <= run->proven)
            run_damage(run, record->id, BYTES_EMPTY, "the other record of its group is lost");
        return true;
    }
    const bool applied = apply(run, &run->first, run->first_offset, buffer_view(&run->first_meta),
                               run->first_damaged) &&
                         apply(run, record, offset, meta, damaged);
    run->first.kind = RECORD_NONE;
    return applied && told(run, end, record->sequence);
}

/* ------------------------------------------------------------------ one segment */

static bool source_read(void *argument, uint64_t offset, struct span into)
{
    return look_read(argument, offset, into);
}

/* The highest sequence that a later batch of the same segment, or the next segment, proves. */
static uint64_t proven_of(const struct found_segment *segment, struct scan_source source,
                          uint64_t offset)
{
    struct scan scan = SCAN_OF(&segment->header, source, offset);
    struct record record;
    struct bytes meta;
    uint64_t at, proven = MAX_OF(segment->proven, segment->header.proven);
    enum scan_status status;

    scan.headers_only = true;
    while ((status = segment_scan_next(&scan, &record, &at, &meta)) != SCAN_END)
        if (status == SCAN_RECORD && record.sequence < segment->cut)
            proven = MAX_OF(proven, record.proven);
    segment_scan_free(&scan);
    return proven;
}

/* Sequence numbers that were never met. */
static void run_gap(struct run *run, uint64_t sequence)
{
    char text[120];

    if (sequence <= run->expected)
        return;
    if (run->expected <= run->proven) {
        snprintf(text, sizeof text, "records %llu to %llu of segment %08llx are lost",
                 (unsigned long long)run->expected,
                 (unsigned long long)MIN_OF(sequence - 1, run->proven),
                 (unsigned long long)run->segment->header.generation);
        run_damage(run, 0, BYTES_EMPTY, text);
    } else if (!run->replay->torn++) {
        run->replay->proven = run->expected - 1;
    }
}

static bool run_step(struct run *run, struct scan *scan, enum scan_status status,
                     const struct record *record, uint64_t offset, struct bytes meta)
{
    if (status == SCAN_UNREADABLE) {
        run_damage(run, 0, BYTES_EMPTY, "a block of the log cannot be read");
        return run->replay->past_unreadable;
    }
    if (record->sequence >= run->segment->cut || record->sequence < run->expected)
        return true; /* cut off, or met before */
    run_gap(run, record->sequence);
    const bool proven = record->sequence <= run->proven;
    const bool whole = status == SCAN_RECORD;
    run->expected = record->sequence + 1;
    if (!whole && !proven) {
        if (!run->replay->torn++)
            run->replay->proven = record->sequence - 1;
        return true;
    }
    if (!whole)
        run_damage(run, record->id, segment_scan_payload(scan), "stored record fails its checksum");
    if (status == SCAN_DAMAGED)
        return true;
    return run_record(run, record, offset, meta, !whole);
}

static bool run_segment(struct run *run, struct look *look, uint64_t offset)
{
    const struct scan_source source = {source_read, look};
    struct scan scan = SCAN_OF(&run->segment->header, source, offset);
    struct record record = {0};
    struct bytes meta;
    enum scan_status status;
    uint64_t at = 0;
    bool goes_on = true;

    run->proven = proven_of(run->segment, source, offset);
    run->replay->torn = 0; /* only the last segment's end matters */
    while (goes_on && (status = segment_scan_next(&scan, &record, &at, &meta)) != SCAN_END)
        goes_on = run_step(run, &scan, status, &record, at, meta);
    group_drop(run);
    if (run->segment->cut != UINT64_MAX)
        run_gap(run, MIN_OF(run->segment->cut, run->proven + 1));
    segment_scan_free(&scan);
    return goes_on;
}

static bool run_file(struct run *run, uint64_t offset)
{
    char path[SPOOL_PATH_MAX];
    struct look *look;
    int error;

    segment_path(run->replay->directory, run->segment->header.generation, path, sizeof path);
    if (!look_open(path, &look, &error))
        return false;
    const bool done = run_segment(run, look, offset);
    look_close(look);
    return done;
}

bool replay_run(struct replay *replay)
{
    struct run run = {.replay = replay, .first_meta = BUFFER_WITH_LIMIT(RECORD_META_MAX)};
    const uint64_t generation = position_generation(replay->from.position);
    bool goes_on = true;

    replay->last_sequence = replay->from.sequence;
    for (size_t i = 0; goes_on && i < replay->list.count; i++) {
        run.segment = &replay->list.at[i];
        const uint64_t own = run.segment->header.generation;
        if (own < generation)
            continue;
        const bool middle = own == generation;
        run.expected = middle
                           ? MAX_OF(replay->from.sequence + 1, run.segment->header.first_sequence)
                           : run.segment->header.first_sequence;
        goes_on = run_file(&run, middle ? position_offset(replay->from.position) : BLOCK_BYTES);
    }
    if (!replay->torn)
        replay->proven = replay->last_sequence;
    buffer_free(&run.first_meta);
    return goes_on;
}
