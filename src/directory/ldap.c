/*
 * ldap: users and aliases by libldap. Connecting, StartTLS and bind block, so they run in the
 * worker pool, each step with what is left of the time; a search sleeps on the socket.
 *
 * LDAP says "no entries" also when a filter names an attribute that nobody has, or when we may not
 * read anything. So before the first ABSENT of a connection, and once a minute, each attribute of
 * the filter has to be on at least one entry; otherwise the source is MISCONFIGURED. A size limit,
 * a referral or a partial result is PARTIAL, never ABSENT.
 */
#include <errno.h>
#include <fcntl.h>
#include <lber.h>
#include <ldap.h>
#include <string.h>
#include <sys/time.h>

#include "directory/directory.h"
#include "directory/remote.h"

enum { ENTRIES_MAX = 1000, PASSWORD_MAX = 1024 };
static const uint64_t PROVEN_FOR_US = 60 * US_PER_S;
static ber_len_t INCOMING_MAX = 4 * 1024 * 1024;

struct source {
    struct arena arena;
    struct ldap_location location;
};

struct connection {
    LDAP *session;
    int descriptor;
    uint64_t proven_us; /* when each attribute of the filter was last seen; 0: never */
};

/* ------------------------------------------------------------------ errors */

static enum lookup_reason reason_of(int code)
{
    switch (code) {
    case LDAP_TIMEOUT:
    case LDAP_TIMELIMIT_EXCEEDED:
        return LOOKUP_REASON_TIMEOUT;
    case LDAP_SIZELIMIT_EXCEEDED:
    case LDAP_ADMINLIMIT_EXCEEDED:
    case LDAP_PARTIAL_RESULTS:
    case LDAP_REFERRAL:
    case LDAP_MORE_RESULTS_TO_RETURN:
        return LOOKUP_REASON_PARTIAL;
    case LDAP_INVALID_CREDENTIALS:
    case LDAP_INSUFFICIENT_ACCESS:
    case LDAP_INAPPROPRIATE_AUTH:
    case LDAP_STRONG_AUTH_REQUIRED:
    case LDAP_AUTH_METHOD_NOT_SUPPORTED:
    case LDAP_CONFIDENTIALITY_REQUIRED:
    case LDAP_UNDEFINED_TYPE:
    case LDAP_INAPPROPRIATE_MATCHING:
    case LDAP_INVALID_SYNTAX:
    case LDAP_INVALID_DN_SYNTAX:
    case LDAP_NO_SUCH_OBJECT: /* the base, not the user */
    case LDAP_FILTER_ERROR:
    case LDAP_PARAM_ERROR:
        return LOOKUP_REASON_MISCONFIGURED;
    default: /* codes of the server and of the library, an open set */
        return LOOKUP_REASON_UNAVAILABLE;
    }
}

static void fail(const struct connection *connection, int code, const char *doing,
                 struct remote_answer *answer)
{
    char *words = NULL;

    if (connection->session)
        ldap_get_option(connection->session, LDAP_OPT_DIAGNOSTIC_MESSAGE, &words);
    remote_answer_fail(answer, reason_of(code), "%s: %s%s%.100s", doing, ldap_err2string(code),
                       words && words[0] ? ": " : "", words ? words : "");
    ldap_memfree(words);
}

static void fail_broken(const struct connection *connection, int code, const char *doing,
                        struct remote_answer *answer)
{
    fail(connection, code, doing, answer);
    answer->broken = true;
}

/* ------------------------------------------------------------------ connecting (worker pool) */

static struct timeval time_left(uint64_t deadline_us)
{
    const uint64_t now_us = clock_now_us();
    const uint64_t left_us = deadline_us > now_us + US_PER_MS ? deadline_us - now_us : US_PER_MS;

    return (struct timeval){.tv_sec = (time_t)(left_us / US_PER_S),
                            .tv_usec = (suseconds_t)(left_us % US_PER_S)};
}

/* The library's blocking calls end with what is left now. */
static void limit_time(const struct connection *connection, uint64_t deadline_us)
{
    const struct timeval left = time_left(deadline_us);

    ldap_set_option(connection->session, LDAP_OPT_NETWORK_TIMEOUT, &left);
    ldap_set_option(connection->session, LDAP_OPT_TIMEOUT, &left);
}

static bool set_options(const struct connection *connection, const struct source *source)
{
    const int version = LDAP_VERSION3, demand = LDAP_OPT_X_TLS_DEMAND, client = 0;
    LDAP *session = connection->session;
    bool fine = ldap_set_option(session, LDAP_OPT_PROTOCOL_VERSION, &version) == LDAP_SUCCESS &&
                ldap_set_option(session, LDAP_OPT_REFERRALS, LDAP_OPT_OFF) == LDAP_SUCCESS;

    if (!source->location.start_tls && strncmp(source->location.server, "ldaps://", 8) != 0)
        return fine;
    fine =
        fine && ldap_set_option(session, LDAP_OPT_X_TLS_REQUIRE_CERT, &demand) == LDAP_OPT_SUCCESS;
    if (source->location.ca_file[0])
        fine = fine && ldap_set_option(session, LDAP_OPT_X_TLS_CACERTFILE,
                                       source->location.ca_file) == LDAP_OPT_SUCCESS;
    return fine && ldap_set_option(session, LDAP_OPT_X_TLS_NEWCTX, &client) == LDAP_OPT_SUCCESS;
}

/* The first line of the file, read anew for each connection. By the disk of this world, since a
 * worker may have to ask its parent for the file; outside of fibers it blocks, as the library does.
 */
static bool read_password(const struct source *source, char *into, struct remote_answer *answer)
{
    const char *const path = source->location.password_file;

    into[0] = '\0';
    if (!path[0])
        return true;
    CLEANUP(file_close_ptr) struct file *file = NULL;
    struct io_result result = file_open(path, FILE_READ, &file);

    if (result.status == IO_OK)
        result = file_read_at(file, (struct span){(uint8_t *)into, PASSWORD_MAX - 1}, 0);
    if (result.status != IO_OK && result.status != IO_END) {
        remote_answer_fail(answer, LOOKUP_REASON_MISCONFIGURED, "%.120s: %s", path,
                           io_result_text(result));
        return false;
    }
    into[result.count] = '\0';
    into[strcspn(into, "\r\n")] = '\0';
    if (into[0])
        return true;
    /* An empty password would be an anonymous bind that "succeeds" (RFC 4513 section 5.1.2). */
    remote_answer_fail(answer, LOOKUP_REASON_MISCONFIGURED, "%.120s: no password in it", path);
    return false;
}

static bool bind_session(const struct connection *connection, const struct source *source,
                         struct remote_answer *answer)
{
    const char *const name = source->location.bind_name;
    char password[PASSWORD_MAX];

    if (!read_password(source, password, answer))
        return false;
    struct berval secret = {.bv_val = password, .bv_len = strlen(password)};
    const int code = ldap_sasl_bind_s(connection->session, name[0] ? name : NULL, LDAP_SASL_SIMPLE,
                                      &secret, NULL, NULL, NULL);

    explicit_bzero(password, sizeof password);
    if (code != LDAP_SUCCESS)
        fail(connection, code, "bind", answer);
    return code == LDAP_SUCCESS;
}

/* From here on nobody blocks on the socket. */
static bool prepare_socket(struct connection *connection, struct remote_answer *answer)
{
    Sockbuf *socket = NULL;

    if (ldap_get_option(connection->session, LDAP_OPT_DESC, &connection->descriptor) !=
            LDAP_SUCCESS ||
        connection->descriptor < 0 ||
        fcntl(connection->descriptor, F_SETFL,
              fcntl(connection->descriptor, F_GETFL) | O_NONBLOCK) != 0) {
        remote_answer_fail(answer, LOOKUP_REASON_UNAVAILABLE, "the connection has no socket");
        return false;
    }
    if (ldap_get_option(connection->session, LDAP_OPT_SOCKBUF, &socket) == LDAP_SUCCESS && socket)
        ber_sockbuf_ctrl(socket, LBER_SB_OPT_SET_MAX_INCOMING, &INCOMING_MAX);
    return true;
}

static bool connect_steps(struct connection *connection, const struct source *source,
                          uint64_t deadline_us, struct remote_answer *answer)
{
    int code = ldap_initialize(&connection->session, source->location.server);

    if (code != LDAP_SUCCESS) {
        fail(connection, code, "ldap", answer);
        return false;
    }
    if (!set_options(connection, source)) {
        remote_answer_fail(answer, LOOKUP_REASON_MISCONFIGURED,
                           "TLS cannot be set up (x-ca-file=%.100s)", source->location.ca_file);
        return false;
    }
    limit_time(connection, deadline_us);
    if (source->location.start_tls) {
        code = ldap_start_tls_s(connection->session, NULL, NULL);
        if (code != LDAP_SUCCESS) {
            fail(connection, code, "StartTLS", answer);
            answer->reason =
                code == LDAP_TIMEOUT ? LOOKUP_REASON_TIMEOUT : LOOKUP_REASON_UNAVAILABLE;
            return false;
        }
        limit_time(connection, deadline_us);
    }
    return bind_session(connection, source, answer) && prepare_socket(connection, answer);
}

static void disconnect(void *argument)
{
    struct connection *connection = argument;

    if (connection->session)
        ldap_unbind_ext(connection->session, NULL, NULL);
    free(connection);
}

static void *connect_to(void *argument, uint64_t deadline_us, struct remote_answer *answer)
{
    struct connection *connection = calloc(1, sizeof *connection);

    if (!connection) {
        remote_answer_fail(answer, LOOKUP_REASON_OVERLOADED, "out of memory");
        return NULL;
    }
    if (connect_steps(connection, argument, deadline_us, answer))
        return connection;
    disconnect(connection);
    return NULL;
}

/* ------------------------------------------------------------------ a search (fiber) */

struct search_task {
    struct connection *connection;
    const struct source *source;
    const char *filter;
    const char *attribute;
    const char *second; /* another attribute to be read, or NULL */
    int entries_max;
    uint64_t deadline_us;
    struct remote_answer *answer;
};

static bool wait_for(const struct search_task *task)
{
    const struct io_result result =
        descriptor_wait(task->connection->descriptor, false, task->deadline_us);

    if (result.status == IO_OK)
        return true;
    if (result.status == IO_TIMEOUT)
        remote_answer_fail(task->answer, LOOKUP_REASON_TIMEOUT,
                           "the LDAP server did not answer in time");
    else
        remote_answer_fail(task->answer,
                           result.status == IO_CANCELLED ? LOOKUP_REASON_CANCELLED
                                                         : LOOKUP_REASON_UNAVAILABLE,
                           "waiting for the LDAP server: %s", io_result_text(result));
    task->answer->broken = true;
    return false;
}

/* The whole answer, or NULL and why. Sleeps. */
static LDAPMessage *result_await(const struct search_task *task, int message, const char *doing)
{
    LDAP *session = task->connection->session;
    struct timeval none = {0};
    LDAPMessage *result = NULL;
    int code;

    while ((code = ldap_result(session, message, LDAP_MSG_ALL, &none, &result)) == 0)
        if (!wait_for(task))
            return NULL;
    if (code > 0)
        return result;
    ldap_get_option(session, LDAP_OPT_RESULT_CODE, &code);
    fail_broken(task->connection, code, doing, task->answer);
    return NULL;
}

static int library_scope(enum ldap_scope scope)
{
    switch (scope) {
    case LDAP_SCOPE_OF_SUB:
        return LDAP_SCOPE_SUBTREE;
    case LDAP_SCOPE_OF_ONE:
        return LDAP_SCOPE_ONELEVEL;
    case LDAP_SCOPE_OF_BASE:
        return LDAP_SCOPE_BASE;
    }
    return LDAP_SCOPE_SUBTREE;
}

/* The whole answer of a search, or NULL and why. Sleeps. */
static LDAPMessage *search_run(const struct search_task *task)
{
    LDAP *session = task->connection->session;
    const struct ldap_location *location = &task->source->location;
    char *attributes[3] = {(char *)task->attribute, (char *)task->second, NULL};
    struct timeval left = time_left(task->deadline_us);
    int message = 0;
    const int code =
        ldap_search_ext(session, location->base, library_scope(location->scope), task->filter,
                        attributes, 0, NULL, NULL, &left, task->entries_max, &message);

    if (code != LDAP_SUCCESS) {
        fail(task->connection, code, "search", task->answer);
        task->answer->broken = code != LDAP_FILTER_ERROR;
        return NULL;
    }
    return result_await(task, message, "search");
}

/* The result code; LDAP_REFERRAL also for continuation references and referrals with success. */
static int result_code(LDAP *session, LDAPMessage *result, char **words)
{
    char **referrals = NULL;
    int code = LDAP_OTHER;
    const int parsed = ldap_parse_result(session, result, &code, NULL, words, &referrals, NULL, 0);

    if (parsed != LDAP_SUCCESS)
        code = parsed;
    else if (code == LDAP_SUCCESS && (referrals || ldap_count_references(session, result) > 0))
        code = LDAP_REFERRAL;
    ldap_memvfree((void **)referrals);
    return code;
}

static void fail_result(const struct search_task *task, int code, const char *doing,
                        const char *words)
{
    remote_answer_fail(task->answer, reason_of(code), "%s: %s%s%.100s", doing,
                       ldap_err2string(code), words && words[0] ? ": " : "", words ? words : "");
    task->answer->broken = code == LDAP_UNAVAILABLE || code == LDAP_BUSY ||
                           code == LDAP_SERVER_DOWN || code == LDAP_DECODING_ERROR;
}

/* ------------------------------------------------------------------ may we say "absent"? */

/* Is there an entry with this attribute that we may see? Sleeps. */
static bool attribute_is_seen(struct search_task *task, const char *attribute)
{
    char filter[96];
    char *words = NULL;

    snprintf(filter, sizeof filter, "(%s=*)", attribute);
    task->filter = filter;
    LDAPMessage *result = search_run(task);

    if (!result)
        return false;
    const int code = result_code(task->connection->session, result, &words);
    const bool seen = ldap_count_entries(task->connection->session, result) > 0;

    if (!seen && (code == LDAP_SUCCESS || code == LDAP_SIZELIMIT_EXCEEDED))
        remote_answer_fail(task->answer, LOOKUP_REASON_MISCONFIGURED,
                           "no entry below %.60s that we may read has the attribute %s",
                           task->source->location.base, attribute);
    else if (!seen)
        fail_result(task, code, "search", words);
    ldap_memfree(words);
    ldap_msgfree(result);
    return seen;
}

static void absent_if_proven(const struct search_task *asked)
{
    struct connection *connection = asked->connection;
    struct search_task task = *asked;
    const uint64_t now_us = clock_now_us();

    if (connection->proven_us == 0 || now_us - connection->proven_us > PROVEN_FOR_US) {
        task.attribute = LDAP_NO_ATTRS;
        task.second = NULL;
        task.entries_max = 1;
        for (unsigned i = 0; i < task.source->location.attribute_count; i++)
            if (!attribute_is_seen(&task, task.source->location.attributes[i]))
                return;
        connection->proven_us = now_us;
    }
    asked->answer->status = LOOKUP_ABSENT;
}

/* ------------------------------------------------------------------ entries */

static void read_handle(const struct search_task *task, LDAPMessage *entry)
{
    char *name = ldap_get_dn(task->connection->session, entry);

    if (!name || strlen(name) >= sizeof task->answer->handle)
        remote_answer_fail(task->answer, LOOKUP_REASON_MISCONFIGURED,
                           "the name of the user's entry is too long");
    else
        snprintf(task->answer->handle, sizeof task->answer->handle, "%s", name);
    ldap_memfree(name);
}

/* The first value; false when it does not fit. */
static bool read_value(const struct search_task *task, LDAPMessage *entry, const char *attribute,
                       char *into)
{
    struct berval **values = ldap_get_values_len(task->connection->session, entry, attribute);
    const bool fits = !values || !values[0] || values[0]->bv_len < REMOTE_FIELD_MAX;

    if (values && values[0])
        snprintf(into, REMOTE_FIELD_MAX, "%.*s", (int)values[0]->bv_len, values[0]->bv_val);
    ldap_value_free_len(values);
    return fits;
}

/* A canonical address that does not fit is none, and the one that was asked for stands. */
static void read_user(const struct search_task *task, LDAPMessage *entry)
{
    if (!read_value(task, entry, task->attribute, task->answer->found))
        task->answer->found[0] = '\0';
    if (task->second && !read_value(task, entry, task->second, task->answer->deliver))
        remote_answer_fail(task->answer, LOOKUP_REASON_MISCONFIGURED, "%.60s is too long",
                           task->second);
    read_handle(task, entry);
}

static void read_targets(const struct search_task *task, LDAPMessage *entry)
{
    struct berval **values = ldap_get_values_len(task->connection->session, entry, task->attribute);

    for (int i = 0; values && values[i]; i++)
        remote_answer_add_target(task->answer, bytes_of(values[i]->bv_val, values[i]->bv_len));
    ldap_value_free_len(values);
}

static void read_entries(const struct search_task *task, LDAPMessage *result, bool of_alias)
{
    LDAP *session = task->connection->session;
    LDAPMessage *entry = ldap_first_entry(session, result);

    if (!entry) {
        absent_if_proven(task);
        return;
    }
    task->answer->status = LOOKUP_FOUND;
    if (!of_alias)
        read_user(task, entry);
    for (; of_alias && entry; entry = ldap_next_entry(session, entry))
        read_targets(task, entry);
    if (of_alias && task->answer->status == LOOKUP_FOUND && task->answer->targets.count == 0)
        remote_answer_fail(task->answer, LOOKUP_REASON_MISCONFIGURED,
                           "the alias has no attribute %.60s", task->attribute);
}

static void ask_with(const struct search_task *task, bool of_alias)
{
    char *words = NULL;
    LDAPMessage *result = search_run(task);

    if (!result)
        return;
    const int code = result_code(task->connection->session, result, &words);

    if (code == LDAP_SUCCESS)
        read_entries(task, result, of_alias);
    else
        fail_result(task, code, "search", words);
    ldap_memfree(words);
    ldap_msgfree(result);
}

/* ------------------------------------------------------------------ a password */

/*
 * Binds as the user (RFC 4513 section 5.1.3). Only "invalid credentials" is a no. The connection
 * serves nothing but binds, each of which replaces whoever the one before made of it. An unknown
 * user costs a bind as the base, whose outcome nobody looks at.
 */
static void check_password(const struct search_task *task, const struct remote_question *question)
{
    struct berval secret = {.bv_val = (char *)question->password,
                            .bv_len = strlen(question->password)};
    const char *name = question->handle ? question->handle : task->source->location.base;
    LDAP *session = task->connection->session;
    LDAPMessage *result = NULL;
    char *words = NULL;
    int message = 0;
    int code = ldap_sasl_bind(session, name, LDAP_SASL_SIMPLE, &secret, NULL, NULL, &message);

    if (code != LDAP_SUCCESS)
        fail_broken(task->connection, code, "bind", task->answer);
    else
        result = result_await(task, message, "bind");
    if (!result)
        return;
    code = result_code(session, result, &words);
    if (code == LDAP_SUCCESS && question->handle)
        task->answer->status = LOOKUP_FOUND;
    else if (code == LDAP_INVALID_CREDENTIALS || !question->handle)
        task->answer->status = LOOKUP_ABSENT;
    else
        fail_result(task, code, "bind", words);
    ldap_memfree(words);
    ldap_msgfree(result);
}

static void ask(void *argument, void *connection, const struct remote_question *question,
                struct remote_answer *answer)
{
    const struct source *source = argument;
    struct buffer filter = BUFFER_WITH_LIMIT(16 * KIB);
    struct search_task task = {.connection = connection,
                               .source = source,
                               .attribute = source->location.attribute,
                               .second =
                                   source->location.deliver[0] ? source->location.deliver : NULL,
                               .entries_max = ENTRIES_MAX,
                               .deadline_us = question->deadline_us,
                               .answer = answer};

    if (question->is_login) {
        check_password(&task, question);
        return;
    }
    ldap_filter_fill(&filter, source->location.filter, question);
    buffer_add_byte(&filter, 0);
    task.filter = (const char *)filter.at;
    if (filter.failed)
        remote_answer_fail(answer, LOOKUP_REASON_MISCONFIGURED, "the filter becomes too long");
    else
        ask_with(&task, question->of_alias);
    buffer_free(&filter);
}

/* ------------------------------------------------------------------ open and close */

static void source_close(void *argument)
{
    struct source *source = argument;

    arena_clear(&source->arena);
    free(source);
}

static void *source_open(const struct remote_settings *settings, char *why, size_t why_room)
{
    struct source *source = calloc(1, sizeof *source);

    if (!source) {
        snprintf(why, why_room, "out of memory");
        return NULL;
    }
    source->arena = ARENA_WITH_LIMIT(64 * KIB);
    const char *wrong = ldap_location_read(&source->arena, bytes_of_text(settings->location),
                                           settings->of_aliases, &source->location);

    if (!wrong)
        return source;
    snprintf(why, why_room, "%s", wrong);
    source_close(source);
    return NULL;
}

const struct remote_driver ldap_driver = {.checks_passwords = true,
                                          .open = source_open,
                                          .close = source_close,
                                          .connect = connect_to,
                                          .ask = ask,
                                          .disconnect = disconnect};
