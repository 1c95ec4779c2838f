/*
 * Replies and the journal. Replies are collected and leave in one write before the session waits
 * for input (RFC 2920 3.2). Objections are printed from their verdict alone, so code, enhanced code
 * and cause always agree.
 *
 * Sleeps: session_flush only. Fails: a write that fails marks the session lost.
 */
#include <stdarg.h>

#include "receive/session.h"

enum {
    OUTPUT_LIMIT_BYTES = 64 * 1024,
    OUTPUT_FLUSH_BYTES = 8 * 1024, /* a client that never reads is met by back-pressure here */
    REPLY_WRITE_SECONDS = 60,
};

void session_say(struct session *session, const char *format, ...)
{
    char text[VERDICT_REPLY_MAX];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (session->output.count >= OUTPUT_FLUSH_BYTES)
        session_flush(session);
    session->output.limit_bytes = OUTPUT_LIMIT_BYTES;
    if (!session->output.at && buffer_reserve(&session->output, VERDICT_REPLY_MAX) == NULL)
        session->lost = true;
    buffer_add_text(&session->output, text);
    buffer_add_text(&session->output, "\r\n");
    dialogue_line(&session->dialogue, DIALOGUE_US, bytes_of_text(text));
    session->answered = true;
}

void session_flush(struct session *session)
{
    /* Half a reply would put the client out of step: better none and a closed connection. */
    if (session->output.failed)
        session->lost = true;
    if (session->output.count > 0 && !session->lost && session->stream) {
        const struct io_result written =
            stream_write(session->stream, buffer_view(&session->output),
                         deadline_in(REPLY_WRITE_SECONDS * US_PER_S));
        if (written.status != IO_OK)
            session->lost = true;
    }
    buffer_free(&session->output);
}

/* As the client named it, before aliases. */
static struct address recipient_as_asked(const struct recipient *recipient)
{
    return address_is_null(recipient->asked) ? recipient->address : recipient->asked;
}

/* What the others are told to the ledger as, when all recipients share one answer. */
static bool kind_for_others(enum event_kind kind, enum event_kind *others)
{
    if (kind == EVENT_MESSAGE_ACCEPTED)
        *others = EVENT_RECIPIENT_ACCEPTED;
    else if (kind == EVENT_MESSAGE_DEFERRED)
        *others = EVENT_RECIPIENT_DEFERRED;
    else if (kind == EVENT_MESSAGE_REFUSED)
        *others = EVENT_RECIPIENT_REFUSED;
    else
        return false;
    return true;
}

/* One answer to all recipients: the first is in the journal's line, the others are told to the
 * ledger alone, which keeps an account of each. */
static void session_tell_others(const struct session *session, struct event event)
{
    const struct envelope *envelope = &session->transaction.envelope;
    struct buffer to = BUFFER_WITH_LIMIT(2 * MAIL_ADDRESS_MAX);

    const bool shared = kind_for_others(event.kind, &event.kind);
    for (uint32_t i = 1; shared && i < envelope->recipient_count; i++) {
        const struct address asked = recipient_as_asked(&envelope->recipients[i]);

        if (address_equal(asked, recipient_as_asked(&envelope->recipients[i - 1])))
            continue; /* two members of one alias */
        buffer_clear(&to);
        address_print(&to, asked);
        event.to = buffer_view(&to);
        event.transcript = BYTES_EMPTY;
        observe_event(&event);
    }
    buffer_free(&to);
}

/* Who it was and what they wanted; the caller has named the kind and what is particular. */
void session_event(const struct session *session, struct event *event)
{
    const struct envelope *envelope = &session->transaction.envelope;
    struct buffer from = BUFFER_WITH_LIMIT(2 * MAIL_ADDRESS_MAX);
    struct buffer to = BUFFER_WITH_LIMIT(2 * MAIL_ADDRESS_MAX);

    event->session = session->client.session;
    event->client = bytes_of_text(session->client_text);
    event->helo = session->client.helo;
    event->mail = session->intake.mail;
    if (session->transaction.client) {
        address_print(&from, envelope->from);
        /* The null sender is told from "no sender yet". */
        event->from = from.count ? buffer_view(&from) : BYTES_LITERAL("<>");
    }
    const bool of_one = event->to.count > 0 || session->stage == STAGE_RCPT;
    if (event->to.count > 0) {
        buffer_add(&to, event->to);
    } else if (session->stage == STAGE_RCPT) {
        address_print(&to, session->asked);
    } else if (envelope->recipient_count > 0) {
        address_print(&to, recipient_as_asked(&envelope->recipients[0]));
    }
    event->to = buffer_view(&to);
    observe_event(event);
    if (!of_one)
        session_tell_others(session, *event);
    buffer_free(&from);
    buffer_free(&to);
}

static bool is_protocol_error(enum cause cause)
{
    return cause >= CAUSE_PROTOCOL_UNKNOWN && cause <= CAUSE_PROTOCOL_FOREIGN;
}

/* The reply to one more error than the limit is the last one. */
static struct verdict session_tolerate(struct session *session, const struct verdict *objection)
{
    if (!is_protocol_error(objection->cause))
        return *objection;
    if (++session->errors <= session->config->limits.errors || session->closing)
        return *objection;
    return verdict_with(CAUSE_PROTOCOL_ERRORS, objection->detail);
}

/* Of a deferral: once before the dot, however many recipients are deferred, and once there. */
static struct bytes session_transcript(struct session *session, enum verdict_kind kind)
{
    if (kind != VERDICT_DEFER || (session->dialogue_told && session->stage != STAGE_DOT))
        return BYTES_EMPTY;
    session->dialogue_told = true;
    return dialogue_view(&session->dialogue);
}

void session_object(struct session *session, const struct verdict *objection)
{
    const struct verdict verdict = session_tolerate(session, objection);
    const struct cause_row *row = cause_row(verdict.cause);
    char reply[VERDICT_REPLY_MAX];

    verdict_print_reply(&verdict, reply, sizeof reply);
    for (unsigned i = 0; i < session->replies && !session->lost; i++)
        session_say(session, "%s", reply);
    session->answered = true;
    if (verdict_closes(&verdict))
        session->closing = true;
    if (session->closing)
        session->objecting = true;

    struct event event = {.kind = row->kind == VERDICT_REFUSE ? EVENT_MESSAGE_REFUSED
                                                              : EVENT_MESSAGE_DEFERRED,
                          .stage = session->stage,
                          .verdict = verdict,
                          .has_verdict = true,
                          .code = verdict_code(&verdict),
                          .text = verdict.detail.count ? verdict.detail : bytes_of_text(reply),
                          .filter = session->transaction.filter,
                          .tls = session->client.tls,
                          .transcript = session_transcript(session, row->kind),
                          .message = session->transaction.message};
    session_event(session, &event);
}
