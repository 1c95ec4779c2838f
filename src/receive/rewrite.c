/*
 * A message that filters changed, on its way to the spool: bodies that they send stand in drafts of
 * their own, and what is committed in the end is a draft written anew, header and body.
 *
 * Sleeps: on the disk. Fails: by a verdict; the message that came is still there until all of the
 * new one is written.
 */
#include <errno.h>

#include "receive/session.h"

enum { COPY_BYTES = 64 * 1024 };

/* ------------------------------------------------------------------ bodies from filters */

static struct spool_draft *body_draft(struct session *session)
{
    struct intake *intake = &session->intake;

    if (intake->body_open)
        return intake->bodies[intake->body_count - 1];
    if (intake->body_count == BODIES_MAX)
        return NULL;
    struct spool_draft *draft = spool_draft_open(session->receive->settings.spool);
    if (!draft)
        return NULL;
    intake->bodies[intake->body_count++] = draft;
    intake->body_open = true;
    return draft;
}

static struct io_result body_write(void *argument, struct bytes piece)
{
    struct session *session = argument;
    struct spool_draft *draft = body_draft(session);
    const uint64_t limit = session->config->limits.message_size;

    if (!draft)
        return io_failed(ENOMEM);
    if (limit > 0 && spool_draft_size(draft) + piece.count > limit)
        return io_failed(EFBIG);
    const struct verdict written = spool_draft_write(draft, piece);
    return verdict_accepts(&written) ? io_ok(piece.count) : io_failed(EIO);
}

static bool body_begin(void *argument, struct message_sink *sink)
{
    struct session *session = argument;

    session->intake.body_open = false;
    *sink = (struct message_sink){body_write, session};
    return true;
}

static struct io_result body_read(void *draft, struct span into, uint64_t offset)
{
    return draft ? spool_draft_read(draft, into, offset) : io_status_only(IO_END);
}

static struct message_source body_end(void *argument)
{
    struct intake *intake = &((struct session *)argument)->intake;
    struct spool_draft *draft = intake->body_open ? intake->bodies[intake->body_count - 1] : NULL;

    intake->body_open = false;
    return (struct message_source){body_read, draft, draft ? spool_draft_size(draft) : 0};
}

struct body_store rewrite_store(struct session *session)
{
    return (struct body_store){body_begin, body_end, session};
}

void rewrite_close(struct intake *intake)
{
    while (intake->body_count > 0)
        spool_draft_close(&intake->bodies[--intake->body_count]);
    intake->body_open = false;
}

/* ------------------------------------------------------------------ the new message */

MUST_USE static struct verdict copy_with(struct spool_draft *draft,
                                         const struct message_source *body, struct span memory)
{
    for (uint64_t offset = 0; offset < body->size_bytes;) {
        const struct span room = {memory.at,
                                  (size_t)MIN_OF(memory.count, body->size_bytes - offset)};
        const struct io_result got = body->read(body->argument, room, offset);

        if (got.status != IO_OK || got.count == 0)
            return verdict_with(CAUSE_SPOOL_FAILED, BYTES_LITERAL("a body could not be read"));
        REQUIRE(spool_draft_write(draft, bytes_of(memory.at, got.count)));
        offset += got.count;
    }
    return verdict_accept();
}

MUST_USE static struct verdict copy_body(struct spool_draft *draft,
                                         const struct message_source *body)
{
    const struct span memory = {malloc(COPY_BYTES), COPY_BYTES};

    if (!memory.at)
        return verdict_of(CAUSE_SERVER_BUSY);
    const struct verdict copied = copy_with(draft, body, memory);
    free(memory.at);
    return copied;
}

/* What came, when nothing of it was changed. */
MUST_USE static struct verdict write_new(const struct session *session, struct spool_draft *draft)
{
    const struct message_rewrite *rewrite = &session->transaction.rewrite;
    struct spool_draft *came = session->intake.draft;
    const struct message_source whole = {body_read, came, spool_draft_size(came)};

    if (!rewrite->changed)
        return copy_body(draft, &whole);
    REQUIRE(spool_draft_write(draft, rewrite->header));
    return copy_body(draft, rewrite->body);
}

struct verdict rewrite_copy(struct session *session, struct spool_draft **former)
{
    CLEANUP(spool_draft_close)
    struct spool_draft *draft = spool_draft_open(session->receive->settings.spool);

    if (!draft)
        return verdict_of(CAUSE_SPOOL_FAILED);
    REQUIRE(write_new(session, draft));
    *former = session->intake.draft;
    session->intake.draft = draft;
    session->transaction.message = spool_draft_id(draft);
    session->transaction.rewrite.changed = false; /* it is written; `above` is still to come */
    draft = NULL;
    return verdict_accept();
}

struct verdict rewrite_apply(struct session *session)
{
    struct spool_draft *former = NULL;

    if (!session->transaction.rewrite.changed)
        return verdict_accept();
    REQUIRE(rewrite_copy(session, &former));
    spool_draft_close(&former);
    return verdict_accept();
}
