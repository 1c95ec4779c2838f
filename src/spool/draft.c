/*
 * A draft: the body in memory up to inline_body_bytes, beyond that in an extent spool/body/ID that
 * grows while the client sends. A session's memory stays bounded by the head and the tail buffer.
 */
#include "spool/inside.h"

#include <errno.h>
#include <string.h>
#include <xxhash.h>

#define TAIL_BYTES (256 * KIB)
#define FRONT_MOST (256 * KIB)

void draft_path(const struct spool *spool, uint64_t id, char *into, size_t room)
{
    char text[ID_TEXT_MAX];

    snprintf(into, room, "%s/body/%s", spool->directory, id_print(id, text, sizeof text));
}

struct spool_draft *spool_draft_open(struct spool *spool)
{
    struct spool_draft *draft = calloc(1, sizeof *draft);

    if (!draft)
        return NULL;
    *draft = (struct spool_draft){
        .spool = spool,
        .id = __atomic_fetch_add(&spool->next_id, 1, __ATOMIC_RELAXED),
        .references = 1,
        .body = BUFFER_WITH_LIMIT(MAX_OF(spool->inline_body_bytes, HEAD_BYTES)),
        .tail = BUFFER_WITH_LIMIT(TAIL_BYTES),
    };
    return draft;
}

uint64_t spool_draft_id(const struct spool_draft *draft)
{
    return draft->id;
}

/* ------------------------------------------------------------------ the extent */

uint64_t extent_checksum(const struct spool_draft *draft)
{
    return draft->extent ? XXH3_64bits_digest(draft->checksum) : 0;
}

static struct verdict disk_verdict(struct spool_draft *draft, struct io_result result)
{
    if (result.status == IO_OK)
        return verdict_accept();
    draft->failed = true;
    if (result.error == ENOSPC || result.error == EDQUOT)
        return verdict_of(CAUSE_SPOOL_FULL);
    if (result.status == IO_FAILED) /* `status` has to know, though the log may be well */
        spool_set_fault(draft->spool, "body: %s", io_result_text(result));
    return verdict_of(CAUSE_SPOOL_FAILED);
}

static struct verdict tail_write(struct spool_draft *draft)
{
    const struct bytes tail = buffer_view(&draft->tail);
    const struct io_result written = file_write_at(draft->extent, &tail, 1, draft->extent_bytes);

    if (written.status == IO_OK) {
        draft->extent_bytes += tail.count;
        buffer_clear(&draft->tail);
    }
    return disk_verdict(draft, written);
}

MUST_USE static struct verdict extent_write(struct spool_draft *draft, struct bytes bytes)
{
    if (bytes.count)
        XXH3_64bits_update(draft->checksum, bytes.at, bytes.count);
    while (bytes.count) {
        const size_t part = MIN_OF(bytes.count, TAIL_BYTES - draft->tail.count);
        buffer_add(&draft->tail, bytes_slice(bytes, 0, part));
        bytes = bytes_skip(bytes, part);
        if (draft->tail.failed) {
            draft->failed = true;
            return verdict_of(CAUSE_SERVER_BUSY);
        }
        if (draft->tail.count == TAIL_BYTES)
            REQUIRE(tail_write(draft));
    }
    return verdict_accept();
}

/* What was inline so far becomes the extent's beginning. */
MUST_USE static struct verdict extent_begin(struct spool_draft *draft)
{
    char path[SPOOL_PATH_MAX];

    draft_path(draft->spool, draft->id, path, sizeof path);
    if (!draft->checksum)
        draft->checksum = XXH3_createState();
    if (!draft->checksum)
        return verdict_of(CAUSE_SERVER_BUSY);
    XXH3_64bits_reset(draft->checksum);
    REQUIRE(disk_verdict(draft, file_open(path, FILE_WRITE | FILE_NEW, &draft->extent)));
    const struct verdict begun = extent_write(draft, buffer_view(&draft->body));
    draft->body.count = MIN_OF(draft->body.count, HEAD_BYTES);
    return begun;
}

/* ------------------------------------------------------------------ writing */

struct verdict spool_draft_write(struct spool_draft *draft, struct bytes bytes)
{
    if (draft->failed || draft->committed)
        return verdict_of(CAUSE_SPOOL_FAILED);
    if (!draft->extent && draft->body.count + bytes.count > draft->spool->inline_body_bytes)
        REQUIRE(extent_begin(draft));
    if (draft->extent) {
        const size_t head = HEAD_BYTES - MIN_OF(draft->body.count, HEAD_BYTES);
        buffer_add(&draft->body, bytes_slice(bytes, 0, head));
        REQUIRE(extent_write(draft, bytes));
    } else {
        buffer_add(&draft->body, bytes);
    }
    if (!draft->body.failed)
        return verdict_accept();
    draft->failed = true;
    return verdict_of(CAUSE_SERVER_BUSY);
}

struct verdict spool_draft_prepend(struct spool_draft *draft, struct bytes bytes)
{
    struct prepended *front = NULL;

    if (draft->front_bytes + bytes.count <= FRONT_MOST)
        front = malloc(sizeof *front + bytes.count);
    if (!front)
        return verdict_of(CAUSE_SERVER_BUSY);
    uint8_t *const at = (uint8_t *)(front + 1);
    if (bytes.count)
        memcpy(at, bytes.at, bytes.count);
    *front = (struct prepended){draft->front, {at, bytes.count}};
    draft->front = front;
    draft->front_bytes += bytes.count;
    return verdict_accept();
}

/* ------------------------------------------------------------------ reading back */

static uint64_t written_bytes(const struct spool_draft *draft)
{
    return draft->extent ? draft->extent_bytes + draft->tail.count : draft->body.count;
}

uint64_t spool_draft_size(const struct spool_draft *draft)
{
    return written_bytes(draft) + draft->front_bytes;
}

static struct io_result read_memory(struct span into, struct bytes from, uint64_t offset)
{
    const struct bytes part = bytes_slice(from, (size_t)offset, into.count);

    memcpy(into.at, part.at, part.count);
    return io_ok(part.count);
}

struct io_result spool_draft_read(struct spool_draft *draft, struct span into, uint64_t offset)
{
    if (offset >= written_bytes(draft))
        return io_status_only(IO_END);
    if (into.count == 0)
        return io_ok(0);
    if (offset < draft->body.count)
        return read_memory(into, buffer_view(&draft->body), offset);
    if (offset >= draft->extent_bytes)
        return read_memory(into, buffer_view(&draft->tail), offset - draft->extent_bytes);
    into.count = (size_t)MIN_OF(into.count, draft->extent_bytes - offset);
    return file_read_at(draft->extent, into, offset);
}

struct bytes spool_draft_head(const struct spool_draft *draft)
{
    return bytes_slice(buffer_view(&draft->body), 0, HEAD_BYTES);
}

/* ------------------------------------------------------------------ starting anew and closing */

static void extent_end(struct spool_draft *draft, bool keep)
{
    char path[SPOOL_PATH_MAX];

    if (!draft->extent)
        return;
    file_close(draft->extent);
    draft->extent = NULL;
    if (keep)
        return;
    const bool masked = fiber_mask_cancel(true);
    draft_path(draft->spool, draft->id, path, sizeof path);
    const struct io_result removed = disk_remove(path);
    if (removed.status != IO_OK) /* the sweep at the next opening finds it */
        observe_note(LOG_WARNING, "spool", "%s: %s", path, io_result_text(removed));
    fiber_mask_cancel(masked);
}

struct verdict spool_draft_restart(struct spool_draft *draft)
{
    if (draft->committed)
        return verdict_of(CAUSE_SPOOL_FAILED);
    extent_end(draft, false);
    buffer_clear(&draft->body);
    buffer_clear(&draft->tail);
    draft->extent_bytes = 0;
    draft->failed = false;
    return verdict_accept();
}

void draft_release(struct spool_draft *draft)
{
    pthread_mutex_lock(&draft->spool->lock);
    const bool last = --draft->references == 0;
    pthread_mutex_unlock(&draft->spool->lock);
    if (!last)
        return;
    extent_end(draft, draft->committed);
    while (draft->front) {
        struct prepended *front = draft->front;
        draft->front = front->next;
        free(front);
    }
    if (draft->checksum)
        XXH3_freeState(draft->checksum);
    buffer_free(&draft->body);
    buffer_free(&draft->tail);
    free(draft);
}

void spool_draft_close(struct spool_draft **draft)
{
    if (*draft)
        draft_release(*draft);
    *draft = NULL;
}
