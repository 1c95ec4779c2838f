/*
 * sqlite: users and aliases in tables, asked in the worker pool over read-only connections.
 *
 * Only SQLITE_DONE says ABSENT. A lock is UNAVAILABLE after a short wait, a missing file or table
 * MISCONFIGURED, damage UNAVAILABLE, a query that runs too long TIMEOUT. A connection that failed,
 * or whose file was replaced, is closed; up to four idle ones are kept.
 */
#include <errno.h>
#include <sqlite3.h>
#include <string.h>

#include "directory/source.h"

enum {
    IDLE_MAX = 4,
    JOBS_MAX = 256, /* waiting or running; above it we are the ones who are overloaded */
    BUSY_WAIT_MS = 250,
    PROGRESS_STEPS = 20000,
    QUERIES_MAX = 2,
    ROWS_MAX = 1000, /* of one alias */
};
static const uint64_t QUERY_MAX_US = 2 * US_PER_S;

struct connection {
    sqlite3 *database;
    sqlite3_stmt *statements[QUERIES_MAX];
    uint64_t stop_us;
};

struct sqlite_source {
    char *path;
    char *queries[QUERIES_MAX]; /* asked in turn until one has a row */
    pthread_mutex_t lock;       /* around the members below only */
    struct connection *idle[IDLE_MAX];
    unsigned idle_count;
    unsigned jobs;
};

const char *sqlite_source_name(const struct sqlite_source *source)
{
    return source->path;
}

/* A question with its answer, of the asking fiber, which sleeps until the job ended. */
struct job {
    struct sqlite_source *source;
    const struct remote_question *question;
    struct remote_answer *answer;
};

/* ------------------------------------------------------------------ errors */

static enum lookup_reason reason_of(int code, int system_error)
{
    switch (code & 0xff) {
    case SQLITE_CANTOPEN:
        return system_error == 0 || system_error == ENOENT || system_error == ENOTDIR
                   ? LOOKUP_REASON_MISCONFIGURED
                   : LOOKUP_REASON_UNAVAILABLE;
    case SQLITE_ERROR: /* no such table or column, bad SQL */
    case SQLITE_RANGE:
    case SQLITE_AUTH:
        return LOOKUP_REASON_MISCONFIGURED;
    case SQLITE_INTERRUPT:
        return LOOKUP_REASON_TIMEOUT;
    default: /* busy, locked, I/O, damage, memory: another try may go better */
        return LOOKUP_REASON_UNAVAILABLE;
    }
}

static void job_fail(struct job *job, sqlite3 *database, int code)
{
    remote_answer_fail(job->answer, reason_of(code, database ? sqlite3_system_errno(database) : 0),
                       "%.100s: %.90s", job->source->path,
                       database ? sqlite3_errmsg(database) : sqlite3_errstr(code));
}

/* ------------------------------------------------------------------ connections (worker pool) */

static int on_progress(void *argument)
{
    const struct connection *connection = argument;

    return clock_now_us() >= connection->stop_us;
}

static void connection_close(struct connection *connection)
{
    for (size_t i = 0; i < QUERIES_MAX; i++)
        sqlite3_finalize(connection->statements[i]);
    sqlite3_close(connection->database);
    free(connection);
}

static struct connection *connection_open(struct job *job)
{
    struct connection *connection = calloc(1, sizeof *connection);
    const int flags = SQLITE_OPEN_READONLY | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE;
    const int code = connection ? sqlite3_open_v2(job->source->path, &connection->database, flags,
                                                  disk_sqlite_vfs())
                                : SQLITE_NOMEM;

    if (code != SQLITE_OK) {
        job_fail(job, connection ? connection->database : NULL, code);
        if (connection)
            connection_close(connection);
        return NULL;
    }
    sqlite3_busy_timeout(connection->database, BUSY_WAIT_MS);
    sqlite3_progress_handler(connection->database, PROGRESS_STEPS, on_progress, connection);
    sqlite3_db_config(connection->database, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, NULL);
    return connection;
}

/* A file that was renamed over ours would leave us with the former users for ever. */
static bool connection_is_stale(const struct connection *connection)
{
    int moved = 0;

    return sqlite3_file_control(connection->database, "main", SQLITE_FCNTL_HAS_MOVED, &moved) ==
               SQLITE_OK &&
           moved;
}

static struct connection *connection_take(struct job *job)
{
    struct sqlite_source *source = job->source;
    struct connection *connection = NULL;

    pthread_mutex_lock(&source->lock);
    if (source->idle_count > 0)
        connection = source->idle[--source->idle_count];
    pthread_mutex_unlock(&source->lock);
    if (connection && connection_is_stale(connection)) {
        connection_close(connection);
        connection = NULL;
    }
    return connection ? connection : connection_open(job);
}

static void connection_give_back(struct sqlite_source *source, struct connection *connection)
{
    bool kept = false;

    pthread_mutex_lock(&source->lock);
    if (source->idle_count < IDLE_MAX) {
        source->idle[source->idle_count++] = connection;
        kept = true;
    }
    pthread_mutex_unlock(&source->lock);
    if (!kept)
        connection_close(connection);
}

/* ------------------------------------------------------------------ a query (worker pool) */

static void bind_text(sqlite3_stmt *statement, const char *name, struct bytes text)
{
    const int at = sqlite3_bind_parameter_index(statement, name);

    if (at > 0)
        sqlite3_bind_text(statement, at, (const char *)text.at, (int)text.count, SQLITE_STATIC);
}

static bool column_is(sqlite3_stmt *statement, int at, const char *name)
{
    return bytes_equal_text_nocase(bytes_of_text(sqlite3_column_name(statement, at)), name);
}

static void column_copy(sqlite3_stmt *statement, int at, char *into)
{
    const unsigned char *text = sqlite3_column_text(statement, at);

    snprintf(into, REMOTE_FIELD_MAX, "%s", text ? (const char *)text : "");
}

/* A cut path would lead elsewhere. */
static void read_deliver(struct remote_answer *answer, sqlite3_stmt *statement, int at)
{
    column_copy(statement, at, answer->deliver);
    if (sqlite3_column_bytes(statement, at) >= REMOTE_FIELD_MAX)
        remote_answer_fail(answer, LOOKUP_REASON_MISCONFIGURED, "deliver is too long");
}

static void read_user(struct remote_answer *answer, sqlite3_stmt *statement)
{
    for (int at = 0; at < sqlite3_column_count(statement); at++) {
        if (column_is(statement, at, "address"))
            column_copy(statement, at, answer->found);
        else if (column_is(statement, at, "password"))
            column_copy(statement, at, answer->password);
        else if (column_is(statement, at, "scram"))
            column_copy(statement, at, answer->scram);
        else if (column_is(statement, at, "senders"))
            column_copy(statement, at, answer->senders);
        else if (column_is(statement, at, "deliver"))
            read_deliver(answer, statement, at);
        else if (column_is(statement, at, "disabled") && sqlite3_column_int(statement, at) != 0)
            answer->flags |= DIRECTORY_DISABLED;
        else if (column_is(statement, at, "full") && sqlite3_column_int(statement, at) != 0)
            answer->flags |= DIRECTORY_OVER_QUOTA;
    }
}

/* The column `target`, or the only one. */
static void read_target(struct remote_answer *answer, sqlite3_stmt *statement)
{
    const int count = sqlite3_column_count(statement);
    int at = 0;

    while (at < count && !column_is(statement, at, "target"))
        at++;
    if (at == count && count == 1)
        at = 0;
    if (at == count)
        remote_answer_fail(answer, LOOKUP_REASON_MISCONFIGURED, "no such column: target");
    else
        remote_answer_add_target(answer,
                                 bytes_of_text((const char *)sqlite3_column_text(statement, at)));
}

/* SQLITE_ROW when there was at least one row, SQLITE_DONE, or what went wrong. */
static int rows_read(struct job *job, sqlite3_stmt *statement)
{
    int code = sqlite3_step(statement);
    unsigned rows = 0;

    for (; code == SQLITE_ROW; code = sqlite3_step(statement)) {
        if (!job->question->of_alias) {
            read_user(job->answer, statement);
            return code;
        }
        read_target(job->answer, statement);
        if (++rows > ROWS_MAX)
            remote_answer_fail(job->answer, LOOKUP_REASON_PARTIAL, "the alias has too many values");
        if (job->answer->reason != LOOKUP_REASON_UNKNOWN)
            return SQLITE_ROW;
    }
    return code == SQLITE_DONE && rows > 0 ? SQLITE_ROW : code;
}

static int statement_prepare(struct connection *connection, const char *query, size_t at)
{
    if (connection->statements[at])
        return SQLITE_OK;
    return sqlite3_prepare_v3(connection->database, query, -1, SQLITE_PREPARE_PERSISTENT,
                              &connection->statements[at], NULL);
}

/* SQLITE_ROW, SQLITE_DONE, or what went wrong. */
static int query_run(struct job *job, struct connection *connection, size_t at)
{
    int code = statement_prepare(connection, job->source->queries[at], at);
    sqlite3_stmt *statement = connection->statements[at];

    if (code != SQLITE_OK)
        return code;
    if (!statement)
        return SQLITE_ERROR; /* an empty query */
    bind_text(statement, ":address", remote_question_whole(job->question));
    bind_text(statement, ":local", remote_question_local(job->question));
    bind_text(statement, ":domain", remote_question_domain(job->question));
    code = rows_read(job, statement);
    const int ended = sqlite3_reset(statement);

    return code == SQLITE_ROW || code == SQLITE_DONE ? code : ended ? ended : code;
}

static void job_ask(struct job *job, struct connection *connection)
{
    int code = SQLITE_DONE;

    connection->stop_us = clock_now_us() + QUERY_MAX_US;
    for (size_t i = 0; i < QUERIES_MAX && job->source->queries[i] && code == SQLITE_DONE; i++)
        code = query_run(job, connection, i);
    if (job->answer->reason != LOOKUP_REASON_UNKNOWN)
        return; /* what was read said so */
    if (code == SQLITE_ROW)
        job->answer->status = LOOKUP_FOUND;
    else if (code == SQLITE_DONE)
        job->answer->status = LOOKUP_ABSENT;
    else
        job_fail(job, connection->database, code);
}

static void job_main(void *argument)
{
    struct job *job = argument;
    struct connection *connection = connection_take(job);

    if (!connection)
        return; /* job_fail was called: the status is FAILED */
    job_ask(job, connection);
    if (job->answer->status == LOOKUP_FAILED)
        connection_close(connection);
    else
        connection_give_back(job->source, connection);
}

/* ------------------------------------------------------------------ asking (fiber) */

static bool source_enter(struct sqlite_source *source)
{
    pthread_mutex_lock(&source->lock);
    const bool entered = source->jobs < JOBS_MAX;

    source->jobs += entered;
    pthread_mutex_unlock(&source->lock);
    return entered;
}

static void source_leave(struct sqlite_source *source)
{
    pthread_mutex_lock(&source->lock);
    source->jobs--;
    pthread_mutex_unlock(&source->lock);
}

void sqlite_ask(struct sqlite_source *source, const struct remote_question *question,
                struct remote_answer *answer)
{
    struct job job = {.source = source, .question = question, .answer = answer};

    if (!source_enter(source)) {
        remote_answer_fail(answer, LOOKUP_REASON_OVERLOADED, "too many questions");
        return;
    }
    const enum io_status status = work_run(job_main, &job);

    source_leave(source);
    if (status != IO_OK)
        remote_answer_fail(answer, LOOKUP_REASON_CANCELLED, "cancelled");
}

/* ------------------------------------------------------------------ open and close */

/* The index answers the first; the second finds an address that was stored with capitals. */
static bool source_use_table(struct sqlite_source *source, struct bytes table)
{
    static const char *const forms[QUERIES_MAX] = {
        "SELECT * FROM \"%.*s\" WHERE address = :address",
        "SELECT * FROM \"%.*s\" WHERE address = :address COLLATE NOCASE"};

    for (size_t i = 0; i < QUERIES_MAX; i++) {
        source->queries[i] = sqlite3_mprintf(forms[i], BYTES_PRINT(table));
        if (!source->queries[i])
            return false;
    }
    return true;
}

/* NULL or what is wrong. */
static const char *source_configure(struct sqlite_source *source, struct bytes location,
                                    bool of_aliases)
{
    struct bytes path;
    const struct bytes option = bytes_cut(location, '?', &path);

    source->path = sqlite3_mprintf("%.*s", BYTES_PRINT(path));
    if (path.count == 0 || !source->path)
        return "a file is missing";
    if (bytes_starts_with(option, BYTES_LITERAL("query="))) {
        const struct bytes query = bytes_skip(option, sizeof "query=" - 1);

        source->queries[0] = sqlite3_mprintf("%.*s", BYTES_PRINT(query));
        return query.count > 0 && query.count < REMOTE_QUERY_MAX && source->queries[0]
                   ? NULL
                   : "bad query";
    }
    const struct bytes table = option.count > 0 ? bytes_skip(option, sizeof "table=" - 1)
                               : of_aliases     ? BYTES_LITERAL("aliases")
                                                : BYTES_LITERAL("users");

    if (option.count > 0 && !bytes_starts_with(option, BYTES_LITERAL("table=")))
        return "only ?table=NAME and ?query=SELECT ... are known";
    if (!table_name_is_fine(table))
        return "a table's name has letters, digits and _ only";
    return source_use_table(source, table) ? NULL : "out of memory";
}

struct sqlite_source *sqlite_source_open(const char *location, bool of_aliases, char *why,
                                         size_t why_room)
{
    struct sqlite_source *source = calloc(1, sizeof *source);

    if (!source) {
        snprintf(why, why_room, "out of memory");
        return NULL;
    }
    pthread_mutex_init(&source->lock, NULL);
    const char *wrong = source_configure(source, bytes_of_text(location), of_aliases);

    if (!wrong)
        return source;
    snprintf(why, why_room, "sqlite:%s: %s", location, wrong);
    sqlite_source_close(source);
    return NULL;
}

void sqlite_source_close(struct sqlite_source *source)
{
    if (!source)
        return;
    for (unsigned i = 0; i < source->idle_count; i++)
        connection_close(source->idle[i]);
    for (size_t i = 0; i < QUERIES_MAX; i++)
        sqlite3_free(source->queries[i]);
    sqlite3_free(source->path);
    pthread_mutex_destroy(&source->lock);
    free(source);
}
