/*
 * A body on its way into a draft: DATA or chunks of BDAT.
 *
 * Whatever speaks against the message is kept, and reading goes on to its true end, so that the
 * session stays in step and nothing of a body is ever taken for a command. Not for ever, though:
 * beyond twice the size limit (and a little) the objection is said at once and the connection is
 * closed.
 *
 * Sleeps: on the client and on the draft's disk. Fails: by a verdict.
 */
#include "receive/session.h"

enum {
    SLOWEST_BYTES_PER_S = 64, /* on average, once `data_timeout` has passed */
    BEYOND_REASON_BYTES = 1024 * 1024,
};

struct verdict intake_open(struct session *session)
{
    struct spool *spool = session->receive->settings.spool;
    struct intake *intake = &session->intake;

    intake_close(session);
    REQUIRE(spool_admits(spool, 0));
    intake->draft = spool_draft_open(spool);
    if (!intake->draft)
        return verdict_of(CAUSE_SPOOL_FAILED);
    session->transaction.message = spool_draft_id(intake->draft);
    REQUIRE(policy_body_begin(&session->transaction));
    fingerprint_begin(session);
    if (session->config->filter_count > 0) {
        intake->digest = digest_open(DIGEST_SHA256);
        if (!intake->digest)
            return verdict_of(CAUSE_SERVER_BUSY);
    }
    return verdict_accept();
}

void intake_close(struct session *session)
{
    rewrite_close(&session->intake);
    digest_close(&session->intake.digest);
    fingerprint_close(&session->intake);
    spool_draft_close(&session->intake.draft);
    session->intake = (struct intake){0};
}

void intake_resume(struct session *session)
{
    session->intake.begin_us = clock_now_us();
    session->intake.begin_count = session->intake.count;
}

void intake_object(struct session *session, enum cause cause)
{
    struct intake *intake = &session->intake;

    if (!intake->objected)
        intake->objection = verdict_of(cause);
    intake->objected = true;
}

struct verdict intake_verdict(const struct session *session)
{
    return session->intake.objected ? session->intake.objection : verdict_accept();
}

bool intake_beyond_reason(const struct session *session, uint64_t more)
{
    const uint64_t limit = session->config->limits.message_size;

    return limit > 0 && more > 2 * limit + BEYOND_REASON_BYTES -
                                   MIN_OF(session->intake.count, 2 * limit + BEYOND_REASON_BYTES);
}

/* What policy lets into the draft. */
static void intake_keep(struct intake *intake, struct bytes piece)
{
    if (piece.count == 0)
        return;
    const struct verdict written = spool_draft_write(intake->draft, piece);
    if (!verdict_accepts(&written)) {
        intake->objection = written;
        intake->objected = true;
        return;
    }
    fingerprint_add(intake, piece);
    if (intake->digest)
        digest_add(intake->digest, piece);
}

void intake_add(struct session *session, struct bytes piece)
{
    struct intake *intake = &session->intake;
    const uint64_t limit = session->config->limits.message_size;

    intake->count += piece.count;
    if (limit > 0 && intake->count > limit)
        intake_object(session, CAUSE_MESSAGE_TOO_BIG);
    if (intake->objected || piece.count == 0)
        return;
    if (!policy_body_add(&session->transaction, piece, &piece))
        intake_object(session, CAUSE_SERVER_BUSY);
    else
        intake_keep(intake, piece);
}

void intake_end(struct session *session)
{
    struct bytes rest = BYTES_EMPTY;

    dialogue_message(&session->dialogue, session->intake.count, "");
    if (session->intake.objected)
        return;
    if (!policy_body_end(&session->transaction, &rest))
        intake_object(session, CAUSE_SERVER_BUSY);
    else
        intake_keep(&session->intake, rest);
}

/* A block may take `data_timeout`, and the whole must not fall under the slowest rate. */
static uint64_t intake_deadline(const struct session *session)
{
    const struct intake *intake = &session->intake;
    const uint64_t patience = session->config->limits.data_timeout_us;
    const uint64_t earned = (intake->count - intake->begin_count) * US_PER_S / SLOWEST_BYTES_PER_S;

    return MIN_OF(session_deadline(session, patience), intake->begin_us + patience + earned);
}

/* Why the body ended before its end; nobody but a timed out client is there to read it. */
MUST_USE static struct verdict intake_broken(struct session *session, enum wire_status status)
{
    session->closing = true;
    switch (status) {
    case WIRE_TIMEOUT:
        return verdict_of(CAUSE_CLIENT_IDLE);
    case WIRE_CANCELLED:
        return verdict_of(CAUSE_SERVER_STOPPING);
    case WIRE_END:
    case WIRE_FAILED:
        session->lost = true;
        return verdict_of(CAUSE_CLIENT_LOST);
    case WIRE_OK:
    case WIRE_TOO_LONG:
    case WIRE_MALFORMED:
        break;
    }
    return verdict_of(CAUSE_UNDECIDED);
}

/* More than anybody sends by mistake: the objection is final and the connection with it. */
MUST_USE static struct verdict intake_give_up(struct session *session)
{
    session->closing = true;
    intake_object(session, CAUSE_MESSAGE_TOO_BIG);
    return intake_verdict(session);
}

struct verdict intake_read_data(struct session *session)
{
    struct wire_data data = WIRE_DATA_OF(&session->input);

    intake_resume(session);
    while (!data.ended) {
        struct bytes piece = BYTES_EMPTY;
        const bool masked = fiber_mask_cancel(false);
        const enum wire_status status = wire_read_data(&data, intake_deadline(session), &piece);
        fiber_mask_cancel(masked);
        if (status != WIRE_OK)
            return intake_broken(session, status);
        if (data.malformed)
            intake_object(session, CAUSE_MESSAGE_MALFORMED);
        intake_add(session, piece);
        if (!data.ended && intake_beyond_reason(session, 1))
            return intake_give_up(session);
    }
    return verdict_accept();
}

/* Chunks carry text as DATA does: a CR or LF alone, or NUL, has no place in them (BINARYMIME is not
 * offered), and refusing it here is what keeps it from any next hop. */
static bool chunk_is_text(struct intake *intake, struct bytes piece)
{
    bool after_cr = intake->after_cr;

    for (size_t i = 0; i < piece.count; i++) {
        const uint8_t octet = piece.at[i];
        if ((octet == '\n') != after_cr || octet == '\0')
            return false;
        after_cr = octet == '\r';
    }
    intake->after_cr = after_cr;
    return true;
}

struct verdict intake_read_chunk(struct session *session, uint64_t octets)
{
    struct intake *intake = &session->intake;

    intake_resume(session);
    if (intake_beyond_reason(session, octets))
        return intake_give_up(session);
    while (octets > 0) {
        struct bytes piece = BYTES_EMPTY;
        if (!wire_input_pending(&session->input))
            session_flush(session);
        const bool masked = fiber_mask_cancel(false);
        const enum wire_status status =
            wire_read_raw(&session->input, (size_t)MIN_OF(octets, (uint64_t)WIRE_BUFFER_BYTES),
                          intake_deadline(session), &piece);
        fiber_mask_cancel(masked);
        if (status != WIRE_OK)
            return intake_broken(session, status);
        if (!intake->objected && !chunk_is_text(intake, piece))
            intake_object(session, CAUSE_MESSAGE_MALFORMED);
        intake_add(session, piece);
        octets -= piece.count;
    }
    return verdict_accept();
}
