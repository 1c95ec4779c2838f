#include "deliver/tls_store.h"

#include <pthread.h>
#include <sqlite3.h>
#include <string.h>

enum {
    BUSY_MS = 2000,
    POLICIES_MAX = 100000,
    RESULTS_MAX = 200000,
    RESULT_DAYS = 14, /* more than a report needs (RFC 8460 4.1: a day) */
    DAY_S = 86400,
    UNUSED_DAYS = 30, /* then a policy is no longer refreshed */
    PRUNE_EVERY = 100,
    DAYS_MAX = 1000 * 366, /* since 1970 */
};
#define COUNT_MAX (UINT64_C(1) << 40)

struct tls_store {
    pthread_mutex_t lock; /* one question at a time, on the pool's threads */
    sqlite3 *database;
    char path[4200];
    unsigned changes;
    int64_t policies; /* rows; with none nobody is asked */
};

static const char SCHEMA[] =
    "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;"
    "CREATE TABLE IF NOT EXISTS policies (domain TEXT PRIMARY KEY, text BLOB NOT NULL,"
    " id TEXT NOT NULL, fetched INTEGER NOT NULL, expires INTEGER NOT NULL,"
    " refresh INTEGER NOT NULL, used INTEGER NOT NULL, tried INTEGER NOT NULL,"
    " tried_id TEXT NOT NULL) WITHOUT ROWID;"
    "CREATE INDEX IF NOT EXISTS policies_refresh ON policies (refresh);"
    "CREATE TABLE IF NOT EXISTS results (day INTEGER NOT NULL, domain TEXT NOT NULL,"
    " kind INTEGER NOT NULL, policy TEXT NOT NULL, host TEXT NOT NULL, ip TEXT NOT NULL,"
    " source TEXT NOT NULL, failure TEXT NOT NULL, reason TEXT NOT NULL, count INTEGER NOT NULL,"
    " PRIMARY KEY (day, domain, kind, policy, host, ip, source, failure, reason)) WITHOUT ROWID;";

/* ------------------------------------------------------------------ statements */

static sqlite3_stmt *statement_of(struct tls_store *store, const char *text)
{
    sqlite3_stmt *statement = NULL;

    return sqlite3_prepare_v2(store->database, text, -1, &statement, NULL) == SQLITE_OK ? statement
                                                                                        : NULL;
}

static void bind_text(sqlite3_stmt *statement, int at, struct bytes text)
{
    sqlite3_bind_text(statement, at, text.count ? (const char *)text.at : "", (int)text.count,
                      SQLITE_STATIC);
}

/* Runs a statement without rows, and ends it. */
static bool statement_run(sqlite3_stmt *statement)
{
    const bool done = statement && sqlite3_step(statement) == SQLITE_DONE;

    return sqlite3_finalize(statement) == SQLITE_OK && done;
}

static bool run_with(struct tls_store *store, const char *text, int64_t number)
{
    sqlite3_stmt *const statement = statement_of(store, text);

    sqlite3_bind_int64(statement, 1, number);
    return statement_run(statement);
}

static void copy_column(sqlite3_stmt *statement, int column, char *into, size_t room)
{
    const char *const text = (const char *)sqlite3_column_text(statement, column);

    snprintf(into, room, "%s", text ? text : "");
}

static void count_policies(struct tls_store *store)
{
    sqlite3_stmt *const statement = statement_of(store, "SELECT count(*) FROM policies");

    if (statement && sqlite3_step(statement) == SQLITE_ROW)
        __atomic_store_n(&store->policies, sqlite3_column_int64(statement, 0), __ATOMIC_RELAXED);
    sqlite3_finalize(statement);
}

/* ------------------------------------------------------------------ a task in the pool */

struct task {
    struct tls_store *store;
    bool (*work)(struct task *task);
    bool done;
    char why[160];
    struct sts_row *row;
    const struct tls_result *results;
    unsigned count;
    int64_t now_s;
    char (*domains)[STS_DOMAIN_ROOM];
    unsigned found;
};

static void task_in_pool(void *argument)
{
    struct task *task = argument;

    pthread_mutex_lock(&task->store->lock);
    task->done = task->work(task);
    if (!task->done)
        snprintf(task->why, sizeof task->why, "%s", sqlite3_errmsg(task->store->database));
    pthread_mutex_unlock(&task->store->lock);
}

static bool task_run(struct task *task)
{
    if (work_run(task_in_pool, task) != IO_OK)
        snprintf(task->why, sizeof task->why, "no thread");
    if (!task->done)
        observe_note(LOG_WARNING, "deliver", "%s: %s", task->store->path, task->why);
    return task->done;
}

/* ------------------------------------------------------------------ open and close */

static bool open_work(struct task *task)
{
    struct tls_store *store = task->store;
    const int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_FULLMUTEX;

    if (sqlite3_open_v2(store->path, &store->database, flags, disk_sqlite_vfs()) != SQLITE_OK ||
        sqlite3_busy_timeout(store->database, BUSY_MS) != SQLITE_OK ||
        sqlite3_exec(store->database, SCHEMA, NULL, NULL, NULL) != SQLITE_OK)
        return false;
    count_policies(store);
    return true;
}

struct tls_store *tls_store_open(const char *directory)
{
    struct tls_store *store = calloc(1, sizeof *store);
    struct task task = {.store = store, .work = open_work};

    if (!store)
        return NULL;
    pthread_mutex_init(&store->lock, NULL);
    snprintf(store->path, sizeof store->path, "%.4000s/tls.db", directory);
    if (task_run(&task))
        return store;
    tls_store_close(store);
    return NULL;
}

void tls_store_close(struct tls_store *store)
{
    if (!store)
        return;
    sqlite3_close(store->database);
    pthread_mutex_destroy(&store->lock);
    free(store);
}

/* ------------------------------------------------------------------ policies */

static bool read_work(struct task *task)
{
    struct sts_row *row = task->row;
    sqlite3_stmt *const statement =
        statement_of(task->store, "SELECT text, id, fetched, expires, refresh, used, tried,"
                                  " tried_id FROM policies WHERE domain = ?1");

    if (!statement)
        return false;
    bind_text(statement, 1, bytes_of_text(row->domain));
    const int stepped = sqlite3_step(statement);
    if (stepped == SQLITE_ROW) {
        row->found = true;
        buffer_add(&row->text, bytes_of(sqlite3_column_blob(statement, 0),
                                        (size_t)MAX_OF(sqlite3_column_bytes(statement, 0), 0)));
        copy_column(statement, 1, row->id, sizeof row->id);
        row->fetched_s = sqlite3_column_int64(statement, 2);
        row->expires_s = sqlite3_column_int64(statement, 3);
        row->refresh_s = sqlite3_column_int64(statement, 4);
        row->used_s = sqlite3_column_int64(statement, 5);
        row->tried_s = sqlite3_column_int64(statement, 6);
        copy_column(statement, 7, row->tried_id, sizeof row->tried_id);
    }
    sqlite3_finalize(statement);
    return stepped == SQLITE_ROW || stepped == SQLITE_DONE;
}

bool tls_store_read(struct tls_store *store, struct sts_row *row)
{
    struct task task = {.store = store, .work = read_work, .row = row};

    row->text = BUFFER_WITH_LIMIT(STS_TEXT_ROOM);
    if (!store || __atomic_load_n(&store->policies, __ATOMIC_RELAXED) == 0)
        return false;
    return task_run(&task) && row->found && !row->text.failed;
}

static bool prune_policies(struct tls_store *store, int64_t now_s)
{
    return run_with(store, "DELETE FROM policies WHERE expires < ?1 AND tried < ?1",
                    now_s - DAY_S) &&
           run_with(store,
                    "DELETE FROM policies WHERE domain IN"
                    " (SELECT domain FROM policies ORDER BY used DESC LIMIT -1 OFFSET ?1)",
                    POLICIES_MAX);
}

static bool write_work(struct task *task)
{
    const struct sts_row *row = task->row;
    struct tls_store *store = task->store;
    sqlite3_stmt *const statement = statement_of(
        store, "INSERT OR REPLACE INTO policies VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)");
    const int64_t numbers[] = {row->fetched_s, row->expires_s, row->refresh_s, row->used_s,
                               row->tried_s};

    if (!statement)
        return false;
    bind_text(statement, 1, bytes_of_text(row->domain));
    sqlite3_bind_blob(statement, 2, row->text.count ? (const char *)row->text.at : "",
                      (int)row->text.count, SQLITE_STATIC);
    bind_text(statement, 3, bytes_of_text(row->id));
    for (int i = 0; i < (int)COUNT_OF(numbers); i++)
        sqlite3_bind_int64(statement, 4 + i, numbers[i]);
    bind_text(statement, 9, bytes_of_text(row->tried_id));
    const bool written = statement_run(statement);
    const bool pruned = store->changes++ % PRUNE_EVERY != 0 || prune_policies(store, task->now_s);
    count_policies(store);
    return written && pruned;
}

void tls_store_write(struct tls_store *store, struct sts_row *row)
{
    struct task task = {.store = store,
                        .work = write_work,
                        .row = row,
                        .now_s = clock_wall_us() / (int64_t)US_PER_S};

    if (store && !task_run(&task))
        return; /* noted; the next look at the domain fetches again */
}

static bool due_work(struct task *task)
{
    sqlite3_stmt *const statement =
        statement_of(task->store, "SELECT domain FROM policies WHERE refresh < ?1 AND used > ?2"
                                  " AND fetched > 0 ORDER BY refresh LIMIT ?3");
    int stepped = SQLITE_DONE;

    if (!statement)
        return false;
    sqlite3_bind_int64(statement, 1, task->now_s);
    sqlite3_bind_int64(statement, 2, task->now_s - (int64_t)UNUSED_DAYS * DAY_S);
    sqlite3_bind_int64(statement, 3, task->count);
    while (task->found < task->count && (stepped = sqlite3_step(statement)) == SQLITE_ROW)
        copy_column(statement, 0, task->domains[task->found++], STS_DOMAIN_ROOM);
    sqlite3_finalize(statement);
    return stepped == SQLITE_DONE || stepped == SQLITE_ROW;
}

unsigned tls_store_due(struct tls_store *store, int64_t now_s, char domains[][STS_DOMAIN_ROOM],
                       unsigned most)
{
    struct task task = {
        .store = store, .work = due_work, .now_s = now_s, .domains = domains, .count = most};

    if (!store || __atomic_load_n(&store->policies, __ATOMIC_RELAXED) == 0 || !task_run(&task))
        return 0;
    return task.found;
}

/* ------------------------------------------------------------------ results */

static bool add_result(struct tls_store *store, const struct tls_result *result)
{
    sqlite3_stmt *const statement =
        statement_of(store, "INSERT INTO results VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)"
                            " ON CONFLICT DO UPDATE SET count = count + excluded.count");
    const char *const texts[] = {result->host, result->ip, result->source, result->failure,
                                 result->reason};

    if (!statement)
        return false;
    sqlite3_bind_int64(statement, 1, result->day);
    bind_text(statement, 2, bytes_of_text(result->domain));
    sqlite3_bind_int64(statement, 3, (int64_t)result->kind);
    bind_text(statement, 4, bytes_of_text(result->policy));
    for (int i = 0; i < (int)COUNT_OF(texts); i++)
        bind_text(statement, 5 + i, bytes_of_text(texts[i]));
    sqlite3_bind_int64(statement, 10, (int64_t)result->count);
    return statement_run(statement);
}

static bool prune_results(struct tls_store *store, int64_t today)
{
    return run_with(store, "DELETE FROM results WHERE day < ?1", today - RESULT_DAYS) &&
           run_with(store,
                    "DELETE FROM results WHERE day IN (SELECT day FROM results"
                    " ORDER BY day DESC LIMIT -1 OFFSET ?1)",
                    RESULTS_MAX);
}

static bool add_work(struct task *task)
{
    struct tls_store *store = task->store;
    const int64_t today = task->now_s / DAY_S;

    if (sqlite3_exec(store->database, "BEGIN IMMEDIATE", NULL, NULL, NULL) != SQLITE_OK)
        return false;
    bool added = prune_results(store, today);
    for (unsigned i = 0; added && i < task->count; i++)
        added = add_result(store, &task->results[i]);
    return sqlite3_exec(store->database, added ? "COMMIT" : "ROLLBACK", NULL, NULL, NULL) ==
               SQLITE_OK &&
           added;
}

bool tls_store_add(struct tls_store *store, const struct tls_result *results, unsigned count)
{
    struct task task = {.store = store,
                        .work = add_work,
                        .results = results,
                        .count = count,
                        .now_s = clock_wall_us() / (int64_t)US_PER_S};

    return store && task_run(&task);
}

/* ------------------------------------------------------------------ for who reads it */

/* A row as this file writes it; another one is damage, and is passed over. */
static bool result_is_sane(const struct tls_result *result, int64_t kind)
{
    return result->day >= 0 && result->day <= DAYS_MAX && kind >= TLS_POLICY_NONE &&
           kind <= TLS_POLICY_TLSA && result->count <= COUNT_MAX;
}

static bool read_results(sqlite3_stmt *statement,
                         bool (*each)(void *argument, const struct tls_result *result),
                         void *argument)
{
    struct tls_result *result = calloc(1, sizeof *result);
    int stepped = SQLITE_ERROR;
    bool on = result != NULL;

    while (on && (stepped = sqlite3_step(statement)) == SQLITE_ROW) {
        result->day = sqlite3_column_int64(statement, 0);
        copy_column(statement, 1, result->domain, sizeof result->domain);
        const int64_t kind = sqlite3_column_int64(statement, 2);
        result->kind = (enum tls_policy_kind)kind;
        copy_column(statement, 3, result->policy, sizeof result->policy);
        copy_column(statement, 4, result->host, sizeof result->host);
        copy_column(statement, 5, result->ip, sizeof result->ip);
        copy_column(statement, 6, result->source, sizeof result->source);
        copy_column(statement, 7, result->failure, sizeof result->failure);
        copy_column(statement, 8, result->reason, sizeof result->reason);
        result->count = (uint64_t)sqlite3_column_int64(statement, 9);
        on = !result_is_sane(result, kind) || each(argument, result);
    }
    free(result);
    return stepped == SQLITE_DONE || !on;
}

bool deliver_tls_results(const char *directory, int64_t since_day,
                         bool (*each)(void *argument, const struct tls_result *result),
                         void *argument)
{
    sqlite3 *database = NULL;
    sqlite3_stmt *statement = NULL;
    char path[4200];

    snprintf(path, sizeof path, "%.4000s/tls.db", directory);
    bool read =
        sqlite3_open_v2(path, &database, SQLITE_OPEN_READONLY, NULL) == SQLITE_OK &&
        sqlite3_busy_timeout(database, BUSY_MS) == SQLITE_OK &&
        sqlite3_prepare_v2(database,
                           "SELECT day, domain, kind, policy, host, ip, source, failure, reason,"
                           " count FROM results WHERE day >= ?1"
                           " ORDER BY day, domain, kind, policy, failure, host, ip",
                           -1, &statement, NULL) == SQLITE_OK &&
        sqlite3_bind_int64(statement, 1, since_day) == SQLITE_OK;
    read = read && read_results(statement, each, argument);
    sqlite3_finalize(statement);
    sqlite3_close(database);
    return read;
}
