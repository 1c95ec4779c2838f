/*
 * AUTH (RFC 4954): the exchange on the wire, PLAIN and LOGIN, and what a failure costs. Who knows
 * the passwords is login.c's business.
 *
 * Offered on listeners of the kind submission, in TLS (or as `auth { without_tls = yes }` says).
 * 535 only when a backend said no; while it cannot say, 454. Sleeps: on the client and the backend.
 * Secrets are wiped from the input and the arena before anybody else uses that memory.
 */
#include "receive/sasl.h"
#include "receive/session.h"

bool auth_is_offered(const struct session *session)
{
    return session->listen->kind == LISTEN_SUBMISSION &&
           (session->client.tls.count > 0 || session->config->auth.without_tls);
}

static bool can_bind(const struct session *session)
{
    uint8_t binding[SECRET_KEY_BYTES];

    return tls_channel_binding(session->stream, binding);
}

void auth_say_offer(struct session *session)
{
    const bool scram = session->config->auth.scram;

    session_say(session, "250-AUTH PLAIN LOGIN%s%s", scram ? " SCRAM-SHA-256" : "",
                scram && can_bind(session) ? " SCRAM-SHA-256-PLUS" : "");
}

/* ------------------------------------------------------------------ challenges and answers */

MUST_USE static struct verdict auth_decode(struct session *session, struct bytes text,
                                           struct bytes *plain)
{
    const bool right = base64_decode(&session->transaction_arena, text, plain);

    secret_wipe(text); /* in the input's buffer, which goes back to the pool */
    if (right)
        return verdict_accept();
    return session->transaction_arena.failed
               ? verdict_of(CAUSE_SERVER_BUSY)
               : verdict_with(CAUSE_PROTOCOL_SYNTAX, BYTES_LITERAL("AUTH: no base 64"));
}

MUST_USE static struct verdict auth_broken(struct session *session, enum wire_status status)
{
    switch (status) {
    case WIRE_TIMEOUT:
        session->closing = true;
        return verdict_of(CAUSE_CLIENT_IDLE);
    case WIRE_CANCELLED:
        session->closing = true;
        return verdict_of(CAUSE_SERVER_STOPPING);
    case WIRE_TOO_LONG:
    case WIRE_MALFORMED:
        return verdict_with(CAUSE_PROTOCOL_SYNTAX, BYTES_LITERAL("AUTH: no line of base 64"));
    case WIRE_END:
    case WIRE_FAILED:
    case WIRE_OK:
        break;
    }
    session->lost = true;
    return verdict_of(CAUSE_CLIENT_LOST);
}

struct verdict auth_ask(struct session *session, struct bytes challenge, struct bytes *answer)
{
    CLEANUP(buffer_free) struct buffer encoded = BUFFER_WITH_LIMIT(64 * KIB);
    struct bytes line = BYTES_EMPTY;

    base64_encode(&encoded, challenge);
    session_say(session, "334 %.*s", BYTES_PRINT(buffer_view(&encoded)));
    const enum wire_status status = session_next_line(session, &line);
    session->answered = false;
    if (status == WIRE_OK)
        dialogue_note(&session->dialogue, "an answer of the login, left out");
    if (status != WIRE_OK)
        return auth_broken(session, status);
    if (bytes_equal_text(line, "*"))
        return verdict_of(CAUSE_AUTH_CANCELLED);
    return auth_decode(session, line, answer);
}

struct verdict auth_first(struct session *session, struct bytes initial, struct bytes *answer)
{
    *answer = initial;
    return initial.at ? verdict_accept() : auth_ask(session, BYTES_EMPTY, answer);
}

/* ------------------------------------------------------------------ mechanisms */

typedef struct verdict mechanism_run(struct session *session, struct bytes initial);

/* The name and the password as one; acting for another user is nobody's right here. */
MUST_USE static struct verdict run_plain(struct session *session, struct bytes initial)
{
    struct bytes message;
    struct sasl_plain plain;

    REQUIRE(auth_first(session, initial, &message));
    if (!sasl_parse_plain(message, &plain)) {
        secret_wipe(message);
        return verdict_with(CAUSE_PROTOCOL_SYNTAX, BYTES_LITERAL("AUTH PLAIN: malformed"));
    }
    const struct login login = login_of(session, plain.name);
    const bool himself = plain.act_as.count == 0 || bytes_equal_nocase(plain.act_as, plain.name);
    const struct verdict verdict = himself ? login_by_password(session, &login, plain.password)
                                           : login_refused(session, &login);
    secret_wipe(message);
    return verdict;
}

/* Two questions; the initial response, when there is one, answers the first. */
MUST_USE static struct verdict run_login(struct session *session, struct bytes initial)
{
    struct bytes name = initial, password;

    if (!initial.at)
        REQUIRE(auth_ask(session, BYTES_LITERAL("Username:"), &name));
    REQUIRE(auth_ask(session, BYTES_LITERAL("Password:"), &password));
    const struct login login = login_of(session, name);
    const struct verdict verdict = login_by_password(session, &login, password);
    secret_wipe(password);
    return verdict;
}

MUST_USE static struct verdict run_scram(struct session *session, struct bytes initial)
{
    return login_by_scram(session, false, initial);
}

MUST_USE static struct verdict run_scram_plus(struct session *session, struct bytes initial)
{
    return login_by_scram(session, true, initial);
}

struct mechanism {
    const char *name;
    mechanism_run *run;
};

static const struct mechanism *mechanism_find(const struct session *session, struct bytes name)
{
    static const struct mechanism rows[] = {
        {"PLAIN", run_plain},
        {"LOGIN", run_login},
        {"SCRAM-SHA-256", run_scram},
        {"SCRAM-SHA-256-PLUS", run_scram_plus},
    };
    size_t offered = 2;

    if (session->config->auth.scram)
        offered = can_bind(session) ? 4 : 3;
    for (size_t i = 0; i < offered; i++)
        if (bytes_equal_text_nocase(name, rows[i].name))
            return &rows[i];
    return NULL;
}

/* ------------------------------------------------------------------ the command */

MUST_USE static struct verdict auth_allowed(const struct session *session)
{
    if (session->listen->kind != LISTEN_SUBMISSION)
        return verdict_of(session->client.tls.count ? CAUSE_PROTOCOL_NOT_IMPLEMENTED
                                                    : CAUSE_PROTOCOL_SEQUENCE);
    if (!session->client.esmtp || session->client.user.count > 0)
        return verdict_of(CAUSE_PROTOCOL_SEQUENCE);
    return auth_is_offered(session) ? verdict_accept() : verdict_of(CAUSE_TLS_REQUIRED);
}

MUST_USE static struct verdict auth_exchange(struct session *session, struct bytes argument)
{
    const struct sasl_command said = sasl_parse_command(argument);
    const struct mechanism *mechanism = mechanism_find(session, said.mechanism);
    struct bytes initial = BYTES_EMPTY;

    if (!mechanism) {
        secret_wipe(said.initial);
        return verdict_of(CAUSE_AUTH_MECHANISM);
    }
    if (said.has_initial)
        REQUIRE(auth_decode(session, said.initial, &initial));
    if (said.has_initial && !initial.at)
        initial = BYTES_LITERAL("");
    REQUIRE(mechanism->run(session, initial));
    session->client.mechanism = bytes_of_text(mechanism->name);
    return verdict_accept();
}

/* Whoever guesses has to wait, and not for long. Sleeps. */
static void auth_pause(const struct session *session)
{
    const bool masked = fiber_mask_cancel(false);

    if (session->config->auth.delay_us > 0)
        fiber_sleep_until(session_deadline(session, session->config->auth.delay_us));
    fiber_mask_cancel(masked);
}

static bool is_a_try(enum cause cause)
{
    return cause == CAUSE_AUTH_FAILED || cause == CAUSE_AUTH_CANCELLED ||
           cause == CAUSE_AUTH_MECHANISM || cause == CAUSE_PROTOCOL_SYNTAX;
}

struct verdict verb_auth(struct session *session, const struct smtp_command *command)
{
    REQUIRE(auth_allowed(session));
    REQUIRE(rates_look(session, RATE_FAILURES));
    const struct verdict verdict = auth_exchange(session, command->argument);

    if (verdict_accepts(&verdict))
        session_say(session, "235 2.7.0 Authentication successful");
    if (!is_a_try(verdict.cause))
        return verdict;
    if (verdict.cause == CAUSE_AUTH_FAILED) {
        const struct verdict counted UNUSED = rates_take(session, RATE_FAILURES);
        auth_pause(session);
    }
    if (++session->auth_failures < MAX_OF(session->config->auth.failures, 1u))
        return verdict;
    return verdict_with(CAUSE_AUTH_FAILURES, verdict.detail);
}
