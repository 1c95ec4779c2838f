/*
 * From DATA or BDAT to a durable message and its 250 (RFC 5321 4.1.1.4, RFC 3030).
 *
 * Sleeps: on the client, on DNS and filters, on the disk. Fails: by a verdict; the 250 is said only
 * with a receipt that is durable.
 */
#include "receive/session.h"

enum {
    COMMIT_LEAST_SECONDS = 10, /* the disk gets this much, however long the filters took */
    RECEIVED_BYTES = 8 * 1024,
    DELIVERIES_MAX = 100, /* fields that are looked at */
};

/* ------------------------------------------------------------------ what the header says */

static struct address recipient_as_asked(const struct recipient *recipient)
{
    return address_is_null(recipient->asked) ? recipient->address : recipient->asked;
}

/* Was it here before, for one of those it is for now (RFC 9228)? */
static bool message_was_delivered(struct session *session, struct bytes value)
{
    const struct envelope *envelope = &session->transaction.envelope;
    struct arena *arena = &session->transaction_arena;
    struct address address;

    if (value.count > MAIL_ADDRESS_MAX || !address_parse(arena, bytes_trim(value), &address))
        return false;
    for (uint32_t i = 0; i < envelope->recipient_count; i++) {
        const struct address asked = recipient_as_asked(&envelope->recipients[i]);
        if (bytes_equal_nocase(asked.local, address.local) &&
            bytes_equal_nocase(asked.domain, address.domain) &&
            config_find_domain(session->config, asked.domain))
            return true;
    }
    return false;
}

/* Hops, and that a header once begun holds nothing but fields. A message without any header, even
 * one that starts with text, is taken as all body (RFC 5321 6.4 leaves that to us). */
struct verdict message_check_header(struct session *session)
{
    struct bytes head = spool_draft_head(session->intake.draft);
    const bool whole = head.count == spool_draft_size(session->intake.draft);
    struct header_walk walk = HEADER_WALK_OF(head);
    struct header_field field;
    uint32_t fields = 0, hops = 0, deliveries = 0;

    while (header_next(&walk, &field)) {
        fields++;
        if (bytes_equal_text_nocase(field.name, "Received"))
            hops++;
        if (bytes_equal_text_nocase(field.name, "Message-ID") && field.value.count > 0)
            session->intake.mail = bytes_hash_nocase(bytes_trim(field.value)) | 1;
        if (bytes_equal_text_nocase(field.name, "Delivered-To") && deliveries++ < DELIVERIES_MAX &&
            message_was_delivered(session, field.value))
            return verdict_with(CAUSE_MESSAGE_LOOP, BYTES_LITERAL("it was delivered here before"));
    }
    if (hops > session->config->limits.hops)
        return verdict_of(CAUSE_MESSAGE_LOOP);
    /* Of a header longer than the view, the end may be half a field: it is not judged. */
    if (walk.malformed && fields > 0 && (whole || header_end(head) < head.count))
        return verdict_of(CAUSE_MESSAGE_MALFORMED_HEADER);
    return verdict_accept();
}

/* ------------------------------------------------------------------ judging */

static struct io_result message_read(void *draft, struct span into, uint64_t offset)
{
    return spool_draft_read(draft, into, offset);
}

void message_show(struct session *session, uint64_t deadline_us, struct shown_message *shown)
{
    struct intake *intake = &session->intake;
    size_t digest_count = 0;

    if (intake->digest)
        digest_count =
            digest_finish(intake->digest, (struct span){shown->digest, sizeof shown->digest});
    shown->bodies = rewrite_store(session);
    shown->message = (struct policy_message){
        .source = {.read = message_read,
                   .argument = intake->draft,
                   .size_bytes = spool_draft_size(intake->draft)},
        .head = spool_draft_head(intake->draft),
        .digest = bytes_of(shown->digest, digest_count),
        .deadline_us = deadline_us,
        .bodies = &shown->bodies,
    };
}

MUST_USE static struct verdict receive_judge(struct session *session, uint64_t deadline_us)
{
    struct shown_message shown;

    REQUIRE(message_check_header(session));
    message_show(session, deadline_us, &shown);
    const bool masked = fiber_mask_cancel(false);
    const struct verdict verdict =
        policy_judge(session->receive->settings.policy, &session->transaction, &shown.message);
    fiber_mask_cancel(masked);
    return verdict;
}

/* ------------------------------------------------------------------ storing */

/* The words of RFC 3848 and 6531. */
static const char *message_protocol(const struct session *session)
{
    static const char *const words[3][4] = {
        {"ESMTP", "ESMTPS", "ESMTPA", "ESMTPSA"},
        {"UTF8SMTP", "UTF8SMTPS", "UTF8SMTPA", "UTF8SMTPSA"},
        {"LMTP", "LMTPS", "LMTPA", "LMTPSA"},
    };
    const unsigned how =
        (session->client.tls.count ? 1U : 0U) | (session->client.user.count ? 2U : 0U);

    if (session->listen->kind == LISTEN_LMTP)
        return words[2][how];
    if (!session->client.esmtp)
        return "SMTP";
    return words[session->transaction.envelope.smtputf8 ? 1 : 0][how];
}

MUST_USE static struct verdict message_prepend(struct session *session)
{
    CLEANUP(buffer_free) struct buffer received = BUFFER_WITH_LIMIT(RECEIVED_BYTES);
    const struct envelope *envelope = &session->transaction.envelope;
    struct received_facts facts = {
        .hostname = session->config->hostname,
        .helo = session->client.helo,
        .client = session->client.remote,
        .client_name = session->client.reverse_name,
        .protocol = message_protocol(session),
        .tls = session->client.tls,
        .message = session->transaction.message,
        .wall_us = envelope->accepted_wall_us,
    };

    if (session->transaction.accepted_commands == 1 && envelope->recipient_count == 1) {
        const struct recipient *only = &envelope->recipients[0];
        const struct address asked = recipient_as_asked(only);
        /* One beyond ASCII in a header of ours would keep mail from hosts that it could reach with
         * its domain in A-labels. */
        if (address_is_ascii(asked))
            facts.only_recipient = asked;
    }
    received_print(&received, &facts);
    /* Without them the message is not what policy said it would be, so it is not taken. */
    if (received.failed || session->headers.failed)
        return verdict_of(CAUSE_SERVER_BUSY);
    if (session->headers.count > 0)
        REQUIRE(spool_draft_prepend(session->intake.draft, buffer_view(&session->headers)));
    REQUIRE(spool_draft_prepend(session->intake.draft, buffer_view(&received)));
    return spool_draft_prepend(session->intake.draft, session->transaction.rewrite.above);
}

struct verdict message_commit(struct session *session, uint64_t deadline_us,
                              struct spool_receipt *receipt)
{
    struct transaction *transaction = &session->transaction;
    const struct spool_commit_options options = {
        .deadline_us = MAX_OF(deadline_us, deadline_in(COMMIT_LEAST_SECONDS * US_PER_S)),
        .discard = transaction->disposition == DISPOSITION_DISCARD,
        .mark = repeats_mark(session),
    };

    transaction->envelope.accepted_wall_us = clock_wall_us();
    if (transaction->disposition == DISPOSITION_HOLD) {
        transaction->envelope.held = true;
        transaction->envelope.held_why = transaction->hold_why;
    }
    REQUIRE(rewrite_apply(session));
    REQUIRE(message_prepend(session));
    return spool_commit(session->intake.draft, &transaction->envelope, &options, receipt);
}

/* ------------------------------------------------------------------ the final reply */

/* Nobody gets it, or not yet, because a filter said so: never in silence, so before the reply. */
void message_tell_kept_back(struct session *session, uint64_t message)
{
    const struct transaction *transaction = &session->transaction;
    const bool discarded = transaction->disposition == DISPOSITION_DISCARD;
    struct event event = {.kind = discarded ? EVENT_MESSAGE_DISCARDED : EVENT_MESSAGE_HELD,
                          .stage = STAGE_DOT,
                          .message = message,
                          .filter = transaction->filter,
                          .text = discarded ? BYTES_EMPTY : transaction->hold_why};

    if (transaction->disposition != DISPOSITION_DELIVER)
        session_event(session, &event);
}

static void message_say_accepted(struct session *session, uint64_t message)
{
    char id[ID_TEXT_MAX];

    id_print(message, id, sizeof id);
    for (unsigned i = 0; i < session->replies; i++)
        session_say(session, "250 2.0.0 Accepted as %s", id);
    session->errors = 0;
    session->repeat.message = message;
}

/* It was accepted before, and only our reply was lost. */
static void message_repeated(struct session *session, uint64_t message)
{
    struct event event = {
        .kind = EVENT_MESSAGE_REPEATED, .stage = STAGE_DOT, .message = message, .code = 250};

    message_say_accepted(session, message);
    session_event(session, &event);
}

void message_tell_accepted(struct session *session, const struct spool_receipt *receipt,
                           uint64_t took_us)
{
    struct event event = {.kind = EVENT_MESSAGE_ACCEPTED,
                          .stage = STAGE_DOT,
                          .message = receipt->message,
                          .size_bytes = session->intake.count,
                          .took_us = took_us};
    session_event(session, &event);
}

static void message_accepted(struct session *session, const struct spool_receipt *receipt,
                             uint64_t took_us)
{
    INVARIANT(receipt->durable);
    message_tell_kept_back(session, receipt->message);
    message_say_accepted(session, receipt->message);
    /* The client need not wait for our journal. */
    if (!wire_input_pending(&session->input))
        session_flush(session);
    message_tell_accepted(session, receipt, took_us);
}

/* From the end of the body to a durable message. Any objection, ours or theirs, leaves by REQUIRE.
 */
MUST_USE static struct verdict receive_message(struct session *session,
                                               struct spool_receipt *receipt)
{
    const uint64_t deadline = deadline_in(session->config->limits.after_dot_us);

    REQUIRE(receive_judge(session, deadline));         /* sleeps on DNS and filters */
    return message_commit(session, deadline, receipt); /* on the disk */
}

/* LMTP: one for each recipient. PRDR (draft-hall-prdr): the same, announced by 353, and one for the
 * whole at the end. They differ where recipients are of several classes: classes.c. */
static void message_prepare_replies(struct session *session)
{
    const unsigned recipients = session->transaction.accepted_commands;

    if (session->listen->kind == LISTEN_LMTP) {
        session->replies = recipients;
    } else if (session->prdr && recipients > 1) {
        session_say(session, "353 Content analysis has started");
        session->answered = false;
        session->replies = recipients + 1;
    }
}

/* The body is complete: its fate, and LMTP's reply for each recipient (RFC 2033 4.2). */
MUST_USE static struct verdict message_end(struct session *session)
{
    const uint64_t dot_us = clock_now_us();
    struct spool_receipt receipt = {0};

    session->stage = STAGE_DOT;
    session->message_over = true;
    message_prepare_replies(session);
    intake_end(session);
    REQUIRE(intake_verdict(session));
    repeats_name(session);
    const uint64_t before = repeats_take(session);
    if (before != 0) {
        message_repeated(session, before);
        return verdict_accept();
    }
    if (session->transaction.class_count > 1)
        return classes_receive(session, dot_us);
    REQUIRE(receive_message(session, &receipt));
    message_accepted(session, &receipt, clock_now_us() - dot_us);
    return verdict_accept();
}

/* ------------------------------------------------------------------ DATA */

MUST_USE static struct verdict data_allowed(const struct session *session,
                                            const struct smtp_command *command)
{
    if (!(session->state & (STATE_MAIL | STATE_RCPT)))
        return verdict_of(CAUSE_PROTOCOL_SEQUENCE);
    if (command->argument.count > 0)
        return verdict_of(CAUSE_PROTOCOL_SYNTAX);
    if (session->transaction.accepted_commands == 0)
        return verdict_of(CAUSE_PROTOCOL_NO_RECIPIENTS);
    return verdict_accept();
}

MUST_USE static struct verdict data_body(struct session *session)
{
    session_say(session, "354 End data with <CR><LF>.<CR><LF>");
    session_flush(session);
    session->stage = STAGE_DATA;
    session->message_over = true;
    if (session->lost)
        return verdict_of(CAUSE_CLIENT_LOST);
    spool_session_sending(session->receive->settings.spool, true);
    const struct verdict read = intake_read_data(session);
    spool_session_sending(session->receive->settings.spool, false);
    return read;
}

MUST_USE static struct verdict data_begin(struct session *session,
                                          const struct smtp_command *command)
{
    REQUIRE(data_allowed(session, command));
    return intake_open(session);
}

/* DATA is the last of its group (RFC 2920 3.1). Who sends on without the 354 sends a body; when
 * there is no 354 it must not be taken for commands, so nothing more is. */
struct verdict verb_data(struct session *session, const struct smtp_command *command)
{
    const struct verdict begun = data_begin(session, command);

    if (!verdict_accepts(&begun) && wire_input_pending(&session->input))
        session->closing = true;
    REQUIRE(begun);
    REQUIRE(data_body(session)); /* sleeps on the client */
    return message_end(session);
}

/* ------------------------------------------------------------------ BDAT */

/* Why this chunk may not be taken. Its octets are on the wire already and have to be read anyway.
 */
MUST_USE static struct verdict bdat_allowed(struct session *session)
{
    const unsigned within = STATE_MAIL | STATE_RCPT | STATE_CHUNKS;

    if (!(session->state & within))
        return verdict_of(CAUSE_PROTOCOL_SEQUENCE);
    if (session->transaction.accepted_commands == 0)
        return verdict_of(CAUSE_PROTOCOL_NO_RECIPIENTS);
    if (session->state == STATE_CHUNKS)
        return verdict_accept();
    return intake_open(session);
}

/* The octets of a refused chunk pass by; `objection` is what is said after them. */
MUST_USE static struct verdict bdat_pass(struct session *session, uint64_t octets,
                                         const struct verdict *objection)
{
    intake_close(session);
    session->intake.objection = *objection;
    session->intake.objected = true;
    REQUIRE(intake_read_chunk(session, octets));
    return *objection;
}

MUST_USE static struct verdict bdat_take(struct session *session,
                                         const struct smtp_command *command)
{
    spool_session_sending(session->receive->settings.spool, true);
    const struct verdict read = intake_read_chunk(session, command->chunk_bytes);
    spool_session_sending(session->receive->settings.spool, false);
    REQUIRE(read);
    if (!command->chunk_last)
        return intake_verdict(session);
    if (session->intake.after_cr)
        intake_object(session, CAUSE_MESSAGE_MALFORMED);
    return verdict_accept(); /* what stands against it is said by message_end, to each in LMTP */
}

/* A chunk that fails, or is refused, ends the message (RFC 3030 2): the chunks behind it must not
 * become a message without their beginning. */
struct verdict verb_bdat(struct session *session, const struct smtp_command *command)
{
    /* Without a length nobody knows where the next command begins. */
    if (command->fault != SMTP_FINE) {
        session->closing = true;
        return verdict_of(verb_fault_cause(command->fault));
    }
    session->message_over = true;
    const struct verdict allowed = bdat_allowed(session);
    if (!verdict_accepts(&allowed))
        return bdat_pass(session, command->chunk_bytes, &allowed);
    session->state = STATE_CHUNKS;
    REQUIRE(bdat_take(session, command));
    if (command->chunk_last)
        return message_end(session);
    session->message_over = false;
    session_say(session, "250 2.0.0 %llu octets received",
                (unsigned long long)command->chunk_bytes);
    return verdict_accept();
}
