/*
 * STARTTLS (RFC 3207) and implicit TLS (RFC 8314).
 *
 * What came in clear before the handshake is thrown away, and everything the session knew is
 * forgotten after it: nobody on the path can put words into the protected part.
 */
#include "receive/session.h"

bool session_offers_tls(const struct session *session)
{
    return session->receive->settings.tls && session->listen->tls == TLS_MODE_STARTTLS &&
           session->client.tls.count == 0;
}

struct verdict session_handshake(struct session *session)
{
    struct tls_facts facts = {0};

    if (!session->receive->settings.tls)
        return verdict_of(CAUSE_TLS_UNAVAILABLE);
    wire_input_discard(&session->input);
    const bool masked = fiber_mask_cancel(false);
    const struct io_result shaken =
        tls_accept(session->receive->settings.tls, &session->stream,
                   session_deadline(session, session->config->limits.command_timeout_us), &facts);
    fiber_mask_cancel(masked);
    wire_input_close(&session->input);
    wire_input_open(&session->input, session->stream);
    if (shaken.status != IO_OK) {
        observe_note(LOG_INFO, "receive", "TLS handshake with %s failed: %s", session->client_text,
                     facts.why[0] ? facts.why : io_result_text(shaken));
        session->lost = true; /* nothing can be said: neither side knows in which tongue */
        return verdict_of(CAUSE_CLIENT_LOST);
    }
    snprintf(session->tls, sizeof session->tls, "%s cipher %s", facts.protocol, facts.cipher);
    session->client.tls = bytes_of_text(session->tls);
    session->client.tls_bits = facts.cipher_bits;
    return verdict_accept();
}

MUST_USE static struct verdict starttls_allowed(const struct session *session,
                                                const struct smtp_command *command)
{
    if (command->argument.count > 0)
        return verdict_of(CAUSE_PROTOCOL_SYNTAX);
    /* After a login in clear there is no way back (RFC 4954 4 forbids AUTH a second time). */
    if (session->client.tls.count > 0 || session->client.user.count > 0)
        return verdict_of(CAUSE_PROTOCOL_SEQUENCE);
    /* A handshake that cannot succeed is not begun: the client may go on without (RFC 3207 4). */
    if (session_offers_tls(session))
        return tls_context_stands(session->receive->settings.tls)
                   ? verdict_accept()
                   : verdict_with(CAUSE_TLS_UNAVAILABLE,
                                  BYTES_LITERAL("the keeper of keys is gone"));
    /* Certificates are set up but could not be used: our fault, and not for ever. */
    const bool wanted =
        session->config->tls_certificate[0] && session->listen->tls == TLS_MODE_STARTTLS;
    return verdict_of(wanted ? CAUSE_TLS_UNAVAILABLE : CAUSE_PROTOCOL_NOT_IMPLEMENTED);
}

struct verdict verb_starttls(struct session *session, const struct smtp_command *command)
{
    REQUIRE(starttls_allowed(session, command));
    session_say(session, "220 2.0.0 Ready to start TLS");
    session_flush(session);
    if (session->lost)
        return verdict_of(CAUSE_CLIENT_LOST);
    transaction_reset(session);
    REQUIRE(session_handshake(session));
    session->state = STATE_FRESH;
    session->client.helo = BYTES_EMPTY;
    session->client.esmtp = false;
    return verdict_accept();
}
