/*
 * Who a login name is, and who knows its password: the directory, or Dovecot for domains that say
 * so.
 *
 * Sleeps: on the backend. Fails: 454 when it could not answer; 535 only when it said no. The
 * journal gets the name and the backend's words, never a secret.
 */
#include <string.h>

#include "receive/session.h"

enum { BACKEND_SECONDS = 20 };

/* ------------------------------------------------------------------ names */

/* Names without a domain belong to the one that is set, or to the only one there is. */
static struct bytes login_default_domain(const struct config *config)
{
    if (config->auth.domain && config->auth.domain[0])
        return bytes_of_text(config->auth.domain);
    return config->domain_count == 1 ? bytes_of_text(config->domains[0].name) : BYTES_EMPTY;
}

static bool name_is_usable(struct bytes name)
{
    if (name.count == 0 || name.count > MAIL_DOMAIN_MAX || !bytes_is_utf8(name))
        return false;
    for (size_t i = 0; i < name.count; i++)
        if (name.at[i] <= 0x20 || name.at[i] == 0x7f)
            return false;
    return true;
}

struct login login_of(const struct session *session, struct bytes name)
{
    const size_t at = bytes_find_last_byte(name, '@');
    struct login login = {.name = name};

    if (!name_is_usable(name))
        return login;
    login.address.local = bytes_slice(name, 0, at);
    login.address.domain =
        at < name.count ? bytes_skip(name, at + 1) : login_default_domain(session->config);
    login.domain = config_find_domain(session->config, login.address.domain);
    if (login.address.local.count == 0 || !login.domain)
        login = (struct login){.name = name};
    return login;
}

/* ------------------------------------------------------------------ outcomes */

static struct bytes login_words(struct session *session, const struct login *login,
                                struct bytes words)
{
    return arena_print(&session->transaction_arena, "user \"%.*s\"%s%.*s",
                       (int)MIN_OF(login->name.count, (size_t)80),
                       login->name.count ? (const char *)login->name.at : "",
                       words.count ? ": " : "", BYTES_PRINT(words));
}

struct verdict login_refused(struct session *session, const struct login *login)
{
    return verdict_with(CAUSE_AUTH_FAILED, login_words(session, login, BYTES_EMPTY));
}

MUST_USE static struct verdict login_unavailable(struct session *session, const struct login *login,
                                                 struct bytes words)
{
    return verdict_with(CAUSE_AUTH_UNAVAILABLE, login_words(session, login, words));
}

struct verdict login_finish(struct session *session, struct address user)
{
    const struct bytes name = arena_print(&session->connection_arena, "%.*s@%.*s",
                                          BYTES_PRINT(user.local), BYTES_PRINT(user.domain));

    if (name.count == 0)
        return verdict_of(CAUSE_SERVER_BUSY);
    session->client.user = name;
    session->client.may_relay = true;
    return verdict_accept();
}

/* ------------------------------------------------------------------ Dovecot */

/* Dovecot may answer with another spelling, or a name without a domain. */
MUST_USE static struct verdict dovecot_finish(struct session *session, const struct login *login,
                                              struct bytes name)
{
    const struct login found = login_of(session, name);

    if (found.domain)
        return login_finish(session, found.address);
    return login_finish(
        session, (struct address){.local = bytes_slice(name, 0, bytes_find_last_byte(name, '@')),
                                  .domain = bytes_of_text(login->domain->name)});
}

struct verdict login_through_dovecot(struct session *session, const struct login *login,
                                     const char *mechanism, struct bytes initial)
{
    CLEANUP(dovecot_auth_close) struct dovecot_auth *auth = NULL;
    struct arena *arena = &session->transaction_arena;
    const struct dovecot_request request = {
        .mechanism = mechanism,
        .initial = initial,
        .has_initial = true,
        .secured = session->client.tls.count > 0,
        .local = session->client.local,
        .remote = session->client.remote,
        .deadline_us = session_deadline(session, BACKEND_SECONDS * US_PER_S),
    };
    struct dovecot_answer answer =
        dovecot_auth_begin(arena, &login->domain->passwords, &request, &auth);

    for (int i = 0; answer.result == DOVECOT_CONTINUE && i < 8; i++) {
        struct bytes response;

        REQUIRE(auth_ask(session, answer.challenge, &response));
        answer = dovecot_auth_continue(auth, arena, response);
    }
    switch (answer.result) {
    case DOVECOT_OK:
        return dovecot_finish(session, login, answer.user);
    case DOVECOT_DENIED:
        return login_refused(session, login);
    case DOVECOT_CONTINUE:
    case DOVECOT_FAILED:
        break;
    }
    return login_unavailable(session, login, answer.words);
}

MUST_USE static struct verdict dovecot_password(struct session *session, const struct login *login,
                                                struct bytes password)
{
    const size_t count = login->name.count + password.count + 2;
    uint8_t *message = arena_take(&session->transaction_arena, count);

    if (!message)
        return verdict_of(CAUSE_SERVER_BUSY);
    message[0] = '\0';
    memcpy(message + 1, login->name.at, login->name.count);
    message[login->name.count + 1] = '\0';
    if (password.count > 0)
        memcpy(message + login->name.count + 2, password.at, password.count);
    const struct verdict verdict =
        login_through_dovecot(session, login, "PLAIN", bytes_of(message, count));
    secret_wipe(bytes_of(message, count));
    return verdict;
}

/* ------------------------------------------------------------------ the directory */

MUST_USE static struct verdict directory_password(struct session *session,
                                                  const struct login *login, struct bytes password)
{
    const struct directory_credentials credentials = {login->address, password};
    struct directory_user user;
    const struct lookup lookup = directory_check_password(
        session->receive->settings.directory, &session->transaction_arena, &credentials, &user);

    switch (lookup.status) {
    case LOOKUP_FOUND:
        return login_finish(session, user.address);
    case LOOKUP_ABSENT:
        return login_refused(session, login);
    case LOOKUP_FAILED:
        break;
    }
    return login_unavailable(session, login, lookup.detail);
}

struct verdict login_by_password(struct session *session, const struct login *login,
                                 struct bytes password)
{
    /* NUL parts the fields of PLAIN, so in LOGIN it could forge them. */
    if (bytes_find_byte(password, '\0') < password.count)
        return login_refused(session, login);
    if (login->domain && login->domain->passwords.family != ENDPOINT_NONE)
        return dovecot_password(session, login, password);
    return directory_password(session, login, password);
}
