/*
 * messages: one row each, envelope and states packed; `flow` is whose turn it waits for. waiting:
 * one row a recipient who waits, with all that a list of the queue is grouped and chosen by, so
 * that a million of them are read without opening an envelope.
 */
#include "spool/index.h"

#include <sqlite3.h>
#include <string.h>

enum statement {
    BEGIN = 0,
    COMMIT,
    ROLLBACK,
    FULL_SYNC,
    NORMAL_SYNC,
    STATE_GET,
    STATE_PUT,
    ROW_PUT,
    ROW_TOUCH,
    ROW_DELETE,
    WAITING_PUT,
    WAITING_DELETE,
    ROW_GET,
    NEXT_FLOW,
    DUE,
    OLDEST,
    OF_SEGMENT,
    TOTALS,
    ROWS_ALL,
    ROWS_DOMAIN,
    ROWS_SOME,
    WAITING_ALL,
    WAITING_DOMAIN,
    STATEMENT_COUNT
};

#define COLUMNS                                                                                    \
    "id, position, size, extent, extent_checksum, accepted, due, held, damaged, envelope, states"
#define WAITING "SELECT message, size, domain, cause, sender, next, accepted, attempts FROM waiting"

/* Counted up when the tables change: an index of another version is made anew from the log. */
#define VERSION_TEXT "3"
enum { INDEX_VERSION = 3, CHECKPOINT_PAGES = 1000 };

static const char *const statement_text[STATEMENT_COUNT] = {
    [BEGIN] = "BEGIN IMMEDIATE",
    [COMMIT] = "COMMIT",
    [ROLLBACK] = "ROLLBACK",
    [FULL_SYNC] = "PRAGMA synchronous=FULL",
    [NORMAL_SYNC] = "PRAGMA synchronous=NORMAL",
    [STATE_GET] = "SELECT spool, position, sequence FROM state WHERE one = 1",
    [STATE_PUT] = "REPLACE INTO state(one, spool, position, sequence) VALUES (1, ?, ?, ?)",
    [ROW_PUT] = "REPLACE INTO messages(" COLUMNS ", segment, flow)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    [ROW_TOUCH] = "UPDATE messages SET due = ?2, held = ?3 WHERE id = ?1",
    [ROW_DELETE] = "DELETE FROM messages WHERE id = ?",
    [WAITING_PUT] = "REPLACE INTO waiting(message, recipient, domain, cause, next, sender,"
                    " accepted, size, attempts) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
    [WAITING_DELETE] = "DELETE FROM waiting WHERE message = ?",
    [ROW_GET] = "SELECT " COLUMNS " FROM messages WHERE id = ?",
    [NEXT_FLOW] = "SELECT min(flow) FROM messages WHERE held = 0 AND flow > ?",
    [DUE] = "SELECT id, due FROM messages WHERE held = 0 AND flow = ? ORDER BY due",
    [OLDEST] = "SELECT accepted FROM messages ORDER BY id LIMIT 1",
    [OF_SEGMENT] = "SELECT id FROM messages WHERE segment = ? LIMIT ?",
    [TOTALS] = "SELECT segment, count(*), sum(size), sum(extent), sum(held) FROM messages GROUP BY "
               "segment",
    [ROWS_ALL] = "SELECT " COLUMNS " FROM messages ORDER BY id",
    [ROWS_DOMAIN] = "SELECT " COLUMNS " FROM messages WHERE id IN ("
                    "SELECT message FROM waiting WHERE domain = ?1) ORDER BY id",
    [ROWS_SOME] = "SELECT " COLUMNS " FROM messages WHERE id IN (SELECT message FROM waiting"
                  " WHERE (?2 IS NULL OR cause = ?2) AND (?3 IS NULL OR sender LIKE ?3))"
                  " ORDER BY id",
    [WAITING_ALL] = WAITING,
    [WAITING_DOMAIN] = WAITING " WHERE domain = ?1",
};

static const char schema[] =
    "CREATE TABLE IF NOT EXISTS state(one INTEGER PRIMARY KEY, spool INTEGER NOT NULL,"
    " position INTEGER NOT NULL, sequence INTEGER NOT NULL);"
    "CREATE TABLE IF NOT EXISTS messages(id INTEGER PRIMARY KEY, segment INTEGER NOT NULL,"
    " position INTEGER NOT NULL, size INTEGER NOT NULL, extent INTEGER NOT NULL,"
    " extent_checksum INTEGER NOT NULL, accepted INTEGER NOT NULL, due INTEGER NOT NULL,"
    " held INTEGER NOT NULL, damaged INTEGER NOT NULL, flow INTEGER NOT NULL,"
    " envelope BLOB NOT NULL, states BLOB);"
    "CREATE INDEX IF NOT EXISTS messages_due ON messages(held, flow, due);"
    "CREATE INDEX IF NOT EXISTS messages_segment ON messages(segment, size, extent, held);"
    "CREATE TABLE IF NOT EXISTS waiting(message INTEGER NOT NULL, recipient INTEGER NOT NULL,"
    " domain TEXT NOT NULL, cause TEXT NOT NULL, next INTEGER NOT NULL,"
    " sender TEXT NOT NULL, accepted INTEGER NOT NULL, size INTEGER NOT NULL,"
    " attempts INTEGER NOT NULL, PRIMARY KEY(message, recipient)) WITHOUT ROWID;"
    "CREATE INDEX IF NOT EXISTS waiting_domain ON waiting(domain);"
    "PRAGMA user_version = " VERSION_TEXT ";";

struct index {
    sqlite3 *database;
    sqlite3_stmt *statements[STATEMENT_COUNT];
    bool durable, damaged, sync_failed;
    int wal_pages;          /* after the last commit */
    int64_t oldest_wall_us; /* as of `oldest_changes`; asked for every second, whatever happened */
    int oldest_changes;
    bool oldest_known;
    char fault[200];
};

static bool code_is_damage(int code)
{
    return (code & 0xff) == SQLITE_CORRUPT || (code & 0xff) == SQLITE_NOTADB;
}

static bool code_is_sync(int code)
{
    return code == SQLITE_IOERR_FSYNC || code == SQLITE_IOERR_DIR_FSYNC;
}

static bool index_failed(struct index *index)
{
    index->sync_failed |= code_is_sync(sqlite3_extended_errcode(index->database));
    index->damaged |= code_is_damage(sqlite3_errcode(index->database));
    snprintf(index->fault, sizeof index->fault, "index: %s", sqlite3_errmsg(index->database));
    return false;
}

const char *index_fault(const struct index *index)
{
    return index->fault;
}

bool index_is_damaged(const struct index *index)
{
    return index->damaged || index->sync_failed;
}

static sqlite3_stmt *prepared(struct index *index, enum statement which)
{
    if (!index->statements[which] &&
        sqlite3_prepare_v3(index->database, statement_text[which], -1, SQLITE_PREPARE_PERSISTENT,
                           &index->statements[which], NULL) != SQLITE_OK) {
        index_failed(index);
        return NULL;
    }
    return index->statements[which];
}

/* Runs a statement that gives no rows that matter. */
static bool run(struct index *index, enum statement which)
{
    sqlite3_stmt *const statement = prepared(index, which);

    if (!statement)
        return false;
    int code;
    do
        code = sqlite3_step(statement);
    while (code == SQLITE_ROW);
    const bool done = code == SQLITE_DONE || index_failed(index);
    sqlite3_reset(statement);
    return done;
}

/* ------------------------------------------------------------------ opening */

static bool run_text(struct index *index, const char *text)
{
    return sqlite3_exec(index->database, text, NULL, NULL, NULL) == SQLITE_OK ||
           index_failed(index);
}

static bool is_new(struct index *index)
{
    struct index_state state;

    return !index_state(index, &state);
}

static int version_of(struct index *index)
{
    sqlite3_stmt *statement = NULL;
    int version = 0;

    if (sqlite3_prepare_v2(index->database, "PRAGMA user_version", -1, &statement, NULL) ==
            SQLITE_OK &&
        sqlite3_step(statement) == SQLITE_ROW)
        version = sqlite3_column_int(statement, 0);
    sqlite3_finalize(statement);
    return version;
}

static int note_wal(void *argument, sqlite3 *database UNUSED, const char *name UNUSED, int pages)
{
    struct index *index = argument;

    index->wal_pages = pages;
    return SQLITE_OK;
}

/* The hook takes the place of SQLite's own checkpoints, and only while no later one, nor
 * wal_autocheckpoint, takes its own. */
static bool open_to_write(struct index *index)
{
    if (!run_text(index, "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;"
                         "PRAGMA cache_size=-65536;") ||
        !run_text(index, schema))
        return false;
    sqlite3_wal_hook(index->database, note_wal, index);
    return true;
}

static enum index_opened open_rest(struct index *index, bool read_only)
{
    const int version = version_of(index);

    if (version != 0 && version != INDEX_VERSION) {
        snprintf(index->fault, sizeof index->fault, "tables of version %d, not %d", version,
                 INDEX_VERSION);
        return INDEX_DAMAGED;
    }
    if (!read_only && !open_to_write(index))
        return index->damaged ? INDEX_DAMAGED : INDEX_FAILED;
    if (is_new(index))
        return index->damaged ? INDEX_DAMAGED : INDEX_NEW;
    return INDEX_OK;
}

enum index_opened index_open(const char *directory, bool read_only, struct index **index, char *why,
                             size_t why_room)
{
    char path[1024];
    const int flags = read_only ? SQLITE_OPEN_READONLY : SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE;
    struct index *made = calloc(1, sizeof *made);

    *index = NULL;
    if (!made) {
        snprintf(why, why_room, "index: out of memory");
        return INDEX_FAILED;
    }
    snprintf(path, sizeof path, "%s/index.db", directory);
    enum index_opened opened = INDEX_FAILED;
    if (sqlite3_open_v2(path, &made->database, flags, disk_sqlite_vfs()) == SQLITE_OK) {
        sqlite3_busy_timeout(made->database, 5000);
        opened = open_rest(made, read_only);
    } else if (made->database) {
        index_failed(made);
    }
    snprintf(why, why_room, "%s: %s", path, made->fault);
    if (opened == INDEX_OK || opened == INDEX_NEW)
        *index = made;
    else
        index_close(made);
    return opened;
}

void index_close(struct index *index)
{
    for (size_t i = 0; i < STATEMENT_COUNT; i++)
        sqlite3_finalize(index->statements[i]);
    sqlite3_close(index->database);
    free(index);
}

bool index_remove(const char *directory)
{
    static const char *const names[] = {"index.db", "index.db-wal", "index.db-shm"};
    bool removed = true;

    for (size_t i = 0; i < COUNT_OF(names); i++) {
        char path[1024];
        struct file_facts facts;
        snprintf(path, sizeof path, "%s/%s", directory, names[i]);
        if (disk_facts(path, &facts).status == IO_OK)
            removed &= disk_remove(path).status == IO_OK;
    }
    return removed;
}

/* ------------------------------------------------------------------ writing */

bool index_begin(struct index *index, bool durable)
{
    index->durable = durable;
    return (!durable || run(index, FULL_SYNC)) && run(index, BEGIN);
}

static void bind_bytes(sqlite3_stmt *statement, int place, struct bytes text)
{
    sqlite3_bind_text(statement, place, text.at ? (const char *)text.at : "", (int)text.count,
                      SQLITE_STATIC);
}

static bool waiting_put(struct index *index, const struct row *row, struct bytes sender,
                        uint32_t recipient, struct bytes domain, const struct status *status)
{
    sqlite3_stmt *const put = prepared(index, WAITING_PUT);

    if (!put)
        return false;
    sqlite3_bind_int64(put, 1, (sqlite3_int64)row->id);
    sqlite3_bind_int64(put, 2, recipient);
    bind_bytes(put, 3, domain);
    sqlite3_bind_text(put, 4, cause_name(status->cause), -1, SQLITE_STATIC);
    sqlite3_bind_int64(put, 5, status->next_wall_us);
    bind_bytes(put, 6, sender);
    sqlite3_bind_int64(put, 7, row->accepted_wall_us);
    sqlite3_bind_int64(put, 8, (sqlite3_int64)row->size_bytes);
    sqlite3_bind_int64(put, 9, status->attempts);
    return run(index, WAITING_PUT);
}

static bool waiting_put_all(struct index *index, const struct row *row, struct arena *arena)
{
    struct envelope envelope;
    struct status_list list = status_list_read(row->status_list);
    struct status status;
    uint32_t recipient;

    if (!envelope_decode(arena, row->envelope, &envelope))
        return false;
    struct status *const statuses = ARENA_NEW_ARRAY(arena, envelope.recipient_count, struct status);
    const struct bytes sender = address_text(arena, envelope.from);
    bool put = statuses != NULL;
    while (put && status_list_next(&list, &recipient, &status))
        if (recipient < envelope.recipient_count)
            statuses[recipient] = status;
    for (uint32_t i = 0; put && i < envelope.recipient_count; i++)
        put =
            statuses[i].state != RECIPIENT_WAITING ||
            waiting_put(index, row, sender, i, envelope.recipients[i].address.domain, &statuses[i]);
    return put;
}

static bool waiting_replace(struct index *index, const struct row *row)
{
    struct arena arena = ARENA_WITH_LIMIT(64 * MIB);
    sqlite3_stmt *const delete = prepared(index, WAITING_DELETE);

    if (!delete)
        return false;
    sqlite3_bind_int64(delete, 1, (sqlite3_int64)row->id);
    const bool done = run(index, WAITING_DELETE) && waiting_put_all(index, row, &arena);
    arena_clear(&arena);
    return done;
}

/* Of a queue that is put off, or held, this is all that changes: a fraction of the pages. */
static bool row_touch(struct index *index, const struct row *row)
{
    sqlite3_stmt *const touch = prepared(index, ROW_TOUCH);

    if (!touch)
        return false;
    sqlite3_bind_int64(touch, 1, (sqlite3_int64)row->id);
    sqlite3_bind_int64(touch, 2, row->due_wall_us);
    sqlite3_bind_int64(touch, 3, row->held);
    return run(index, ROW_TOUCH);
}

bool index_put(struct index *index, const struct row *row)
{
    if (row->same)
        return row_touch(index, row);
    sqlite3_stmt *const put = prepared(index, ROW_PUT);
    const uint64_t numbers[] = {row->id,
                                row->position,
                                row->size_bytes,
                                row->extent_bytes,
                                row->extent_checksum,
                                (uint64_t)row->accepted_wall_us,
                                (uint64_t)row->due_wall_us,
                                row->held,
                                row->damaged};

    if (!put)
        return false;
    for (size_t i = 0; i < COUNT_OF(numbers); i++)
        sqlite3_bind_int64(put, (int)i + 1, (sqlite3_int64)numbers[i]);
    sqlite3_bind_blob(put, 10, row->envelope.at, (int)row->envelope.count, SQLITE_STATIC);
    sqlite3_bind_blob(put, 11, row->status_list.at, (int)row->status_list.count, SQLITE_STATIC);
    sqlite3_bind_int64(put, 12, (sqlite3_int64)(row->position >> 32));
    sqlite3_bind_int64(put, 13, row->flow);
    return run(index, ROW_PUT) && waiting_replace(index, row);
}

bool index_delete(struct index *index, uint64_t id)
{
    sqlite3_stmt *const row = prepared(index, ROW_DELETE);
    sqlite3_stmt *const waiting = prepared(index, WAITING_DELETE);

    if (!row || !waiting)
        return false;
    sqlite3_bind_int64(row, 1, (sqlite3_int64)id);
    sqlite3_bind_int64(waiting, 1, (sqlite3_int64)id);
    return run(index, ROW_DELETE) && run(index, WAITING_DELETE);
}

bool index_end(struct index *index, const struct index_state *state)
{
    sqlite3_stmt *const put = state ? prepared(index, STATE_PUT) : NULL;

    if (state && !put)
        return false;
    if (state) {
        sqlite3_bind_int64(put, 1, (sqlite3_int64)state->spool);
        sqlite3_bind_int64(put, 2, (sqlite3_int64)state->position);
        sqlite3_bind_int64(put, 3, (sqlite3_int64)state->sequence);
    }
    if (state && !run(index, STATE_PUT))
        return false;
    if (!run(index, COMMIT) || (index->durable && !run(index, NORMAL_SYNC)))
        return false;
    if (index->wal_pages >= CHECKPOINT_PAGES && !index_is_damaged(index))
        return index_checkpoint(index) || !index->sync_failed; /* else another time */
    return true;
}

void index_abandon(struct index *index)
{
    char fault[sizeof index->fault];

    memcpy(fault, index->fault, sizeof fault);
    if (!sqlite3_get_autocommit(index->database) && !run(index, ROLLBACK))
        snprintf(index->fault, sizeof index->fault, "%s", fault);
    if (!run(index, NORMAL_SYNC))
        snprintf(index->fault, sizeof index->fault, "%s", fault);
}

/* Ours, not SQLite's own, which tells nobody when a sync in it fails. */
bool index_checkpoint(struct index *index)
{
    if (index_is_damaged(index))
        return false; /* the fault that there is stays as it was told */
    return sqlite3_wal_checkpoint_v2(index->database, NULL, SQLITE_CHECKPOINT_PASSIVE, NULL,
                                     NULL) == SQLITE_OK ||
           index_failed(index);
}

/* ------------------------------------------------------------------ reading */

static uint64_t column_u64(sqlite3_stmt *statement, int column)
{
    return (uint64_t)sqlite3_column_int64(statement, column);
}

static struct bytes column_bytes(sqlite3_stmt *statement, int column)
{
    const void *at = sqlite3_column_blob(statement, column);

    return bytes_of(at, (size_t)sqlite3_column_bytes(statement, column));
}

static struct row row_read(sqlite3_stmt *from)
{
    return (struct row){
        .id = column_u64(from, 0),
        .position = column_u64(from, 1),
        .size_bytes = column_u64(from, 2),
        .extent_bytes = column_u64(from, 3),
        .extent_checksum = column_u64(from, 4),
        .accepted_wall_us = sqlite3_column_int64(from, 5),
        .due_wall_us = sqlite3_column_int64(from, 6),
        .held = sqlite3_column_int(from, 7) != 0,
        .damaged = sqlite3_column_int(from, 8) != 0,
        .envelope = column_bytes(from, 9),
        .status_list = column_bytes(from, 10),
    };
}

/* Steps through a bound statement; `each` returns false to end it. */
typedef bool row_visit(void *argument, sqlite3_stmt *row);
static bool visit(struct index *index, sqlite3_stmt *statement, row_visit *each, void *argument)
{
    int code = SQLITE_DONE;

    while ((code = sqlite3_step(statement)) == SQLITE_ROW)
        if (!each(argument, statement))
            break;
    const bool done = code == SQLITE_ROW || code == SQLITE_DONE || index_failed(index);
    sqlite3_reset(statement);
    return done;
}

struct state_visit {
    struct index_state *state;
    bool found;
};

static bool take_state(void *argument, sqlite3_stmt *row)
{
    struct state_visit *take = argument;

    *take->state = (struct index_state){column_u64(row, 0), column_u64(row, 1), column_u64(row, 2)};
    take->found = true;
    return false;
}

bool index_state(struct index *index, struct index_state *state)
{
    struct state_visit take = {.state = state};
    sqlite3_stmt *const statement = prepared(index, STATE_GET);

    *state = (struct index_state){0};
    return statement && visit(index, statement, take_state, &take) && take.found;
}

struct row_take {
    void (*take)(void *argument, const struct row *row);
    void *argument;
    bool found;
};

static bool take_row(void *argument, sqlite3_stmt *statement)
{
    struct row_take *take = argument;
    const struct row row = row_read(statement);

    take->found = true;
    take->take(take->argument, &row);
    return false;
}

enum lookup_status index_row(struct index *index, uint64_t id,
                             void (*take)(void *argument, const struct row *row), void *argument)
{
    struct row_take visitor = {take, argument, false};
    sqlite3_stmt *const statement = prepared(index, ROW_GET);

    if (!statement)
        return LOOKUP_FAILED;
    sqlite3_bind_int64(statement, 1, (sqlite3_int64)id);
    if (!visit(index, statement, take_row, &visitor))
        return LOOKUP_FAILED;
    return visitor.found ? LOOKUP_FOUND : LOOKUP_ABSENT;
}

static bool take_int(void *argument, sqlite3_stmt *row)
{
    if (sqlite3_column_type(row, 0) != SQLITE_NULL)
        *(int *)argument = sqlite3_column_int(row, 0);
    return false;
}

bool index_next_flow(struct index *index, int flow, int *next)
{
    sqlite3_stmt *const statement = prepared(index, NEXT_FLOW);

    *next = -1;
    if (!statement)
        return false;
    sqlite3_bind_int(statement, 1, flow);
    return visit(index, statement, take_int, next);
}

struct due_visit {
    const struct index_due *due;
    int64_t *next_wall_us;
};

static bool visit_due(void *argument, sqlite3_stmt *row)
{
    const struct due_visit *visit = argument;
    const int64_t due_wall_us = sqlite3_column_int64(row, 1);

    if (due_wall_us <= visit->due->now_wall_us)
        return visit->due->each(visit->due->argument, column_u64(row, 0));
    *visit->next_wall_us = due_wall_us;
    return false;
}

bool index_due(struct index *index, const struct index_due *due, int64_t *next_wall_us)
{
    struct due_visit visitor = {due, next_wall_us};
    sqlite3_stmt *const statement = prepared(index, DUE);

    *next_wall_us = INT64_MAX;
    if (!statement)
        return false;
    sqlite3_bind_int(statement, 1, due->flow);
    return visit(index, statement, visit_due, &visitor);
}

struct id_visit {
    bool (*each)(void *argument, uint64_t id);
    void *argument;
};

static bool visit_id(void *argument, sqlite3_stmt *row)
{
    const struct id_visit *ids = argument;

    return ids->each(ids->argument, column_u64(row, 0));
}

bool index_of_segment(struct index *index, uint64_t generation, uint32_t most,
                      bool (*each)(void *argument, uint64_t id), void *argument)
{
    struct id_visit ids = {each, argument};
    sqlite3_stmt *const statement = prepared(index, OF_SEGMENT);

    if (!statement)
        return false;
    sqlite3_bind_int64(statement, 1, (sqlite3_int64)generation);
    sqlite3_bind_int64(statement, 2, most);
    return visit(index, statement, visit_id, &ids);
}

static bool take_number(void *argument, sqlite3_stmt *row)
{
    if (sqlite3_column_type(row, 0) != SQLITE_NULL)
        *(int64_t *)argument = sqlite3_column_int64(row, 0);
    return false;
}

bool index_oldest(struct index *index, int64_t *accepted_wall_us)
{
    /* This connection is the only one that writes. */
    const int changes = sqlite3_total_changes(index->database);

    if (!index->oldest_known || index->oldest_changes != changes) {
        sqlite3_stmt *const statement = prepared(index, OLDEST);

        index->oldest_wall_us = 0;
        index->oldest_changes = changes;
        index->oldest_known =
            statement && visit(index, statement, take_number, &index->oldest_wall_us);
    }
    *accepted_wall_us = index->oldest_wall_us;
    return index->oldest_known;
}

struct totals_visit {
    void (*each)(void *argument, const struct index_totals *totals);
    void *argument;
};

static bool visit_totals(void *argument, sqlite3_stmt *row)
{
    const struct totals_visit *totals = argument;

    totals->each(totals->argument,
                 &(struct index_totals){column_u64(row, 0), column_u64(row, 1), column_u64(row, 2),
                                        column_u64(row, 3), column_u64(row, 4)});
    return true;
}

bool index_totals(struct index *index,
                  void (*each)(void *argument, const struct index_totals *totals), void *argument)
{
    struct totals_visit totals = {each, argument};
    sqlite3_stmt *const statement = prepared(index, TOTALS);

    return statement && visit(index, statement, visit_totals, &totals);
}

/* ------------------------------------------------------------------ for the view */

bool index_begin_read(struct index *index)
{
    return run_text(index, "BEGIN");
}

void index_end_read(struct index *index)
{
    if (!run_text(index, "COMMIT"))
        index->fault[sizeof index->fault - 1] = '\0'; /* nothing was written: nothing is lost */
}

struct rows_visit {
    bool (*each)(void *argument, const struct row *row);
    void *argument;
};

static bool visit_row(void *argument, sqlite3_stmt *statement)
{
    const struct rows_visit *rows = argument;
    const struct row row = row_read(statement);

    return rows->each(rows->argument, &row);
}

bool index_rows(struct index *index, const struct index_question *question,
                bool (*each)(void *argument, const struct row *row), void *argument)
{
    struct rows_visit rows = {each, argument};
    const enum statement which = question->id                          ? ROW_GET
                                 : question->domain                    ? ROWS_DOMAIN
                                 : question->cause || question->sender ? ROWS_SOME
                                                                       : ROWS_ALL;
    sqlite3_stmt *const statement = prepared(index, which);

    if (!statement)
        return false;
    if (question->id)
        sqlite3_bind_int64(statement, 1, (sqlite3_int64)question->id);
    else if (which == ROWS_DOMAIN)
        sqlite3_bind_text(statement, 1, question->domain, -1, SQLITE_STATIC);
    else if (which == ROWS_SOME) {
        char pattern[MAIL_ADDRESS_MAX];
        snprintf(pattern, sizeof pattern, "%s%s",
                 question->sender && *question->sender == '@' ? "%" : "",
                 question->sender ? question->sender : "");
        sqlite3_bind_text(statement, 2, question->cause, -1, SQLITE_STATIC);
        sqlite3_bind_text(statement, 3, question->sender ? pattern : NULL, -1, SQLITE_TRANSIENT);
    }
    return visit(index, statement, visit_row, &rows);
}

struct waiting_visit {
    bool (*each)(void *argument, const struct waiting_row *row);
    void *argument;
};

static bool visit_waiting(void *argument, sqlite3_stmt *from)
{
    const struct waiting_visit *visit = argument;
    const struct waiting_row row = {.message = column_u64(from, 0),
                                    .size_bytes = column_u64(from, 1),
                                    .domain = column_bytes(from, 2),
                                    .cause = column_bytes(from, 3),
                                    .sender = column_bytes(from, 4),
                                    .next_wall_us = sqlite3_column_int64(from, 5),
                                    .accepted_wall_us = sqlite3_column_int64(from, 6),
                                    .attempts = (uint32_t)sqlite3_column_int64(from, 7)};

    return visit->each(visit->argument, &row);
}

bool index_waiting(struct index *index, const struct index_question *question,
                   bool (*each)(void *argument, const struct waiting_row *row), void *argument)
{
    struct waiting_visit waiting = {each, argument};
    sqlite3_stmt *const statement =
        prepared(index, question->domain ? WAITING_DOMAIN : WAITING_ALL);

    if (!statement)
        return false;
    if (question->domain)
        sqlite3_bind_text(statement, 1, question->domain, -1, SQLITE_STATIC);
    return visit(index, statement, visit_waiting, &waiting);
}
