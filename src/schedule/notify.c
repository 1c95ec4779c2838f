/*
 * Notifications to the sender (RFC 3461, 3464): who is to be told what, and the message that tells.
 * A notification has the null sender, goes through the same queue, and never causes another.
 */
#include "schedule/inside.h"

#define NOTIFY_HEADER_MAX (64 * KIB)
#define NOTIFY_WHOLE_MAX (64 * KIB)      /* given back whole unless the sender chose */
#define NOTIFY_WHOLE_ASKED_MAX (1 * MIB) /* RET=FULL */
#define NOTIFY_DIAGNOSTIC_MAX 2048

bool notify_wanted(const struct queued_message *message, const struct recipient *recipient,
                   enum dsn_action action)
{
    const struct envelope *envelope = &message->envelope;
    const unsigned notify = recipient->notify;

    if (address_is_null(envelope->from) || envelope->kind == ENVELOPE_DSN || notify & NOTIFY_NEVER)
        return false;
    switch (action) {
    case DSN_FAILED:
        return notify == NOTIFY_DEFAULT || notify & NOTIFY_FAILURE;
    case DSN_DELAYED:
        return notify == NOTIFY_DEFAULT || notify & NOTIFY_DELAY;
    case DSN_DELIVERED:
    case DSN_RELAYED:
    case DSN_EXPANDED:
        return notify & NOTIFY_SUCCESS;
    }
    return false;
}

/* The peer's enhanced code, or the one of the cause's row with the class of what happened. */
static struct bytes note_status(struct arena *arena, const struct decision *decision)
{
    const struct outcome *outcome = decision->outcome;
    const bool expired = decision->settlement.cause == CAUSE_EXPIRED;
    const enum cause cause =
        expired && outcome ? outcome->verdict.cause : decision->settlement.cause;
    const struct cause_row *row = cause_row(cause);

    if (decision->action != DSN_FAILED && decision->action != DSN_DELAYED)
        return BYTES_LITERAL("2.0.0");
    if (outcome && outcome->enhanced.count > 0)
        return outcome->enhanced;
    return arena_print(arena, "%u.%s", row->code / 100, row->enhanced);
}

static struct bytes note_explanation(const struct report *report, const struct decision *decision)
{
    const struct outcome *outcome = decision->outcome;
    const struct config_retry *retry = &report->schedule->config->retry;
    char text[64];

    if (decision->settlement.cause == CAUSE_EXPIRED && outcome)
        return arena_print(report->arena, "Not delivered within %s; at the last attempt: %s",
                           duration_print(retry->expire_after_us, text, sizeof(text)),
                           cause_row(outcome->verdict.cause)->meaning);
    return bytes_of_text(cause_row(decision->settlement.cause)->meaning);
}

/* The cause behind the decision: of an expiry, that of the last attempt. */
static enum cause note_cause(const struct decision *decision)
{
    const bool expired = decision->settlement.cause == CAUSE_EXPIRED;

    return expired && decision->outcome ? decision->outcome->verdict.cause
                                        : decision->settlement.cause;
}

static struct bytes note_side(const struct decision *decision)
{
    if (decision->action != DSN_FAILED && decision->action != DSN_DELAYED)
        return BYTES_EMPTY;
    switch (cause_row(note_cause(decision))->side) {
    case SIDE_OURS:
        return BYTES_LITERAL(
            "The fault lies with this mail system, not with you or the recipient.");
    case SIDE_THEIRS:
        return BYTES_LITERAL("The cause lies on the recipient's side or on the way there.");
    case SIDE_POLICY:
        return BYTES_LITERAL("A rule of one of the mail systems led to this.");
    }
    return BYTES_EMPTY;
}

/* "mx.example[192.0.2.1]:25" -> its name, "192.0.2.1:25" -> "[192.0.2.1]" (RFC 3464 2.3.5); a
 * socket of this host is nobody's business. */
static struct bytes note_remote(struct arena *arena, struct bytes host)
{
    const size_t bracket = bytes_find_byte(host, '[');
    const size_t port = bytes_find_last_byte(host, ':');

    if (bytes_starts_with(host, BYTES_LITERAL("unix:")) || bytes_find_byte(host, '/') < host.count)
        return BYTES_EMPTY;
    if (bracket > 0 && bracket < host.count)
        return bytes_slice(host, 0, bracket);
    if (bracket == 0)
        return bytes_slice(host, 0, port);
    return host.count > 0 ? arena_print(arena, "[%.*s]", BYTES_PRINT(bytes_slice(host, 0, port)))
                          : BYTES_EMPTY;
}

/* Only a peer's own words, or a command's, are passed on: ours may name paths of this host, so
 * where no peer spoke the catalogue's words stand in. */
static struct bytes note_diagnostic(const struct report *report, const struct decision *decision)
{
    const struct outcome *outcome = decision->outcome;

    if (outcome && (outcome->code > 0 || outcome->verdict.cause == CAUSE_PIPE_REFUSED ||
                    outcome->verdict.cause == CAUSE_PIPE_DEFERRED))
        return bytes_slice(outcome->reply, 0, NOTIFY_DIAGNOSTIC_MAX);
    if (!outcome && decision->settlement.reply.count > 0)
        return bytes_slice(decision->settlement.reply, 0, NOTIFY_DIAGNOSTIC_MAX);
    if (decision->action != DSN_FAILED && decision->action != DSN_DELAYED)
        return BYTES_EMPTY;
    return arena_print(report->arena, "%s (%s)", cause_row(note_cause(decision))->text,
                       cause_name(note_cause(decision)));
}

static void note_fill(const struct report *report, const struct decision *decision,
                      struct dsn_recipient *note)
{
    const struct envelope *envelope = &report->message->envelope;
    const struct recipient *recipient = &envelope->recipients[decision->settlement.recipient];
    const struct outcome *outcome = decision->outcome;
    const bool succeeded = decision->action != DSN_FAILED && decision->action != DSN_DELAYED;
    const char *advice = cause_row(decision->settlement.cause)->advice;

    *note =
        (struct dsn_recipient){.final = recipient->address,
                               .original = recipient->original,
                               .action = decision->action,
                               .status = note_status(report->arena, decision),
                               .cause_name = bytes_of_text(cause_name(decision->settlement.cause)),
                               .explanation = note_explanation(report, decision),
                               .side = note_side(decision),
                               .advice = succeeded ? BYTES_EMPTY : bytes_of_text(advice),
                               .diagnostic = note_diagnostic(report, decision),
                               .last_attempt_wall_us = decision->settlement.attempt_wall_us};
    if (outcome && outcome->stage != STAGE_MAILBOX && outcome->stage != STAGE_COMMIT)
        note->remote_mta = note_remote(report->arena, outcome->host);
    if (decision->action == DSN_DELAYED)
        note->retry_until_wall_us =
            envelope->accepted_wall_us + (int64_t)report->schedule->config->retry.expire_after_us;
}

static struct dsn_recipient *notes_make(const struct report *report, uint32_t *count)
{
    struct dsn_recipient *notes =
        ARENA_NEW_ARRAY(report->arena, report->count, struct dsn_recipient);

    *count = 0;
    for (uint32_t i = 0; notes && i < report->count; i++) {
        if (report->decisions[i].tells)
            note_fill(report, &report->decisions[i], &notes[(*count)++]);
    }
    return notes;
}

/* ------------------------------------------------------------------ what is given back */

static bool whole_wanted(const struct report *report)
{
    const struct queued_message *message = report->message;
    const uint64_t most =
        message->envelope.dsn_return == RETURN_FULL ? NOTIFY_WHOLE_ASKED_MAX : NOTIFY_WHOLE_MAX;

    if (message->envelope.dsn_return == RETURN_HEADERS || message->size_bytes > most)
        return false;
    for (uint32_t i = 0; i < report->count; i++) {
        if (report->decisions[i].tells && report->decisions[i].action == DSN_FAILED)
            return true;
    }
    return false;
}

/* A body that cannot be read must not keep the sender from being told: then nothing is given back.
 */
static bool original_read(const struct report *report, struct buffer *original)
{
    CLEANUP(spool_body_close) struct spool_body *body = NULL;
    const struct verdict opened =
        spool_body_open(report->schedule->spool, report->message->id, &body);
    const bool whole = whole_wanted(report);

    if (!verdict_accepts(&opened))
        return false;
    const uint64_t size = spool_body_size(body);
    const uint64_t most = whole ? size : MIN_OF(size, NOTIFY_HEADER_MAX);
    while (original->count < most) {
        const size_t room = (size_t)MIN_OF(most - original->count, 64 * KIB);
        uint8_t *at = buffer_reserve(original, room);
        const struct io_result got =
            at ? spool_body_read(body, (struct span){at, room}, original->count) : io_failed(0);
        if (got.status != IO_OK || got.count == 0) {
            buffer_clear(original);
            return false;
        }
        buffer_claim(original, got.count);
    }
    if (!whole)
        original->count = header_end(buffer_view(original));
    return whole;
}

/* ------------------------------------------------------------------ the message */

static struct verdict note_envelope(const struct report *report, struct address to_whom,
                                    struct bytes text, struct envelope *envelope)
{
    bool is_8bit = false;

    for (size_t i = 0; i < text.count && !is_8bit; i++)
        is_8bit = text.at[i] >= 0x80;
    *envelope = (struct envelope){.kind = ENVELOPE_DSN,
                                  .body = is_8bit ? BODY_8BITMIME : BODY_7BIT,
                                  .smtputf8 = !address_is_ascii(to_whom),
                                  .accepted_wall_us = clock_wall_us()};
    return deliver_expand(report->schedule->deliver, report->arena, to_whom, envelope);
}

static struct verdict note_write(const struct report *report, struct dsn *dsn,
                                 struct spool_draft **draft, struct envelope *envelope)
{
    CLEANUP(buffer_free) struct buffer text = BUFFER_WITH_LIMIT(32 * MIB);

    *draft = spool_draft_open(report->schedule->spool);
    if (!*draft)
        return verdict_of(CAUSE_LOCAL_FAILED);
    dsn->own_message = spool_draft_id(*draft);
    dsn_print(&text, dsn);
    if (text.failed)
        return verdict_of(CAUSE_LOCAL_FAILED);
    REQUIRE(note_envelope(report, dsn->to, buffer_view(&text), envelope));
    return spool_draft_write(*draft, buffer_view(&text));
}

/* The recipients of a report have it in common. */
static struct address report_return_path(const struct report *report)
{
    const struct envelope *envelope = &report->message->envelope;

    return envelope_return_path(envelope,
                                &envelope->recipients[report->decisions[0].settlement.recipient]);
}

struct verdict notify_prepare(const struct report *report, struct spool_draft **draft,
                              struct envelope *envelope)
{
    CLEANUP(buffer_free) struct buffer original = BUFFER_WITH_LIMIT(2 * MIB);
    const struct envelope *about = &report->message->envelope;
    uint32_t count = 0;
    const struct dsn_recipient *notes = notes_make(report, &count);

    if (!notes)
        return verdict_of(CAUSE_LOCAL_FAILED);
    if (count == 0)
        return verdict_accept();
    const bool whole = original_read(report, &original);
    struct dsn dsn = {.hostname = report->schedule->config->hostname,
                      .message = report->message->id,
                      .to = report_return_path(report),
                      .envelope_id = about->envelope_id,
                      .arrival_wall_us = about->accepted_wall_us,
                      .now_wall_us = clock_wall_us(),
                      .recipients = notes,
                      .recipient_count = count,
                      .original = buffer_view(&original),
                      .original_is_whole = whole,
                      .smtputf8 = about->smtputf8};
    return note_write(report, &dsn, draft, envelope);
}
