/*
 * MAIL and RCPT: the envelope (RFC 5321 3.3, 1870, 3461, 6152, 6531).
 *
 * Sleeps: inside policy. What policy refuses leaves no trace in the envelope.
 */
#include "receive/session.h"

enum { POLICY_HEADERS_BYTES = 256 * 1024 };

void transaction_reset(struct session *session)
{
    intake_close(session);
    policy_transaction_end(&session->transaction);
    session->transaction = (struct transaction){0};
    buffer_clear(&session->headers);
    arena_clear(&session->transaction_arena);
    if (session->state != STATE_FRESH)
        session->state = STATE_GREETED;
}

static void transaction_open(struct session *session, const struct smtp_command *command)
{
    session->transactions++;
    session->headers.limit_bytes = POLICY_HEADERS_BYTES;
    buffer_clear(&session->headers);
    session->transaction = (struct transaction){
        .client = &session->client,
        .arena = &session->transaction_arena,
        .headers = &session->headers,
        .replies =
            session->listen->kind == LISTEN_LMTP || command->prdr ? REPLY_TO_EACH : REPLY_TO_ALL,
        .declared_bytes = command->size_bytes,
        .mail_parameters = arena_copy(&session->transaction_arena, command->parameters),
        .envelope = {.from = command->path,
                     .envelope_id = command->envelope_id,
                     .dsn_return = command->dsn_return,
                     .body = command->body,
                     .smtputf8 = command->smtputf8,
                     .client = bytes_of_text(session->client_text),
                     .helo = session->client.helo,
                     .user = session->client.user,
                     .via_submission = session->listen->kind == LISTEN_SUBMISSION},
    };
}

/* Parameters that EHLO did not offer, or all of them after HELO. */
MUST_USE static struct verdict mail_parameters(const struct session *session,
                                               const struct smtp_command *command)
{
    const uint64_t limit = session->config->limits.message_size;

    if (command->parameter_count > 0 && !session->client.esmtp)
        return verdict_of(CAUSE_PROTOCOL_PARAMETER);
    if (command->body == BODY_BINARYMIME || command->requiretls)
        return verdict_of(CAUSE_PROTOCOL_PARAMETER);
    /* Nobody is trusted to name another submitter, so the value is read and forgotten (RFC 4954 5).
     */
    if (command->auth.count > 0 && !auth_is_offered(session))
        return verdict_of(CAUSE_PROTOCOL_PARAMETER);
    if (limit > 0 && command->size_bytes > limit)
        return verdict_of(CAUSE_MESSAGE_TOO_BIG);
    if (!command->smtputf8 && !address_is_ascii(command->path))
        return verdict_of(CAUSE_PROTOCOL_UTF8);
    return verdict_accept();
}

/* Submission is for our own users only (RFC 6409 4.3). */
MUST_USE static struct verdict mail_credentials(const struct session *session)
{
    if (session->listen->kind != LISTEN_SUBMISSION || session->client.user.count > 0)
        return verdict_accept();
    return verdict_of(session->client.tls.count || session->config->auth.without_tls
                          ? CAUSE_AUTH_REQUIRED
                          : CAUSE_TLS_REQUIRED);
}

/* What stood against the client at connect. A deferral is asked again: it may have passed. */
MUST_USE static struct verdict mail_standing(struct session *session)
{
    if (!session->has_standing)
        return verdict_accept();
    if (session->standing.kind == VERDICT_REFUSE)
        return session->standing;
    REQUIRE(policy_connect(session->receive->settings.policy, &session->client));
    session->has_standing = false;
    return verdict_accept();
}

MUST_USE static struct verdict mail_judge(struct session *session,
                                          const struct smtp_command *command)
{
    REQUIRE(mail_credentials(session));
    if (session->client.user.count > 0)
        REQUIRE(sender_is_owned(session, command->path));
    REQUIRE(mail_standing(session));
    REQUIRE(spool_admits(session->receive->settings.spool, command->size_bytes));
    return policy_sender(session->receive->settings.policy, &session->transaction, command->path);
}

struct verdict verb_mail(struct session *session, const struct smtp_command *command)
{
    transaction_open(session, command);
    session->message_over = true; /* unless it is begun */
    REQUIRE(mail_parameters(session, command));
    REQUIRE(mail_judge(session, command));
    REQUIRE(rates_take(session, RATE_MESSAGES));
    session->message_over = false;
    session->prdr = command->prdr;
    session->state = STATE_MAIL;
    session_say(session, "250 2.1.0 Sender ok");
    return verdict_accept();
}

/* Greylisting comes last, so that nobody waits only to hear that there is no such user. */
MUST_USE static struct verdict rcpt_admit(struct session *session,
                                          const struct recipient *recipient)
{
    struct envelope *envelope = &session->transaction.envelope;
    const uint32_t before = envelope->recipient_count;

    REQUIRE(policy_recipient(session->receive->settings.policy, &session->transaction, recipient));
    const struct verdict greylist = greylist_judge(session, recipient->address);
    if (!verdict_accepts(&greylist))
        envelope->recipient_count = before;
    return greylist;
}

MUST_USE static struct verdict rcpt_judge(struct session *session,
                                          const struct smtp_command *command)
{
    const struct recipient recipient = {
        .address = command->path,
        .original = command->original_recipient,
        .notify = command->notify,
        .parameters = arena_copy(&session->transaction_arena, command->parameters)};

    if (command->parameter_count > 0 && !session->client.esmtp)
        return verdict_of(CAUSE_PROTOCOL_PARAMETER);
    if (!session->transaction.envelope.smtputf8 && !address_is_ascii(command->path))
        return verdict_of(CAUSE_PROTOCOL_UTF8);
    if (session->transaction.accepted_commands >= session->config->limits.recipients)
        return verdict_of(CAUSE_RECIPIENT_TOO_MANY);
    REQUIRE(rates_take(session, RATE_RECIPIENTS));
    return rcpt_admit(session, &recipient);
}

struct verdict verb_rcpt(struct session *session, const struct smtp_command *command)
{
    REQUIRE(rcpt_judge(session, command));
    session->transaction.accepted_commands++;
    session->state = STATE_RCPT;
    session_say(session, "250 2.1.5 Recipient ok");
    return verdict_accept();
}
