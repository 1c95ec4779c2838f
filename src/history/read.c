/*
 * The reading side: a read-only connection of its own each time, in this process or another, with
 * the server up or down. No file yet: nothing happened.
 */
#include "history/inside.h"

#include <errno.h>
#include <string.h>

enum { NAMES_MAX = 4096, ROWS_MAX = 20000, BUSY_MS = 2000 };
#define READ_ROOM (64 * MIB)

struct view {
    sqlite3 *database;
    struct arena arena;
    struct bytes names[NAMES_MAX];
    struct history_row *rows;
    size_t count;
    uint64_t only_session; /* 0: all */
};

static void view_close(struct view **view)
{
    if (!*view)
        return;
    sqlite3_close((*view)->database);
    arena_clear(&(*view)->arena);
    free((*view)->rows);
    free(*view);
    *view = NULL;
}

int history_read_open(const char *directory, sqlite3 **database, char *why, size_t why_room)
{
    char path[4096];
    struct file_facts facts;

    snprintf(path, sizeof path, "%s/" HISTORY_FILE, directory);
    if (sqlite3_open_v2(path, database, SQLITE_OPEN_READONLY | SQLITE_OPEN_NOMUTEX,
                        disk_sqlite_vfs()) == SQLITE_OK) {
        sqlite3_busy_timeout(*database, BUSY_MS);
        if (shape_shade(*database))
            return 1;
        snprintf(why, why_room, "%s: %s", path, sqlite3_errmsg(*database));
        return -1;
    }
    const struct io_result there = disk_facts(path, &facts);
    if (there.status != IO_OK && there.error == ENOENT)
        return 0;
    snprintf(why, why_room, "%s: %s", path, sqlite3_errmsg(*database));
    return -1;
}

static int view_open(struct view *view, const char *directory, char *why, size_t why_room)
{
    view->arena = ARENA_WITH_LIMIT(READ_ROOM);
    return history_read_open(directory, &view->database, why, why_room);
}

static bool view_fail(const struct view *view, char *why, size_t why_room)
{
    snprintf(why, why_room, "history: %s", sqlite3_errmsg(view->database));
    return false;
}

static struct bytes column_bytes(sqlite3_stmt *statement, int column)
{
    const void *at = sqlite3_column_blob(statement, column);

    return bytes_of(at, at ? (size_t)sqlite3_column_bytes(statement, column) : 0);
}

static bool view_names(struct view *view)
{
    sqlite3_stmt *statement = NULL;
    int result = SQLITE_ERROR;

    if (store_prepare(view->database, "SELECT id, text FROM names", &statement))
        while ((result = sqlite3_step(statement)) == SQLITE_ROW) {
            const int64_t id = sqlite3_column_int64(statement, 0);
            if (id > 0 && id < NAMES_MAX)
                view->names[id] = arena_copy(&view->arena, column_bytes(statement, 1));
        }
    sqlite3_finalize(statement);
    return result == SQLITE_DONE;
}

/* ------------------------------------------------------------------ events */

static struct bytes name_of(const struct view *view, uint64_t id)
{
    return id < NAMES_MAX ? view->names[id] : BYTES_EMPTY;
}

static struct history_row row_of(const struct view *view, const struct kept *kept, uint64_t message)
{
    const struct bytes cause = name_of(view, kept->numbers[KEPT_CAUSE]);
    enum cause known = CAUSE_UNDECIDED;
    const bool found = cause.count > 0 && cause_parse(cause, &known);

    return (struct history_row){.wall_us = kept->wall_us,
                                .event = name_of(view, kept->kind),
                                .message = message,
                                .session = kept->numbers[KEPT_SESSION],
                                .stage = name_of(view, kept->numbers[KEPT_STAGE]),
                                .cause = cause,
                                .side =
                                    bytes_of_text(found ? side_name(cause_row(known)->side) : ""),
                                .client = kept->texts[KEPT_CLIENT],
                                .helo = kept->texts[KEPT_HELO],
                                .from = kept->texts[KEPT_FROM],
                                .to = kept->texts[KEPT_TO],
                                .mx = kept->texts[KEPT_MX],
                                .filter = kept->texts[KEPT_FILTER],
                                .text = kept->texts[KEPT_TEXT],
                                .enhanced = kept->texts[KEPT_ENHANCED],
                                .tls = kept->texts[KEPT_TLS],
                                .destination = kept->texts[KEPT_DESTINATION],
                                .code = (unsigned)kept->numbers[KEPT_CODE],
                                .attempt = (uint32_t)kept->numbers[KEPT_ATTEMPT],
                                .next_wall_us = (int64_t)kept->numbers[KEPT_NEXT],
                                .took_us = kept->numbers[KEPT_TOOK],
                                .size_bytes = kept->numbers[KEPT_SIZE]};
}

static void view_add(struct view *view, sqlite3_stmt *statement)
{
    const int64_t base_us = sqlite3_column_int64(statement, 0);
    const uint64_t message = (uint64_t)sqlite3_column_int64(statement, 1);
    struct bytes rest = arena_copy(&view->arena, column_bytes(statement, 2));
    struct kept kept;

    while (rest.count > 0 && view->count < ROWS_MAX && kept_unpack(&rest, &kept, base_us))
        if (view->only_session == 0 || kept.numbers[KEPT_SESSION] == view->only_session)
            view->rows[view->count++] = row_of(view, &kept, message);
}

/* Rows of one time stay in the order in which they were written: the addresses decide. */
static int compare_rows(const void *a, const void *b)
{
    const struct history_row *const *first = a, *const *second = b;

    if ((*first)->wall_us != (*second)->wall_us)
        return (*first)->wall_us < (*second)->wall_us ? -1 : 1;
    return (*first > *second) - (*first < *second);
}

static bool view_tell(struct view *view, history_each *each, void *argument)
{
    const struct history_row **order = calloc(view->count + 1, sizeof *order);

    if (!order)
        return false;
    for (size_t i = 0; i < view->count; i++)
        order[i] = &view->rows[i];
    qsort(order, view->count, sizeof *order, compare_rows);
    for (size_t i = 0; i < view->count && each(argument, order[i]); i++)
        ;
    free(order);
    return true;
}

static bool view_collect(struct view *view, const char *sql, uint64_t id)
{
    sqlite3_stmt *statement = NULL;
    int result = SQLITE_ERROR;

    view->rows = calloc(ROWS_MAX, sizeof *view->rows);
    if (view->rows && view_names(view) && store_prepare(view->database, sql, &statement)) {
        sqlite3_bind_int64(statement, 1, (int64_t)id);
        while ((result = sqlite3_step(statement)) == SQLITE_ROW && view->count < ROWS_MAX)
            view_add(view, statement);
    }
    const bool full = view->count >= ROWS_MAX;
    sqlite3_finalize(statement);
    return result == SQLITE_DONE || full;
}

struct story {
    const char *sql;
    uint64_t id, only_session;
    history_each *each;
    void *argument;
};

static bool story_tell(const char *directory, const struct story *story, char *why, size_t why_room)
{
    CLEANUP(view_close) struct view *view = calloc(1, sizeof *view);

    if (!view) {
        snprintf(why, why_room, "no memory");
        return false;
    }
    const int open = view_open(view, directory, why, why_room);
    if (open <= 0)
        return open == 0;
    view->only_session = story->only_session;
    if (!view_collect(view, story->sql, story->id))
        return view_fail(view, why, why_room);
    return view_tell(view, story->each, story->argument);
}

bool history_of_message(const char *directory, uint64_t message, history_each *each, void *argument,
                        char *why, size_t why_room)
{
    const struct story story = {
        .sql = "SELECT wall_us, message, packed FROM events WHERE message = ?1 AND message <> 0"
               " ORDER BY id",
        .id = message,
        .each = each,
        .argument = argument};

    return message == 0 || story_tell(directory, &story, why, why_room);
}

bool history_of_session(const char *directory, uint64_t session, history_each *each, void *argument,
                        char *why, size_t why_room)
{
    const struct story story = {
        .sql = "SELECT wall_us, message, packed FROM events WHERE session = ?1 AND session <> 0"
               " ORDER BY id",
        .id = session,
        .only_session = session,
        .each = each,
        .argument = argument};

    return session == 0 || story_tell(directory, &story, why, why_room);
}

/* Row by row, so that a long time takes no more memory than one of them. */
static bool rows_tell(struct view *view, sqlite3_stmt *statement, history_each *each,
                      void *argument)
{
    const uint64_t message = (uint64_t)sqlite3_column_int64(statement, 1);
    const int64_t base_us = sqlite3_column_int64(statement, 0);
    struct bytes rest = column_bytes(statement, 2);
    struct kept kept;

    while (rest.count > 0 && kept_unpack(&rest, &kept, base_us)) {
        const struct history_row row = row_of(view, &kept, message);
        if (!each(argument, &row))
            return false;
    }
    return true;
}

bool history_since(const char *directory, int64_t since_wall_us, history_each *each, void *argument,
                   char *why, size_t why_room)
{
    CLEANUP(view_close) struct view *view = calloc(1, sizeof *view);
    sqlite3_stmt *statement = NULL;
    int result = SQLITE_ERROR;
    bool wanted = true;

    if (!view) {
        snprintf(why, why_room, "no memory");
        return false;
    }
    const int open = view_open(view, directory, why, why_room);
    if (open <= 0)
        return open == 0;
    if (view_names(view) &&
        store_prepare(view->database,
                      "SELECT wall_us, message, packed FROM events WHERE wall_us >= ?1 ORDER BY id",
                      &statement)) {
        sqlite3_bind_int64(statement, 1, since_wall_us);
        while (wanted && (result = sqlite3_step(statement)) == SQLITE_ROW)
            wanted = rows_tell(view, statement, each, argument);
    }
    sqlite3_finalize(statement);
    return result == SQLITE_DONE || !wanted || view_fail(view, why, why_room);
}

/* ------------------------------------------------------------------ the ledger */

#define LEDGER_COLUMNS                                                                             \
    "SELECT network, sender, recipient, cause, first_us, last_us, ended_us, attempts, state,"      \
    " session, message, (SELECT user_version FROM pragma_user_version), dependency FROM ledger "

static struct ledger_row ledger_row_of(sqlite3_stmt *statement, int64_t now_wall_us)
{
    struct ledger_row row = {.client_network = column_bytes(statement, 0),
                             .from = column_bytes(statement, 1),
                             .to = column_bytes(statement, 2),
                             .cause = column_bytes(statement, 3),
                             .first_wall_us = sqlite3_column_int64(statement, 4),
                             .last_wall_us = sqlite3_column_int64(statement, 5),
                             .ended_wall_us = sqlite3_column_int64(statement, 6),
                             .dependency = column_bytes(statement, 12),
                             .attempts = (uint32_t)sqlite3_column_int64(statement, 7),
                             .state = (enum ledger_state)sqlite3_column_int(statement, 8),
                             .session = (uint64_t)sqlite3_column_int64(statement, 9),
                             .message = (uint64_t)sqlite3_column_int64(statement, 10)};

    const int64_t overdue_us = sqlite3_column_int64(statement, 11) * 1000;

    if (row.state == LEDGER_STILL_OUT &&
        now_wall_us - row.first_wall_us > (overdue_us ? overdue_us : LEDGER_OVERDUE_US))
        row.state = LEDGER_OVERDUE;
    return row;
}

struct account {
    const char *sql;
    int64_t parameter;
    ledger_each *each;
    void *argument;
};

static bool account_tell(const char *directory, const struct account *account, char *why,
                         size_t why_room)
{
    CLEANUP(view_close) struct view *view = calloc(1, sizeof *view);
    sqlite3_stmt *statement = NULL;
    int result = SQLITE_ERROR;
    bool wanted = true;

    if (!view) {
        snprintf(why, why_room, "no memory");
        return false;
    }
    const int open = view_open(view, directory, why, why_room);
    if (open <= 0)
        return open == 0;
    if (store_prepare(view->database, account->sql, &statement)) {
        sqlite3_bind_int64(statement, 1, account->parameter);
        while (wanted && (result = sqlite3_step(statement)) == SQLITE_ROW) {
            const struct ledger_row row = ledger_row_of(statement, clock_wall_us());
            wanted = account->each(account->argument, &row);
        }
    }
    sqlite3_finalize(statement);
    return result == SQLITE_DONE || !wanted || view_fail(view, why, why_room);
}

bool ledger_view(const char *directory, int64_t since_wall_us, ledger_each *each, void *argument,
                 char *why, size_t why_room)
{
    const struct account account = {.sql = LEDGER_COLUMNS "WHERE last_us >= ?1 ORDER BY first_us",
                                    .parameter = since_wall_us,
                                    .each = each,
                                    .argument = argument};

    return account_tell(directory, &account, why, why_room);
}

bool ledger_of_message(const char *directory, uint64_t message, ledger_each *each, void *argument,
                       char *why, size_t why_room)
{
    const struct account account = {.sql = LEDGER_COLUMNS
                                    "WHERE message = ?1 AND message <> 0 ORDER BY first_us",
                                    .parameter = (int64_t)message,
                                    .each = each,
                                    .argument = argument};

    return account_tell(directory, &account, why, why_room);
}
