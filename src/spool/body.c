/*
 * Bodies for delivery. The checksum over all of a body is verified before its first byte is given
 * out: a damaged message is named, set aside and never sent cut.
 */
#include "spool/inside.h"

#include <errno.h>
#include <string.h>
#include <xxhash.h>

#define EXTENT_STEP (256 * KIB)

struct spool_body {
    struct buffer inline_part; /* what stands in the log */
    struct file *extent;       /* what follows, or NULL */
    uint64_t extent_bytes;
};

struct segment *segment_hold(struct spool *spool, const struct entry *entry, uint64_t *position)
{
    pthread_mutex_lock(&spool->lock);
    *position = entry->position; /* a copy forward may move it at any time */
    struct segment *segment = segment_find(spool->table.segments, position_generation(*position));
    if (segment)
        segment->readers++;
    pthread_mutex_unlock(&spool->lock);
    return segment;
}

void segment_let_go(struct spool *spool, struct segment *segment)
{
    pthread_mutex_lock(&spool->lock);
    segment->readers--;
    pthread_mutex_unlock(&spool->lock);
}

/* ------------------------------------------------------------------ damage */

static void damage_write(struct spool *spool, const char *path, struct bytes raw)
{
    CLEANUP(file_close_ptr) struct file *file = NULL;
    char folder[SPOOL_PATH_MAX];
    const struct io_result opened = file_open(path, FILE_WRITE | FILE_CREATE, &file);
    const struct io_result written =
        opened.status == IO_OK ? file_write_at(file, &raw, 1, 0) : opened;

    snprintf(folder, sizeof folder, "%s/damaged", spool->directory);
    if (written.status != IO_OK || file_sync(file).status != IO_OK ||
        disk_sync_directory(folder).status != IO_OK)
        observe_note(LOG_ERROR, "spool", "%s: cannot be set aside", path);
}

void damage_set_aside(struct spool *spool, uint64_t id, struct bytes raw, const char *what)
{
    char path[SPOOL_PATH_MAX], text[ID_TEXT_MAX];

    snprintf(path, sizeof path, "%s/damaged/%s", spool->directory, id_print(id, text, sizeof text));
    if (raw.count)
        damage_write(spool, path, raw);
    observe_event(&(struct event){.kind = EVENT_MESSAGE_DAMAGED,
                                  .message = id,
                                  .verdict = verdict_of(CAUSE_BODY_DAMAGED),
                                  .has_verdict = true,
                                  .text = bytes_of_text(what)});
}

/* ------------------------------------------------------------------ reading a record back */

static bool read_exactly(struct file *file, uint64_t offset, struct buffer *into, size_t count)
{
    buffer_clear(into);
    if (count == 0)
        return true;
    uint8_t *memory = buffer_reserve(into, count);
    if (!memory)
        return false;
    const struct io_result got = file_read_at(file, (struct span){memory, count}, offset);
    buffer_claim(into, got.status == IO_OK ? got.count : 0);
    return into->count == count;
}

enum body_read body_load(struct segment *segment, uint64_t offset, struct record *record,
                         struct buffer *body)
{
    if (!read_exactly(segment->file, offset, body, RECORD_HEADER_BYTES))
        return BODY_UNREADABLE;
    if (!record_decode(buffer_view(body), &segment->header, record))
        return BODY_IS_DAMAGED;
    if (!read_exactly(segment->file, offset + RECORD_HEADER_BYTES + record->meta_bytes, body,
                      record->body_bytes))
        return BODY_UNREADABLE;
    return record_checksum(&segment->header, buffer_view(body)) == record->body_checksum
               ? BODY_READ
               : BODY_IS_DAMAGED;
}

/* ------------------------------------------------------------------ opening */

static enum body_read extent_check(struct file *file, const struct entry *entry)
{
    struct buffer part = BUFFER_WITH_LIMIT(EXTENT_STEP);
    XXH3_state_t *const state = XXH3_createState();
    enum body_read read = state ? BODY_READ : BODY_UNREADABLE;

    if (state)
        XXH3_64bits_reset(state);
    for (uint64_t at = 0; read == BODY_READ && at < entry->extent_bytes; at += part.count) {
        const size_t step = (size_t)MIN_OF(EXTENT_STEP, entry->extent_bytes - at);
        struct file_facts facts;
        if (read_exactly(file, at, &part, step))
            XXH3_64bits_update(state, part.at, part.count);
        else
            read =
                file_facts(file, &facts).status == IO_OK && facts.size_bytes < entry->extent_bytes
                    ? BODY_IS_DAMAGED
                    : BODY_UNREADABLE;
    }
    if (read == BODY_READ && XXH3_64bits_digest(state) != entry->extent_checksum)
        read = BODY_IS_DAMAGED;
    XXH3_freeState(state);
    buffer_free(&part);
    return read;
}

static enum body_read extent_open(struct spool *spool, const struct entry *entry,
                                  struct spool_body *body)
{
    char path[SPOOL_PATH_MAX];

    if (entry->extent_bytes == 0)
        return BODY_READ;
    draft_path(spool, entry->id, path, sizeof path);
    const struct io_result opened = file_open(path, FILE_READ, &body->extent);
    if (opened.status != IO_OK)
        return opened.error == ENOENT ? BODY_IS_DAMAGED : BODY_UNREADABLE;
    body->extent_bytes = entry->extent_bytes;
    return extent_check(body->extent, entry);
}

static enum body_read body_fill(struct spool *spool, const struct entry *entry,
                                struct spool_body *body)
{
    struct record record;
    uint64_t position;

    if (entry->damaged)
        return BODY_IS_DAMAGED;
    struct segment *segment = segment_hold(spool, entry, &position);
    if (!segment)
        return BODY_IS_DAMAGED;
    const enum body_read read =
        body_load(segment, position_offset(position), &record, &body->inline_part);
    segment_let_go(spool, segment);
    if (read != BODY_READ)
        return read;
    return record.id == entry->id ? extent_open(spool, entry, body) : BODY_IS_DAMAGED;
}

static void note_damaged(struct spool *spool, struct entry *entry, struct bytes raw)
{
    pthread_mutex_lock(&spool->lock);
    const bool first = !entry->damaged;
    entry->damaged = true;
    pthread_mutex_unlock(&spool->lock);
    if (first)
        damage_set_aside(spool, entry->id, raw, "stored body fails its checksum");
}

struct verdict spool_body_open(struct spool *spool, uint64_t id, struct spool_body **body)
{
    struct entry *entry;
    const enum lookup_status status = entry_pin(spool, id, deadline_in(30 * US_PER_S), &entry);

    *body = NULL;
    if (status != LOOKUP_FOUND)
        return verdict_of(CAUSE_SPOOL_FAILED);
    struct spool_body *opened = calloc(1, sizeof *opened);
    enum body_read read = BODY_UNREADABLE;
    if (opened) {
        opened->inline_part = BUFFER_WITH_LIMIT(RECORD_BODY_MAX);
        read = body_fill(spool, entry, opened);
    }
    if (read == BODY_IS_DAMAGED)
        note_damaged(spool, entry, buffer_view(&opened->inline_part));
    entry_unpin(spool, entry);
    if (read == BODY_READ)
        *body = opened;
    else if (opened)
        spool_body_close(&opened);
    return read == BODY_READ
               ? verdict_accept()
               : verdict_of(read == BODY_IS_DAMAGED ? CAUSE_BODY_DAMAGED : CAUSE_SPOOL_FAILED);
}

uint64_t spool_body_size(const struct spool_body *body)
{
    return body->inline_part.count + body->extent_bytes;
}

struct io_result spool_body_read(struct spool_body *body, struct span into, uint64_t offset)
{
    if (offset >= spool_body_size(body))
        return io_status_only(IO_END);
    if (offset >= body->inline_part.count)
        return file_read_at(body->extent, into, offset - body->inline_part.count);
    const struct bytes part =
        bytes_slice(buffer_view(&body->inline_part), (size_t)offset, into.count);
    memcpy(into.at, part.at, part.count);
    return io_ok(part.count);
}

void spool_body_close(struct spool_body **body)
{
    if (!*body)
        return;
    if ((*body)->extent)
        file_close((*body)->extent);
    buffer_free(&(*body)->inline_part);
    free(*body);
    *body = NULL;
}
