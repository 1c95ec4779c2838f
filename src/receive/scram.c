/*
 * SCRAM-SHA-256 and -PLUS (RFC 7677, 9266) by libgsasl. Its steps only compute, on the session's
 * fiber; the user's keys are looked up before the first one, so its callback never sleeps.
 *
 * An unknown user gets a salt that stays the same and keys that nobody has, so he is not told from
 * one who mistyped. Fails: 454 when the directory could not answer.
 */
#include <gsasl.h>

#include "receive/sasl.h"
#include "receive/session.h"

enum { DECOY_ITERATIONS = 4096, SALT_BYTES = 16 };

struct scram {
    struct session *session;
    struct login login;
    Gsasl *library;
    Gsasl_session *exchange;
    struct directory_scram keys;
    bool known;
};

/* ------------------------------------------------------------------ what the library asks for */

static void property_base64(const struct scram *scram, Gsasl_property property, struct bytes value)
{
    CLEANUP(buffer_free) struct buffer text = BUFFER_WITH_LIMIT(4 * KIB);

    base64_encode(&text, value);
    buffer_add_byte(&text, 0);
    if (!text.failed)
        gsasl_property_set(scram->exchange, property, (const char *)text.at);
}

static int scram_callback(Gsasl *library UNUSED, Gsasl_session *exchange, Gsasl_property property)
{
    struct scram *scram = gsasl_session_hook_get(exchange);
    uint8_t binding[SECRET_KEY_BYTES];
    char number[16];

    if (property == GSASL_SCRAM_ITER) {
        snprintf(number, sizeof number, "%u", scram->keys.iterations);
        gsasl_property_set(exchange, property, number);
    } else if (property == GSASL_SCRAM_SALT) {
        property_base64(scram, property, scram->keys.salt);
    } else if (property == GSASL_SCRAM_STOREDKEY) {
        property_base64(scram, property, scram->keys.stored_key);
    } else if (property == GSASL_SCRAM_SERVERKEY) {
        property_base64(scram, property, scram->keys.server_key);
    } else if (property == GSASL_CB_TLS_EXPORTER &&
               tls_channel_binding(scram->session->stream, binding)) {
        property_base64(scram, property, bytes_of(binding, sizeof binding));
    } else {
        return GSASL_NO_CALLBACK;
    }
    return GSASL_OK;
}

/* ------------------------------------------------------------------ keys */

MUST_USE static struct verdict keys_decoy(struct scram *scram)
{
    struct session *session = scram->session;
    uint8_t *octets = arena_take(&session->transaction_arena, 3 * SECRET_KEY_BYTES);

    if (!octets || !secret_mac(bytes_of(session->receive->decoy_key, SECRET_KEY_BYTES),
                               scram->login.name, octets))
        return verdict_of(CAUSE_SERVER_BUSY);
    random_fill((struct span){octets + SECRET_KEY_BYTES, 2 * SECRET_KEY_BYTES});
    scram->keys = (struct directory_scram){
        .iterations = DECOY_ITERATIONS,
        .salt = bytes_of(octets, SALT_BYTES),
        .stored_key = bytes_of(octets + SECRET_KEY_BYTES, SECRET_KEY_BYTES),
        .server_key = bytes_of(octets + 2 * SECRET_KEY_BYTES, SECRET_KEY_BYTES),
    };
    return verdict_accept();
}

MUST_USE static struct verdict keys_find(struct scram *scram)
{
    struct session *session = scram->session;
    const struct lookup lookup =
        directory_find_scram(session->receive->settings.directory, &session->transaction_arena,
                             scram->login.address, &scram->keys);

    scram->known = lookup.status == LOOKUP_FOUND;
    switch (lookup.status) {
    case LOOKUP_FOUND:
        return verdict_accept();
    case LOOKUP_ABSENT:
        return keys_decoy(scram);
    case LOOKUP_FAILED:
        break;
    }
    return verdict_with(CAUSE_AUTH_UNAVAILABLE, lookup.detail);
}

/* ------------------------------------------------------------------ the exchange */

/* One step; *more tells that the library waits for another message. */
MUST_USE static struct verdict scram_step(struct scram *scram, struct bytes in, struct bytes *out,
                                          bool *more)
{
    char *made = NULL;
    size_t count = 0;

    if (!sasl_scram_is_text(in))
        return verdict_with(CAUSE_PROTOCOL_SYNTAX, BYTES_LITERAL("AUTH SCRAM: malformed"));
    const int result = gsasl_step(scram->exchange, (const char *)in.at, in.count, &made, &count);

    *out = arena_copy(&scram->session->transaction_arena, bytes_of(made, count));
    gsasl_free(made);
    *more = result == GSASL_NEEDS_MORE;
    if (result == GSASL_OK || result == GSASL_NEEDS_MORE)
        return verdict_accept();
    if (result == GSASL_AUTHENTICATION_ERROR)
        return login_refused(scram->session, &scram->login);
    if (result == GSASL_MECHANISM_PARSE_ERROR)
        return verdict_with(CAUSE_PROTOCOL_SYNTAX, BYTES_LITERAL("AUTH SCRAM: malformed"));
    return verdict_with(CAUSE_AUTH_UNAVAILABLE, bytes_of_text(gsasl_strerror(result)));
}

MUST_USE static struct verdict scram_finish(struct scram *scram)
{
    const struct bytes act_as = bytes_of_text(gsasl_property_fast(scram->exchange, GSASL_AUTHZID));

    if (!scram->known || (act_as.count > 0 && !bytes_equal_nocase(act_as, scram->login.name)))
        return login_refused(scram->session, &scram->login);
    return login_finish(scram->session, scram->login.address);
}

/* The last challenge carries the server's own proof; the client answers it with nothing. */
MUST_USE static struct verdict scram_run(struct scram *scram, struct bytes message)
{
    bool more = true;

    for (int i = 0; more && i < 8; i++) {
        struct bytes challenge;

        REQUIRE(scram_step(scram, message, &challenge, &more));
        REQUIRE(auth_ask(scram->session, challenge, &message));
    }
    if (more)
        return verdict_with(CAUSE_PROTOCOL_SYNTAX, BYTES_LITERAL("AUTH SCRAM: no end"));
    return scram_finish(scram);
}

static void scram_close(struct scram *scram)
{
    if (scram->exchange)
        gsasl_finish(scram->exchange);
    if (scram->library)
        gsasl_done(scram->library);
}

MUST_USE static struct verdict scram_start(struct scram *scram, const char *mechanism,
                                           struct bytes first)
{
    if (gsasl_init(&scram->library) != GSASL_OK)
        return verdict_of(CAUSE_AUTH_UNAVAILABLE);
    gsasl_callback_set(scram->library, scram_callback);
    if (gsasl_server_start(scram->library, mechanism, &scram->exchange) != GSASL_OK)
        return verdict_of(CAUSE_AUTH_UNAVAILABLE);
    gsasl_session_hook_set(scram->exchange, scram);
    return scram_run(scram, first);
}

struct verdict login_by_scram(struct session *session, bool plus, struct bytes initial)
{
    const char *mechanism = plus ? "SCRAM-SHA-256-PLUS" : "SCRAM-SHA-256";
    CLEANUP(scram_close) struct scram scram = {.session = session};
    struct bytes first, name;

    REQUIRE(auth_first(session, initial, &first));
    if (!sasl_scram_user(&session->transaction_arena, first, &name))
        return verdict_with(CAUSE_PROTOCOL_SYNTAX, BYTES_LITERAL("AUTH SCRAM: malformed"));
    scram.login = login_of(session, name);
    if (scram.login.domain && scram.login.domain->passwords.family != ENDPOINT_NONE && !plus)
        return login_through_dovecot(session, &scram.login, mechanism, first);
    /* Where only a bind can check passwords, the client has to choose PLAIN or LOGIN. */
    if (!directory_has_keys(session->receive->settings.directory, scram.login.address))
        return verdict_of(CAUSE_AUTH_MECHANISM);
    REQUIRE(keys_find(&scram));
    return scram_start(&scram, mechanism, first);
}
