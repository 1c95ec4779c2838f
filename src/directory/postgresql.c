/*
 * postgresql: users and aliases by libpq. Connections are made in the worker pool (libpq resolves
 * names there); a question sleeps on the socket and needs no thread.
 *
 * What strangers wrote goes to the server as bound parameters only. The server ends a statement
 * before we give up, so that its own words reach the journal; sessions are read-only.
 */
#include <libpq-fe.h>
#include <poll.h>
#include <string.h>

#include "directory/directory.h"
#include "directory/remote.h"

enum { TEXT_OID = 25, ROWS_MAX = 1000 };

struct source {
    struct arena arena;
    struct postgresql_location location;
    char options[128];
};

/* ------------------------------------------------------------------ errors */

/* By SQLSTATE (appendix A of PostgreSQL's manual): what another try cannot heal is ours to mend. */
static enum lookup_reason reason_of(struct bytes state)
{
    static const char *const misconfigured[] = {"28", "3D", "3F", "42", "0A", "22"};

    if (bytes_equal_text(state, "57014"))
        return LOOKUP_REASON_TIMEOUT; /* the statement's own limit */
    for (size_t i = 0; i < COUNT_OF(misconfigured); i++)
        if (bytes_starts_with(state, bytes_of_text(misconfigured[i])))
            return LOOKUP_REASON_MISCONFIGURED;
    return LOOKUP_REASON_UNAVAILABLE;
}

/* A failed connection has no SQLSTATE but in its verbose words: "FATAL:  28P01: ...". */
static struct bytes state_within(struct bytes words)
{
    for (size_t at = 0; at + 7 <= words.count; at++) {
        const struct bytes here = bytes_slice(words, at, 7);
        bool is_state = here.at[0] == ' ' && here.at[6] == ':';
        unsigned digits = 0; /* every code has some, "FATAL" has none */

        for (size_t i = 1; i < 6 && is_state; i++) {
            digits += ascii_is_digit(here.at[i]);
            is_state = ascii_is_digit(here.at[i]) || (here.at[i] >= 'A' && here.at[i] <= 'Z');
        }
        if (is_state && digits > 0)
            return bytes_slice(here, 1, 5);
    }
    return BYTES_EMPTY;
}

static void fail_connection(PGconn *database, struct remote_answer *answer)
{
    const char *words = database ? PQerrorMessage(database) : "out of memory";
    const bool password = database && PQconnectionNeedsPassword(database);

    remote_answer_fail(answer,
                       password ? LOOKUP_REASON_MISCONFIGURED
                                : reason_of(state_within(bytes_of_text(words))),
                       "%s", words);
    answer->broken = true;
}

/* ------------------------------------------------------------------ connecting (worker pool) */

static int milliseconds_until(uint64_t deadline_us)
{
    const uint64_t now_us = clock_now_us();

    return deadline_us <= now_us ? 0 : (int)MIN_OF((deadline_us - now_us) / 1000 + 1, 60000u);
}

static bool socket_wait(PGconn *database, PostgresPollingStatusType wants, uint64_t deadline_us)
{
    struct pollfd question = {.fd = PQsocket(database),
                              .events = wants == PGRES_POLLING_WRITING ? POLLOUT : POLLIN};

    return poll(&question, 1, milliseconds_until(deadline_us)) > 0;
}

/* Drives libpq until it is connected, has failed, or the time is over. */
static bool connection_finish(PGconn *database, uint64_t deadline_us, struct remote_answer *answer)
{
    PostgresPollingStatusType wants = PGRES_POLLING_WRITING;

    if (PQstatus(database) == CONNECTION_BAD) {
        fail_connection(database, answer);
        return false;
    }
    while (wants != PGRES_POLLING_OK) {
        if (wants == PGRES_POLLING_FAILED) {
            fail_connection(database, answer);
            return false;
        }
        if (!socket_wait(database, wants, deadline_us) && milliseconds_until(deadline_us) == 0) {
            remote_answer_fail(answer, LOOKUP_REASON_TIMEOUT,
                               "PostgreSQL did not answer in time while connecting");
            return false;
        }
        wants = PQconnectPoll(database);
    }
    return true;
}

static void *connect_to(void *argument, uint64_t deadline_us, struct remote_answer *answer)
{
    const struct source *source = argument;
    const bool theirs = strstr(source->location.uri, "options=") != NULL;
    const char *const names[] = {"dbname", "client_encoding", "fallback_application_name",
                                 theirs ? NULL : "options", NULL};
    const char *const values[] = {source->location.uri, "UTF8", "holdfast",
                                  theirs ? NULL : source->options, NULL};
    PGconn *database = PQconnectStartParams(names, values, 1);

    if (!database) {
        fail_connection(NULL, answer);
        return NULL;
    }
    PQsetErrorVerbosity(database, PQERRORS_VERBOSE);
    if (!connection_finish(database, deadline_us, answer)) {
        PQfinish(database);
        return NULL;
    }
    PQsetErrorVerbosity(database, PQERRORS_TERSE);
    PQsetnonblocking(database, 1);
    return database;
}

static void disconnect(void *connection)
{
    PQfinish(connection);
}

/* ------------------------------------------------------------------ a question (fiber) */

static bool wait_for(PGconn *database, bool for_write, uint64_t deadline_us,
                     struct remote_answer *answer)
{
    const struct io_result result = descriptor_wait(PQsocket(database), for_write, deadline_us);

    if (result.status == IO_OK)
        return true;
    if (result.status == IO_TIMEOUT)
        remote_answer_fail(answer, LOOKUP_REASON_TIMEOUT, "PostgreSQL did not answer in time");
    else
        remote_answer_fail(answer,
                           result.status == IO_CANCELLED ? LOOKUP_REASON_CANCELLED
                                                         : LOOKUP_REASON_UNAVAILABLE,
                           "waiting for PostgreSQL: %s", io_result_text(result));
    answer->broken = true;
    return false;
}

/* Parameters that the query does not use need a type of their own. */
static bool send_question(PGconn *database, const struct source *source,
                          const struct remote_question *question)
{
    char local[sizeof question->whole];
    const struct bytes name = remote_question_local(question);
    const char *const values[3] = {question->whole, local,
                                   question->whole + question->local_count + 1};
    Oid types[3];

    memcpy(local, name.at, name.count);
    local[name.count] = '\0';
    for (size_t i = 0; i < COUNT_OF(types); i++)
        types[i] = source->location.uses[i] ? 0 : TEXT_OID;
    return PQsendQueryParams(database, source->location.query, COUNT_OF(values), types, values,
                             NULL, NULL, 0) == 1;
}

static bool flush(PGconn *database, uint64_t deadline_us, struct remote_answer *answer)
{
    int left = PQflush(database);

    while (left == 1 && wait_for(database, true, deadline_us, answer))
        left = PQflush(database);
    if (left < 0)
        fail_connection(database, answer);
    return left == 0;
}

/* The next result; NULL at the end, or when the answer says what failed. Sleeps. */
static PGresult *next_result(PGconn *database, uint64_t deadline_us, struct remote_answer *answer)
{
    while (PQisBusy(database)) {
        if (!wait_for(database, false, deadline_us, answer))
            return NULL;
        if (!PQconsumeInput(database)) {
            fail_connection(database, answer);
            return NULL;
        }
    }
    return PQgetResult(database);
}

/* ------------------------------------------------------------------ rows */

/* False: it is longer than a field may be. */
static bool copy_column(const PGresult *result, const char *name, char *into)
{
    const int column = PQfnumber(result, name);

    if (column >= 0)
        snprintf(into, REMOTE_FIELD_MAX, "%s", PQgetvalue(result, 0, column));
    return column < 0 || PQgetlength(result, 0, column) < REMOTE_FIELD_MAX;
}

static unsigned flag_of(const PGresult *result, const char *name, unsigned flag)
{
    const int column = PQfnumber(result, name);
    const char first = column >= 0 ? PQgetvalue(result, 0, column)[0] : '\0';

    return first != '\0' && strchr("tTyY123456789", first) ? flag : 0;
}

/* A cut name finds nobody and a cut list lets in less; a cut path would lead elsewhere. */
static void read_user(const PGresult *result, struct remote_answer *answer)
{
    answer->status = LOOKUP_FOUND;
    copy_column(result, "address", answer->found);
    copy_column(result, "password", answer->password);
    copy_column(result, "scram", answer->scram);
    copy_column(result, "senders", answer->senders);
    answer->flags = flag_of(result, "disabled", DIRECTORY_DISABLED) |
                    flag_of(result, "full", DIRECTORY_OVER_QUOTA);
    if (!copy_column(result, "deliver", answer->deliver))
        remote_answer_fail(answer, LOOKUP_REASON_MISCONFIGURED, "deliver is too long");
}

static void read_targets(const PGresult *result, struct remote_answer *answer)
{
    const int named = PQfnumber(result, "target");
    const int column = named < 0 && PQnfields(result) == 1 ? 0 : named;

    if (column < 0) {
        remote_answer_fail(answer, LOOKUP_REASON_MISCONFIGURED, "no such column: target");
        return;
    }
    if (PQntuples(result) > ROWS_MAX) {
        remote_answer_fail(answer, LOOKUP_REASON_PARTIAL, "the alias has too many values");
        return;
    }
    answer->status = LOOKUP_FOUND;
    for (int row = 0; row < PQntuples(result); row++)
        remote_answer_add_target(answer, bytes_of(PQgetvalue(result, row, column),
                                                  (size_t)PQgetlength(result, row, column)));
}

static void read_rows(const PGresult *result, bool of_alias, struct remote_answer *answer)
{
    if (PQntuples(result) == 0) {
        answer->status = LOOKUP_ABSENT;
    } else if (of_alias) {
        read_targets(result, answer);
    } else {
        read_user(result, answer);
    }
}

static void read_result(PGconn *database, const PGresult *result, bool of_alias,
                        struct remote_answer *answer)
{
    if (PQresultStatus(result) == PGRES_TUPLES_OK) {
        read_rows(result, of_alias, answer);
        return;
    }
    const char *state = PQresultErrorField(result, PG_DIAG_SQLSTATE);

    if (state)
        remote_answer_fail(answer, reason_of(bytes_of_text(state)), "%s",
                           PQresultErrorMessage(result));
    else if (PQresultErrorMessage(result)[0] != '\0')
        remote_answer_fail(answer, LOOKUP_REASON_UNAVAILABLE, "%s", PQresultErrorMessage(result));
    else
        remote_answer_fail(answer, LOOKUP_REASON_MISCONFIGURED, "the query gives no rows");
    answer->broken = PQstatus(database) == CONNECTION_BAD;
}

static void ask(void *argument, void *connection, const struct remote_question *question,
                struct remote_answer *answer)
{
    const struct source *source = argument;
    PGresult *result = NULL;
    bool first = true;

    if (!send_question(connection, source, question)) {
        fail_connection(connection, answer);
        return;
    }
    if (!flush(connection, question->deadline_us, answer))
        return;
    while ((result = next_result(connection, question->deadline_us, answer)) != NULL) {
        if (first)
            read_result(connection, result, question->of_alias, answer);
        first = false;
        PQclear(result);
        if (answer->broken)
            return;
    }
    if (first && answer->reason == LOOKUP_REASON_UNKNOWN)
        fail_connection(connection, answer);
    else if (PQstatus(connection) == CONNECTION_BAD)
        answer->broken = true;
}

/* ------------------------------------------------------------------ open and close */

static void source_close(void *argument)
{
    struct source *source = argument;

    arena_clear(&source->arena);
    free(source);
}

static bool uri_is_fine(const char *uri, char *why, size_t why_room)
{
    char *words = NULL;
    PQconninfoOption *options = PQconninfoParse(uri, &words);

    if (!options)
        snprintf(why, why_room, "%s", words ? words : "out of memory");
    why[strcspn(why, "\r\n")] = '\0';
    PQconninfoFree(options);
    PQfreemem(words);
    return options != NULL;
}

static void *source_open(const struct remote_settings *settings, char *why, size_t why_room)
{
    struct source *source = calloc(1, sizeof *source);

    if (!source) {
        snprintf(why, why_room, "out of memory");
        return NULL;
    }
    source->arena = ARENA_WITH_LIMIT(64 * KIB);
    snprintf(source->options, sizeof source->options,
             "-c statement_timeout=%llu -c default_transaction_read_only=on",
             (unsigned long long)MAX_OF(settings->timeout_us * 3 / 4 / 1000, 1u));
    const char *wrong = postgresql_location_read(&source->arena, bytes_of_text(settings->location),
                                                 settings->of_aliases, &source->location);

    if (wrong)
        snprintf(why, why_room, "%s", wrong);
    else if (uri_is_fine(source->location.uri, why, why_room))
        return source;
    source_close(source);
    return NULL;
}

const struct remote_driver postgresql_driver = {.open = source_open,
                                                .close = source_close,
                                                .connect = connect_to,
                                                .ask = ask,
                                                .disconnect = disconnect};
