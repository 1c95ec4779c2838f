/*
 * Logging in at a next hop (RFC 4954) by libgsasl: SCRAM-SHA-256 (RFC 7677), else PLAIN, else LOGIN
 * for servers that know nothing better. Only under TLS. Name and password lie in a file of their
 * own, a line each, read anew for each session, so that a new password needs no restart.
 *
 * Fails: a login that is refused is our fault, and defers. Never: logs or replies with a secret.
 */
#include <errno.h>
#include <gsasl.h>
#include <string.h>
#include <sys/stat.h>

#include "deliver/inside.h"

enum { FILE_MAX = 4096, STEPS_MAX = 8, ITERATIONS_MAX = 1000000 };

static const char *const MECHANISMS[] = {"SCRAM-SHA-256", "PLAIN", "LOGIN"};

struct login {
    struct deliver_channel *channel;
    uint8_t file[FILE_MAX];
    char *name, *password; /* into `file` */
    Gsasl *library;
    Gsasl_session *exchange;
    const char *in; /* the server's challenge in base 64 */
    char *out;      /* ours */
    int result;
};

/* ------------------------------------------------------------------ name and password */

static bool login_fails(const struct login *login, enum cause cause, const char *why,
                        struct outcome *trouble)
{
    struct deliver_channel *channel = login->channel;

    *trouble = outcome_of_verdict(
        channel, STAGE_AUTH, verdict_with(cause, arena_copy(channel->arena, bytes_of_text(why))));
    trouble->reply = trouble->verdict.detail;
    channel_quit(channel);
    return false;
}

/* Two lines, each up to its end. */
static bool login_parse(struct login *login, size_t count)
{
    struct bytes first, second;
    const struct bytes rest = bytes_cut(bytes_of(login->file, count), '\n', &first);

    bytes_cut(rest, '\n', &second);
    while (first.count > 0 && first.at[first.count - 1] == '\r')
        first.count--;
    while (second.count > 0 && second.at[second.count - 1] == '\r')
        second.count--;
    if (first.count == 0 || second.count == 0 || memchr(login->file, 0, count))
        return false;
    login->name = (char *)login->file;
    login->name[first.count] = 0;
    login->password = (char *)login->file + (second.at - login->file);
    login->password[second.count] = 0;
    return true;
}

static bool login_read(struct login *login, const char *path)
{
    CLEANUP(file_close_ptr) struct file *file = NULL;
    const struct span room = {login->file, sizeof login->file - 1};

    if (file_open(path, FILE_READ, &file).status != IO_OK)
        return false;
    const struct io_result got = file_read_at(file, room, 0);
    return got.status == IO_OK && got.count < room.count && login_parse(login, got.count);
}

static bool file_is_private(const char *path, char *why, size_t why_room)
{
    struct stat facts;

    if (stat(path, &facts) != 0) {
        if (errno == EACCES) /* this process may not see it, another opens it for us */
            return true;
        snprintf(why, why_room, "login %s: %s", path, strerror(errno));
    } else if (facts.st_mode & (S_IROTH | S_IWOTH)) {
        snprintf(why, why_room, "login %s can be read by everybody: chmod o= %s", path, path);
    } else {
        return true;
    }
    return false;
}

bool login_check(const struct config *config, char *why, size_t why_room)
{
    const char *path = config->relay_sending.login;

    if (path && *path && !file_is_private(path, why, why_room))
        return false;
    for (unsigned i = 0; i < config->route_count; i++) {
        path = config->routes[i].sending.login;
        if (path && *path && !file_is_private(path, why, why_room))
            return false;
    }
    return true;
}

/* ------------------------------------------------------------------ the mechanism */

/* Does a line of the reply to EHLO that begins with AUTH name it? */
static bool login_is_offered(struct bytes greeting, const char *mechanism)
{
    while (greeting.count > 0) {
        struct bytes line = BYTES_EMPTY, word = BYTES_EMPTY;
        greeting = bytes_cut(greeting, '\n', &line);
        line = bytes_skip(line, 4);
        if (!bytes_starts_with_nocase(line, BYTES_LITERAL("AUTH")))
            continue;
        for (line = bytes_skip(line, 5); line.count > 0;) {
            line = bytes_cut(line, ' ', &word);
            if (bytes_equal_text_nocase(bytes_trim(word), mechanism))
                return true;
        }
    }
    return false;
}

static const char *login_choose(const struct login *login)
{
    for (size_t i = 0; i < COUNT_OF(MECHANISMS); i++)
        if (login_is_offered(login->channel->greeting, MECHANISMS[i]))
            return MECHANISMS[i];
    return NULL;
}

/* The server says how often the password is hashed, and may not keep us busy for minutes. */
static bool iterations_are_bearable(struct login *login)
{
    struct bytes plain, part;
    uint64_t count = 0;

    if (!login->in || !base64_decode(login->channel->arena, bytes_of_text(login->in), &plain))
        return true; /* the library says what is wrong with it */
    while (plain.count > 0) {
        plain = bytes_cut(plain, ',', &part);
        if (bytes_starts_with(part, BYTES_LITERAL("i=")))
            return bytes_to_u64(bytes_skip(part, 2), &count) && count <= ITERATIONS_MAX;
    }
    return true;
}

static void login_forget_out(struct login *login)
{
    if (login->out)
        secret_wipe(bytes_of_text(login->out));
    gsasl_free(login->out);
    login->out = NULL;
}

/* In the worker pool: SCRAM hashes for milliseconds. */
static void login_step_in_pool(void *argument)
{
    struct login *login = argument;

    login_forget_out(login);
    login->result = gsasl_step64(login->exchange, login->in, &login->out);
}

static bool login_step(struct login *login, struct bytes challenge)
{
    login->in = arena_text(login->channel->arena, challenge);
    if (!login->in || !iterations_are_bearable(login) ||
        work_run(login_step_in_pool, login) != IO_OK)
        return false;
    return login->result == GSASL_OK || login->result == GSASL_NEEDS_MORE;
}

/* ------------------------------------------------------------------ the exchange */

/* Says a line that holds a secret: it is wiped, and no transcript shows it. */
static bool login_line(struct login *login, const char *before, const char *secret,
                       struct smtp_reply *reply, struct outcome *trouble)
{
    CLEANUP(buffer_free) struct buffer line = BUFFER_WITH_LIMIT(16 * KIB);

    buffer_print(&line, "%s%s\r\n", before, secret);
    buffer_add_byte(&line, 0);
    if (line.failed)
        return login_fails(login, CAUSE_LOCAL_FAILED, "out of memory", trouble);
    login->channel->secrets[0] = bytes_of_text(secret);
    char shown[80];
    snprintf(shown, sizeof shown, "%s%s\r\n", before, *secret ? "(secret)" : "");
    const bool said =
        session_utter(login->channel, STAGE_AUTH,
                      (struct session_line){(const char *)line.at, shown}, reply, trouble);
    login->channel->secrets[0] = BYTES_EMPTY;
    secret_wipe(buffer_view(&line));
    return said;
}

static struct bytes challenge_of(const struct smtp_reply *reply)
{
    return bytes_trim(bytes_skip(reply->text, 4));
}

/* The first line: with what the mechanism says first, unless the server speaks first. */
static bool login_begin(struct login *login, const char *mechanism, struct smtp_reply *reply,
                        struct outcome *trouble)
{
    char command[64];
    const bool server_first = strcmp(mechanism, "LOGIN") == 0;

    snprintf(command, sizeof command, "AUTH %s%s", mechanism, server_first ? "" : " ");
    if (!server_first && !login_step(login, BYTES_EMPTY))
        return login_fails(login, CAUSE_LOGIN_REFUSED, gsasl_strerror(login->result), trouble);
    return login_line(login, command, server_first ? "" : login->out, reply, trouble);
}

/* What a refusal means: the words are the server's, the fault is ours until somebody looks. */
static bool login_refused(struct login *login, struct outcome *trouble)
{
    if (!login->channel->stream)
        return false; /* the connection's trouble */
    trouble->verdict = verdict_with(
        trouble->code / 100 == 4 ? CAUSE_REMOTE_DEFERRED : CAUSE_LOGIN_REFUSED, trouble->reply);
    channel_quit(login->channel);
    return false;
}

static bool login_exchange(struct login *login, const char *mechanism, struct outcome *trouble)
{
    struct smtp_reply reply = {0};
    bool said = login_begin(login, mechanism, &reply, trouble);

    for (unsigned step = 0; !said && login->channel->stream && reply.code == 334; step++) {
        if (step == STEPS_MAX || !login_step(login, challenge_of(&reply)))
            return login_fails(login, CAUSE_LOGIN_REFUSED,
                               "the next hop's answers do not fit the mechanism", trouble);
        said = login_line(login, "", login->out ? login->out : "", &reply, trouble);
    }
    if (!said)
        return login_refused(login, trouble);
    if (login->result == GSASL_OK)
        return true;
    /* SCRAM proves the server, too; one that skips its proof may not know the password. */
    return login_fails(login, CAUSE_LOGIN_REFUSED, "the next hop did not prove itself", trouble);
}

static bool login_run(struct login *login, struct outcome *trouble)
{
    const char *const mechanism = login_choose(login);

    if (!mechanism)
        return login_fails(login, CAUSE_LOGIN_REFUSED,
                           "the next hop offers no way to log in that is known here", trouble);
    if (gsasl_init(&login->library) != GSASL_OK ||
        gsasl_client_start(login->library, mechanism, &login->exchange) != GSASL_OK)
        return login_fails(login, CAUSE_LOCAL_FAILED, "libgsasl cannot begin", trouble);
    gsasl_property_set(login->exchange, GSASL_AUTHID, login->name);
    gsasl_property_set(login->exchange, GSASL_PASSWORD, login->password);
    login->channel->secrets[1] = bytes_of_text(login->password);
    const bool in = login_exchange(login, mechanism, trouble);
    login->channel->secrets[1] = BYTES_EMPTY;
    return in;
}

bool login_say(struct deliver_channel *channel, struct outcome *trouble)
{
    const struct config_sending *sending = channel->to.sending;

    if (!sending || !sending->login || !*sending->login)
        return true;
    struct login *login = calloc(1, sizeof *login);
    struct login nothing = {.channel = channel};
    if (!login)
        return login_fails(&nothing, CAUSE_LOCAL_FAILED, "out of memory", trouble);
    login->channel = channel;
    bool in = false;
    if (!channel->tls[0])
        login_fails(login, CAUSE_TLS_POLICY_UNMET, "no login without TLS", trouble);
    else if (!login_read(login, sending->login))
        login_fails(login, CAUSE_LOGIN_REFUSED,
                    "the login's file cannot be used: two lines, name and password", trouble);
    else
        in = login_run(login, trouble);
    login_forget_out(login);
    if (login->exchange)
        gsasl_finish(login->exchange);
    if (login->library)
        gsasl_done(login->library);
    secret_wipe(bytes_of(login->file, sizeof login->file));
    free(login);
    return in;
}
