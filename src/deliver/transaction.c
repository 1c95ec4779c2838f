/*
 * Mail transactions in an open session: MAIL, RCPT, DATA, the body, the dot; pipelined where the
 * peer offers it (RFC 2920), in groups so small that neither side can block on a full socket.
 *
 * A reply to MAIL, DATA or the dot is about this message at this host, a reply to RCPT about that
 * recipient only. Once the dot went out, silence means "maybe delivered".
 */
#include "deliver/transaction.h"

#include <string.h>

static struct outcome *outcome_at(struct transaction *transaction, uint32_t chosen)
{
    return &transaction->attempt->outcomes[transaction->chosen[chosen]];
}

/* ------------------------------------------------------------------ commands */

/* list@here.example, to bob@there.example, is list+bob=there.example@here.example. */
static void print_sender(const struct transaction *transaction, struct buffer *out)
{
    const struct address from = transaction_address_of(transaction, transaction->sender);
    CLEANUP(buffer_free) struct buffer local = BUFFER_WITH_LIMIT(MAIL_ADDRESS_MAX);

    if (!transaction->verp || transaction->chosen_count != 1) {
        address_print(out, from);
        return;
    }
    const struct address to = transaction_address_of(
        transaction, attempt_recipient(transaction->attempt, transaction->chosen[0])->address);
    buffer_print(&local, "%.*s%c%.*s=%.*s", BYTES_PRINT(from.local), transaction->verp->separator,
                 BYTES_PRINT(to.local), BYTES_PRINT(to.domain));
    address_print(out, local.failed ? from : (struct address){buffer_view(&local), from.domain});
}

static void print_mail(const struct transaction *transaction, struct buffer *out)
{
    const struct queued_message *message = transaction->attempt->message;
    const struct envelope *envelope = &message->envelope;
    const unsigned offered = transaction->channel->extensions;

    buffer_add_text(out, "MAIL FROM:<");
    print_sender(transaction, out);
    buffer_add_text(out, ">");
    if (offered & EXTENSION_SIZE)
        buffer_print(
            out, " SIZE=%llu",
            (unsigned long long)((transaction->use_converted ? transaction_size(transaction)
                                                             : message->size_bytes) +
                                 transaction->trace.count));
    if (transaction->use_8bit)
        buffer_add_text(out, " BODY=8BITMIME");
    if (transaction->use_utf8)
        buffer_add_text(out, " SMTPUTF8");
    if (envelope->requiretls)
        buffer_add_text(out, " REQUIRETLS");
    if (offered & EXTENSION_DSN) {
        if (envelope->dsn_return != RETURN_DEFAULT)
            buffer_add_text(out, envelope->dsn_return == RETURN_FULL ? " RET=FULL" : " RET=HDRS");
        if (envelope->envelope_id.count > 0) {
            buffer_add_text(out, " ENVID=");
            xtext_encode(out, envelope->envelope_id);
        }
    }
    buffer_add_text(out, "\r\n");
}

static void print_rcpt(const struct transaction *transaction, uint32_t chosen, struct buffer *out)
{
    const struct recipient *recipient =
        attempt_recipient(transaction->attempt, transaction->chosen[chosen]);

    buffer_add_text(out, "RCPT TO:<");
    address_print(out, transaction_address_of(transaction, recipient->address));
    buffer_add_text(out, ">");
    if (transaction->channel->extensions & EXTENSION_DSN) {
        struct bytes type;
        const struct bytes rest = bytes_cut(recipient->original, ';', &type);
        notify_print(out, recipient->notify);
        if (rest.count > 0) {
            buffer_print(out, " ORCPT=%.*s;", BYTES_PRINT(type));
            xtext_encode(out, rest);
        }
    }
    buffer_add_text(out, "\r\n");
}

static void print_step(const struct transaction *transaction, const struct step *step,
                       struct buffer *out)
{
    switch (step->kind) {
    case STEP_RESET:
        buffer_add_text(out, "RSET\r\n");
        break;
    case STEP_MAIL:
        print_mail(transaction, out);
        break;
    case STEP_RCPT:
        print_rcpt(transaction, step->chosen, out);
        break;
    case STEP_DATA:
        buffer_add_text(out, "DATA\r\n");
        break;
    }
}

static void transaction_plan(struct transaction *transaction)
{
    uint32_t count = 0;

    if (transaction->channel->needs_reset)
        transaction->steps[count++] = (struct step){.kind = STEP_RESET};
    transaction->steps[count++] = (struct step){.kind = STEP_MAIL};
    for (uint32_t i = 0; i < transaction->chosen_count; i++)
        transaction->steps[count++] = (struct step){.kind = STEP_RCPT, .chosen = i};
    if (!transaction->use_chunks)
        transaction->steps[count++] = (struct step){.kind = STEP_DATA};
    transaction->step_count = count;
}

/* ------------------------------------------------------------------ replies */

static enum stage stage_of(enum step_kind kind)
{
    switch (kind) {
    case STEP_RESET:
    case STEP_MAIL:
        return STAGE_MAIL;
    case STEP_RCPT:
        return STAGE_RCPT;
    case STEP_DATA:
        return STAGE_DATA;
    }
    return STAGE_NONE;
}

/* The same end for all that were asked for and have none yet. */
static void transaction_fail(struct transaction *transaction, struct outcome outcome)
{
    transaction->over = true;
    for (uint32_t i = 0; i < transaction->chosen_count; i++) {
        if (outcome_at(transaction, i)->verdict.cause == CAUSE_UNDECIDED)
            *outcome_at(transaction, i) = outcome;
    }
}

/* 452 to RCPT after others were taken: the surplus goes in the next transaction (RFC 5321
 * 4.5.3.1.10). 452 4.2.2 and the like are about that recipient. */
static bool reply_is_surplus(const struct transaction *transaction, const struct smtp_reply *reply)
{
    const bool about_count = reply->enhanced.count == 0 ||
                             bytes_equal_text(reply->enhanced, "4.5.3") ||
                             bytes_equal_text(reply->enhanced, "5.5.3");

    return transaction->taken_count > 0 && about_count &&
           (reply->code == 452 || reply->code == 552);
}

static void hear_rcpt(struct transaction *transaction, uint32_t chosen,
                      const struct smtp_reply *reply)
{
    if (!transaction->mail_said_yes)
        return; /* 503 after a refused MAIL says nothing of the recipient */
    if (reply->code / 100 == 2) {
        transaction->taken[chosen] = true;
        transaction->taken_count++;
    } else if (reply_is_surplus(transaction, reply)) {
        transaction->surplus_count++;
    } else {
        *outcome_at(transaction, chosen) =
            outcome_of_reply(transaction->channel, STAGE_RCPT, reply);
    }
}

static void hear_data(struct transaction *transaction, const struct smtp_reply *reply)
{
    transaction->go_ahead = reply->code == 354;
    if (transaction->go_ahead || transaction->taken_count == 0)
        return;
    const struct outcome outcome = outcome_of_reply(transaction->channel, STAGE_DATA, reply);
    transaction->over = true;
    for (uint32_t i = 0; i < transaction->chosen_count; i++) {
        if (transaction->taken[i])
            *outcome_at(transaction, i) = outcome;
    }
}

static void hear_mail(struct transaction *transaction, const struct smtp_reply *reply)
{
    transaction->mail_said_yes = reply->code / 100 == 2;
    if (transaction->mail_said_yes)
        return;
    if (reply->code == 421 && transaction->channel->reused) {
        transaction->stale = true; /* "enough for this connection" is about the connection */
        transaction->over = true;
        return;
    }
    transaction_fail(transaction, outcome_of_reply(transaction->channel, STAGE_MAIL, reply));
}

static void hear_step(struct transaction *transaction, const struct step *step,
                      const struct smtp_reply *reply)
{
    switch (step->kind) {
    case STEP_RESET:
        if (reply->code == 421)
            hear_mail(transaction, reply);
        break;
    case STEP_MAIL:
        hear_mail(transaction, reply);
        break;
    case STEP_RCPT:
        hear_rcpt(transaction, step->chosen, reply);
        break;
    case STEP_DATA:
        hear_data(transaction, reply);
        break;
    }
}

/* The connection ended, or made no sense, before the dot. */
static void transaction_lost(struct transaction *transaction, enum stage stage,
                             enum wire_status status)
{
    struct deliver_channel *channel = transaction->channel;

    transaction->over = true;
    if (channel->reused && stage == STAGE_MAIL && !transaction->mail_said_yes &&
        (status == WIRE_END || status == WIRE_FAILED))
        transaction->stale = true;
    else
        transaction_fail(transaction, outcome_of_status(channel, stage, status));
    channel_abort(channel);
}

/* 421 ends the session wherever it comes; after a reply that does not fit its command nobody knows
 * to what the next one belongs. */
static bool reply_keeps_session(const struct step *step, const struct smtp_reply *reply)
{
    const unsigned class = reply->code / 100;

    if (reply->code == 421)
        return false;
    return class == 4 || class == 5 || (step->kind == STEP_DATA ? reply->code == 354 : class == 2);
}

/* Reads the reply of one step; false when the session is gone. */
static bool transaction_hear(struct transaction *transaction, const struct step *step,
                             uint64_t wait_us)
{
    struct deliver_channel *channel = transaction->channel;
    struct smtp_reply reply = {0};
    const enum wire_status status = channel_read_reply(channel, deadline_in(wait_us), &reply);

    if (status != WIRE_OK) {
        transaction_lost(transaction, stage_of(step->kind), status);
        return false;
    }
    hear_step(transaction, step, &reply);
    if (reply_keeps_session(step, &reply))
        return true;
    if (!transaction->stale)
        transaction_fail(transaction, outcome_of_reply(channel, stage_of(step->kind), &reply));
    channel_abort(channel);
    return false;
}

static uint64_t wait_of(const struct transaction *transaction, const struct step *step)
{
    const struct deliver_timeouts *timeouts = &transaction->channel->deliver->timeouts;

    return step->kind == STEP_DATA ? timeouts->data_us : timeouts->greeting_us;
}

/* Would this command make sense after what was answered so far? */
static bool step_is_due(const struct transaction *transaction, const struct step *step)
{
    return !transaction->over && !(step->kind == STEP_DATA && transaction->taken_count == 0);
}

/* Sends steps [from, to) at once, then reads as many replies. A failed write is not the end of it:
 * the peer's last words may still be in the socket. */
static bool transaction_exchange(struct transaction *transaction, uint32_t from, uint32_t to)
{
    struct deliver_channel *channel = transaction->channel;

    buffer_clear(&channel->out);
    for (uint32_t i = from; i < to; i++)
        print_step(transaction, &transaction->steps[i], &channel->out);
    if (channel->out.failed) {
        transaction_fail(transaction,
                         outcome_of_verdict(channel, STAGE_MAIL, verdict_of(CAUSE_LOCAL_FAILED)));
        channel_abort(channel);
        return false;
    }
    const struct io_result sent = stream_write(channel->stream, buffer_view(&channel->out),
                                               deadline_in(channel->deliver->timeouts.greeting_us));
    dialogue_line(&channel->dialogue, DIALOGUE_US, buffer_view(&channel->out));
    for (uint32_t i = from; i < to; i++) {
        const uint64_t wait_us =
            sent.status == IO_OK ? wait_of(transaction, &transaction->steps[i]) : 2 * US_PER_S;
        if (!transaction_hear(transaction, &transaction->steps[i], wait_us))
            return false;
    }
    return true;
}

/* From MAIL to the reply to DATA. True: 354 was said and recipients wait for the body. */
static bool transaction_address(struct transaction *transaction)
{
    const bool pipelines = transaction->channel->extensions & EXTENSION_PIPELINING;
    const uint32_t group = pipelines ? DELIVER_PIPELINE_STEPS : 1;

    transaction_plan(transaction);
    for (uint32_t from = 0; from < transaction->step_count;) {
        const uint32_t to = MIN_OF(from + group, transaction->step_count);
        if (!step_is_due(transaction, &transaction->steps[from]))
            break;
        if (!transaction_exchange(transaction, from, to))
            return false;
        from = to;
    }
    transaction->channel->needs_reset = true;
    if (transaction->use_chunks) /* BDAT asks for no leave */
        transaction->go_ahead = transaction->taken_count > 0;
    if (transaction->go_ahead && (transaction->taken_count == 0 || transaction->over)) {
        channel_abort(transaction->channel); /* 354 to nobody: the one way not to send a message */
        return false;
    }
    return transaction->go_ahead && !transaction->over;
}

/* ------------------------------------------------------------------ the body and the dot */

static void taken_fail(struct transaction *transaction, struct outcome outcome)
{
    for (uint32_t i = 0; i < transaction->chosen_count; i++) {
        if (transaction->taken[i] && outcome_at(transaction, i)->verdict.cause == CAUSE_UNDECIDED)
            *outcome_at(transaction, i) = outcome;
    }
}

/* The peer stopped reading before the dot, so it has no message; it may have said why. */
static void transaction_cut(struct transaction *transaction, struct io_result sent)
{
    struct deliver_channel *channel = transaction->channel;
    struct smtp_reply reply = {0};
    struct outcome outcome = outcome_of_status(channel, STAGE_DATA, wire_status_of(sent));

    if (sent.status == IO_FAILED &&
        channel_read_reply(channel, deadline_in(2 * US_PER_S), &reply) == WIRE_OK &&
        reply.code / 100 >= 4)
        outcome = outcome_of_reply(channel, STAGE_DATA, &reply);
    dialogue_note(&channel->dialogue, "the body could not be sent: %s", io_result_text(sent));
    taken_fail(transaction, outcome);
    channel_abort(channel);
}

/* A fault of ours in the middle of the body; a cancelled fiber has only not tried. */
static void transaction_unread(struct transaction *transaction)
{
    struct deliver_channel *channel = transaction->channel;

    if (!fiber_cancelled())
        taken_fail(transaction,
                   outcome_of_verdict(channel, STAGE_DATA, verdict_of(CAUSE_LOCAL_FAILED)));
    channel_abort(channel);
}

/* Did the peer say something although it is our turn? */
static bool peer_speaks(const struct deliver_channel *channel)
{
    if (wire_input_pending(&channel->input))
        return true;
    return stream_wait_readable(channel->stream, clock_now_us()).status != IO_TIMEOUT;
}

/*
 * A reply before our final dot is not the reply to it. A refusal is believed (some servers refuse
 * while the body still comes); anything that sounds like consent is not, or a message that nobody
 * took would count as delivered.
 */
static bool transaction_interrupted(struct transaction *transaction)
{
    struct deliver_channel *channel = transaction->channel;
    struct smtp_reply reply = {0};

    if (!peer_speaks(channel))
        return false;
    const enum wire_status status =
        channel_read_reply(channel, deadline_in(channel->deliver->timeouts.data_us), &reply);
    if (status != WIRE_OK)
        taken_fail(transaction, outcome_of_status(channel, STAGE_DATA, status));
    else if (reply.code / 100 == 4 || reply.code / 100 == 5)
        taken_fail(transaction, outcome_of_reply(channel, STAGE_DATA, &reply));
    else
        taken_fail(transaction, outcome_of_verdict(channel, STAGE_DATA,
                                                   verdict_with(CAUSE_REMOTE_GARBLED, reply.text)));
    channel_abort(channel);
    return true;
}

/* The whole message is one chunk, the last (RFC 3030 3): the peer has it with its last octet, which
 * is then what the dot is otherwise. */
static void begin_chunk(struct buffer *out, uint64_t size, struct bytes trace)
{
    buffer_print(out, "BDAT %llu LAST\r\n", (unsigned long long)(size + trace.count));
    buffer_add(out, trace);
}

/* Streams the body. What went out cut can only be ended by a reset, never by a dot. The piece with
 * the dot is sent with cancellation masked, and the caller keeps it so until the reply came. */
static bool transaction_send_body(struct transaction *transaction)
{
    struct deliver_channel *channel = transaction->channel;
    const uint64_t size = transaction_size(transaction);
    struct wire_stuffer stuffer = {0};
    uint64_t offset = 0;

    do {
        struct bytes piece = BYTES_EMPTY;
        buffer_clear(&channel->out);
        if (offset == 0 && transaction->use_chunks)
            begin_chunk(&channel->out, size, transaction->trace);
        else if (offset == 0)
            wire_stuff(&stuffer, &channel->out, transaction->trace);
        const bool read = size == 0 || transaction_read(transaction, offset, &piece);
        if (transaction->use_chunks)
            buffer_add(&channel->out, piece);
        else
            wire_stuff(&stuffer, &channel->out, piece);
        offset += piece.count;
        if (read && offset >= size) {
            if (!transaction->use_chunks)
                wire_stuff_end(&stuffer, &channel->out);
            fiber_mask_cancel(true);
        }
        if (!read || channel->out.failed) {
            transaction_unread(transaction);
            return false;
        }
        if (transaction_interrupted(transaction))
            return false;
        const struct io_result sent =
            stream_write(channel->stream, buffer_view(&channel->out),
                         deadline_in(channel->deliver->timeouts.block_us));
        if (sent.status != IO_OK) {
            transaction_cut(transaction, sent);
            return false;
        }
    } while (offset < size);
    dialogue_message(&channel->dialogue, size,
                     transaction->use_chunks ? ", by BDAT" : ", and the dot");
    return true;
}

static struct outcome outcome_of_dot(struct transaction *transaction,
                                     const struct smtp_reply *reply)
{
    struct deliver_channel *channel = transaction->channel;
    struct outcome outcome = outcome_of_reply(channel, STAGE_DOT, reply);

    if (reply->code / 100 == 2) {
        outcome.verdict = verdict_with(CAUSE_DELIVERED, reply->text);
        outcome.dsn_passed_on = channel->extensions & EXTENSION_DSN;
    }
    return outcome;
}

/* Waits for the final reply in short pieces, because only `give_up` ends it early. */
static enum wire_status transaction_hear_dot(struct transaction *transaction,
                                             struct smtp_reply *reply)
{
    struct deliver_channel *channel = transaction->channel;
    const struct deliver *deliver = channel->deliver;
    const uint64_t deadline_us = deadline_in(deliver->timeouts.dot_us);

    while (!wire_input_pending(&channel->input)) {
        const uint64_t end_us = MIN_OF(deadline_us, deliver->give_up_us);
        const struct io_result ready = stream_wait_readable(
            channel->stream, MIN_OF(end_us, deadline_in(DELIVER_GIVE_UP_LOOK_US)));
        if (ready.status != IO_TIMEOUT)
            break; /* data, or the end, which the reader will name */
        if (clock_now_us() >= end_us)
            return WIRE_TIMEOUT;
    }
    return channel_read_reply(channel, MIN_OF(deadline_us, deliver->give_up_us), reply);
}

/* A peer that offers CHUNKING and does not know BDAT took the message for commands: it is asked
 * anew, on another connection, by DATA. */
static bool chunks_unknown(struct transaction *transaction, const struct smtp_reply *reply)
{
    struct deliver_channel *channel = transaction->channel;

    if (!transaction->use_chunks || reply->code < 500 || reply->code > 504)
        return false;
    dialogue_note(&channel->dialogue, "BDAT is offered but not known: again by DATA");
    channel->no_chunking = true;
    transaction->stale = true;
    channel_abort(channel);
    return true;
}

/* One reply for all, or with LMTP one for each recipient taken, in their order (RFC 2033 4.2). */
static void transaction_hear_end(struct transaction *transaction)
{
    struct deliver_channel *channel = transaction->channel;
    const bool each = channel->to.kind == DELIVER_LMTP;
    struct outcome outcome = {0};
    bool heard = false, closing = false;

    for (uint32_t i = 0; i < transaction->chosen_count; i++) {
        if (!transaction->taken[i])
            continue;
        if (!heard || each) {
            struct smtp_reply reply = {0};
            const enum wire_status status = transaction_hear_dot(transaction, &reply);
            if (status != WIRE_OK) {
                taken_fail(transaction, outcome_of_status(channel, STAGE_DOT, status));
                channel_abort(channel);
                return;
            }
            if (chunks_unknown(transaction, &reply))
                return;
            outcome = outcome_of_dot(transaction, &reply);
            closing = closing || reply.code == 421 || outcome.verdict.cause == CAUSE_REMOTE_GARBLED;
        }
        heard = true;
        *outcome_at(transaction, i) = outcome;
    }
    channel->needs_reset = false;
    channel->reused = true;
    if (closing)
        channel_abort(channel);
}

static void transaction_run(struct transaction *transaction)
{
    if (!transaction_address(transaction))
        return;
    const bool masked = fiber_mask_cancel(false);
    if (transaction_send_body(transaction))
        transaction_hear_end(transaction);
    fiber_mask_cancel(masked);
}

/* ------------------------------------------------------------------ the attempt */

static uint32_t transaction_choose(struct transaction *transaction)
{
    const struct attempt *attempt = transaction->attempt;
    const uint32_t most = transaction->verp ? 1 : DELIVER_TRANSACTION_RECIPIENTS;

    transaction->chosen_count = 0;
    for (uint32_t i = 0; i < attempt->recipient_count; i++) {
        if (attempt->outcomes[i].verdict.cause == CAUSE_UNDECIDED &&
            transaction->chosen_count < most)
            transaction->chosen[transaction->chosen_count++] = i;
    }
    return transaction->chosen_count;
}

/* Mail that waives the policies may use any session; one that was opened for it only such mail. */
static bool attempt_open(struct transaction *transaction, bool require, struct outcome *trouble)
{
    struct deliver_channel *channel = transaction->channel;

    if (channel->stream && channel->waives && !transaction_waives(transaction))
        channel_quit(channel);
    if (channel->stream && channel->turned && !share_suits(channel, require))
        channel_quit(channel);
    if (channel->stream)
        return true;
    channel->waives = channel->to.kind == DELIVER_SMTP && transaction_waives(transaction);
    if (!channel_open(channel, require, trouble))
        return false;
    if (channel->waives)
        transaction_tell(transaction, BYTES_LITERAL("TLS-Required: No: neither DANE nor MTA-STS of "
                                                    "the recipient's domain was asked"));
    return true;
}

static bool attempt_connect(struct transaction *transaction, bool *host_failed)
{
    const bool require = transaction->attempt->message->envelope.requiretls;
    struct outcome trouble = {0};

    if (require && transaction->channel->stream && !transaction->channel->proved)
        channel_quit(transaction->channel); /* it was opened for mail that demanded less */
    if (attempt_open(transaction, require, &trouble))
        return true;
    *host_failed = trouble.verdict.cause != CAUSE_UNDECIDED &&
                   cause_row(trouble.verdict.cause)->side == SIDE_THEIRS &&
                   trouble.verdict.kind == VERDICT_DEFER;
    attempt_fill(transaction->attempt, trouble);
    return false;
}

/*
 * Transactions until everybody has an outcome. Each one decides at least one recipient, but for a
 * stale one: a kept connection that died of idleness is replaced in silence, as nothing was said on
 * it yet; the new one is not `reused`, so that happens once.
 */
static void attempt_transact(struct transaction *transaction, bool *host_failed)
{
    const struct transaction blank = *transaction;

    while (transaction_choose(transaction) > 0) {
        if (!attempt_connect(transaction, host_failed))
            return;
        transaction_screen(transaction);
        if (transaction_choose(transaction) > 0)
            transaction_run(transaction);
        if (fiber_cancelled())
            return;
        if (!transaction->channel->stream && !transaction->stale)
            attempt_fill(transaction->attempt,
                         outcome_of_status(transaction->channel, STAGE_RCPT, WIRE_END));
        *transaction = blank;
    }
}

/* What may have been delivered goes to the host that may have it; a session with another one ends.
 */
static void attempt_prefer(struct deliver_channel *channel, const struct attempt *attempt)
{
    const struct bytes told = BYTES_LITERAL(NO_FINAL_REPLY);

    channel->prefer[0] = 0;
    for (uint32_t i = 0; i < attempt->recipient_count && channel->prefer[0] == 0; i++) {
        const struct queued_recipient *recipient =
            &attempt->message->recipients[attempt->recipients[i]];
        if (recipient->cause == CAUSE_AMBIGUOUS_DOT &&
            bytes_starts_with(recipient->last_reply, told))
            snprintf(channel->prefer, sizeof(channel->prefer), "%.*s",
                     BYTES_PRINT(bytes_skip(recipient->last_reply, told.count)));
    }
    if (channel->prefer[0] && channel->stream && strcmp(channel->prefer, channel->host) != 0)
        channel_quit(channel);
}

/* Who sends, and what goes on top of the message. */
MUST_USE static struct verdict transaction_prepare(struct transaction *transaction)
{
    const struct attempt *attempt = transaction->attempt;
    const struct deliver *deliver = transaction->channel->deliver;

    REQUIRE(attempt_find_sender(deliver, attempt, &transaction->sender));
    transaction->verp = verp_of(transaction->channel, transaction->sender);
    return attempt_find_trace(deliver, attempt, &transaction->trace);
}

void smtp_attempt(struct deliver_channel *channel, struct attempt *attempt, bool *host_failed)
{
    CLEANUP(spool_body_close) struct spool_body *body = NULL;
    CLEANUP(converted_close) struct converted *converted = NULL;
    const struct verdict opened =
        spool_body_open(channel->deliver->spool, attempt->message->id, &body);

    if (!verdict_accepts(&opened)) {
        attempt_fill(attempt, outcome_of_verdict(channel, STAGE_COMMIT, opened));
        return;
    }
    struct transaction transaction = {
        .channel = channel, .attempt = attempt, .body = body, .converted = &converted};
    const struct verdict ready = transaction_prepare(&transaction);
    if (!verdict_accepts(&ready)) {
        struct outcome trouble = outcome_of_verdict(channel, STAGE_MAIL, ready);
        trouble.reply = ready.detail;
        attempt_fill(attempt, trouble);
        return;
    }
    attempt_prefer(channel, attempt);
    attempt_transact(&transaction, host_failed);
    channel->prefer[0] = 0;
}
