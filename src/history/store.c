/*
 * history.db: one connection that writes, on one thread. All events of a message that come in one
 * batch share a row, so plain mail costs one. A damaged file is set aside and begun anew: history
 * is never worth a message.
 */
#include "history/inside.h"

#include <limits.h>
#include <string.h>

enum { PRUNE_SLICE = 10000, BATCH_ROWS_MAX = 1 << 20, BUSY_MS = 2000 };
#define PRUNE_IDLE_US (60 * US_PER_S)

static const char SCHEMA[] =
    "PRAGMA journal_mode = WAL;"
    "PRAGMA synchronous = NORMAL;"
    "PRAGMA wal_autocheckpoint = 1000;"
    "CREATE TABLE IF NOT EXISTS names(id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE);"
    "CREATE TABLE IF NOT EXISTS events(id INTEGER PRIMARY KEY, wall_us INTEGER NOT NULL,"
    " message INTEGER NOT NULL, session INTEGER NOT NULL, packed BLOB NOT NULL);"
    "CREATE INDEX IF NOT EXISTS events_message ON events(message) WHERE message <> 0;"
    "CREATE INDEX IF NOT EXISTS events_session ON events(session) WHERE session <> 0;"
    "CREATE TABLE IF NOT EXISTS ledger(id INTEGER PRIMARY KEY, fingerprint INTEGER NOT NULL,"
    " network TEXT NOT NULL, sender TEXT NOT NULL COLLATE NOCASE,"
    " recipient TEXT NOT NULL COLLATE NOCASE, cause TEXT NOT NULL, first_us INTEGER NOT NULL,"
    " last_us INTEGER NOT NULL, ended_us INTEGER NOT NULL DEFAULT 0, attempts INTEGER NOT NULL,"
    " state INTEGER NOT NULL DEFAULT 0, session INTEGER NOT NULL,"
    " message INTEGER NOT NULL DEFAULT 0, incident INTEGER NOT NULL DEFAULT 0,"
    " dependency TEXT NOT NULL DEFAULT '', mail INTEGER NOT NULL DEFAULT 0);"
    "CREATE INDEX IF NOT EXISTS ledger_open ON ledger(fingerprint) WHERE state = 0;"
    "CREATE INDEX IF NOT EXISTS ledger_first ON ledger(first_us) WHERE state = 0;"
    "CREATE INDEX IF NOT EXISTS ledger_last ON ledger(last_us);"
    "CREATE INDEX IF NOT EXISTS ledger_message ON ledger(message) WHERE message <> 0;";

static const char LATER_INDEX[] =
    "CREATE INDEX IF NOT EXISTS ledger_incident ON ledger(incident) WHERE state = 0";

bool store_prepare(sqlite3 *database, const char *sql, sqlite3_stmt **statement)
{
    return sqlite3_prepare_v3(database, sql, -1, SQLITE_PREPARE_PERSISTENT, statement, NULL) ==
           SQLITE_OK;
}

void store_bind(sqlite3_stmt *statement, int index, struct bytes text)
{
    sqlite3_bind_text(statement, index, text.count ? (const char *)text.at : "", (int)text.count,
                      SQLITE_STATIC);
}

bool store_step(sqlite3_stmt *statement)
{
    const int result = sqlite3_step(statement);

    sqlite3_reset(statement);
    return result == SQLITE_DONE || result == SQLITE_ROW;
}

/* ------------------------------------------------------------------ names */

/* How a name gets its number; prepared once for the hundreds of them. */
struct naming {
    sqlite3_stmt *insert, *find;
};

static bool store_name(const struct naming *naming, const char *text, uint64_t *id)
{
    store_bind(naming->insert, 1, bytes_of_text(text));
    store_bind(naming->find, 1, bytes_of_text(text));
    const bool known = store_step(naming->insert) && sqlite3_step(naming->find) == SQLITE_ROW;
    if (known)
        *id = (uint64_t)sqlite3_column_int64(naming->find, 0);
    sqlite3_reset(naming->find);
    return known;
}

/* The numbers of the enums change between versions, the names do not. */
static bool store_names(struct store *store)
{
    struct naming naming = {0};
    bool known =
        store_prepare(store->database, "INSERT OR IGNORE INTO names(text) VALUES(?)",
                      &naming.insert) &&
        store_prepare(store->database, "SELECT id FROM names WHERE text = ?", &naming.find);

    for (unsigned i = 0; known && i < EVENT_KIND_COUNT; i++)
        known = store_name(&naming, event_name((enum event_kind)i), &store->kind_names[i]);
    for (unsigned i = 0; known && i < STAGE_COUNT; i++)
        known = store_name(&naming, stage_name((enum stage)i), &store->stage_names[i]);
    for (unsigned i = 0; known && i < CAUSE_COUNT; i++)
        known = store_name(&naming, cause_name((enum cause)i), &store->cause_names[i]);
    sqlite3_finalize(naming.insert);
    sqlite3_finalize(naming.find);
    return known;
}

/* ------------------------------------------------------------------ opening */

static bool store_prepare_all(struct store *store)
{
    sqlite3 *database = store->database;

    return store_prepare(database, "BEGIN IMMEDIATE", &store->begin) &&
           store_prepare(database, "COMMIT", &store->commit) &&
           store_prepare(database, "ROLLBACK", &store->rollback) &&
           store_prepare(database,
                         "INSERT INTO events(wall_us, message, session, packed) VALUES(?,?,?,?)",
                         &store->insert) &&
           store_prepare(database, "DELETE FROM events WHERE id < ?", &store->prune_rows) &&
           store_prepare(database, "DELETE FROM events WHERE id < ? AND wall_us < ?",
                         &store->prune_age) &&
           store_prepare(database,
                         "SELECT (SELECT min(id) FROM events), (SELECT max(id) FROM events)",
                         &store->bounds) &&
           ledger_prepare(store) && incidents_prepare(store) && transcripts_prepare(store);
}

static bool store_shape(sqlite3 *database)
{
    return sqlite3_exec(database, SCHEMA, NULL, NULL, NULL) == SQLITE_OK &&
           shape_complete(database) &&
           sqlite3_exec(database, LATER_INDEX, NULL, NULL, NULL) == SQLITE_OK;
}

static bool store_open_once(struct store *store, char *why, size_t why_room)
{
    char path[4096], overdue[64];
    const int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX;

    snprintf(path, sizeof path, "%s/" HISTORY_FILE, store->directory);
    store->clock = (struct sober_clock){clock_wall_us(), clock_now_us(), 0};
    /* Who reads the ledger learns from the file itself when a row is overdue. */
    snprintf(overdue, sizeof overdue, "PRAGMA user_version = %d",
             (int)MIN_OF(store->overdue_us / 1000, (int64_t)INT_MAX));
    bool opened = sqlite3_open_v2(path, &store->database, flags, disk_sqlite_vfs()) == SQLITE_OK;
    if (opened) {
        sqlite3_busy_timeout(store->database, BUSY_MS);
        opened = store_shape(store->database) &&
                 sqlite3_exec(store->database, overdue, NULL, NULL, NULL) == SQLITE_OK &&
                 sqlite3_exec(store->database, "BEGIN", NULL, NULL, NULL) == SQLITE_OK &&
                 store_names(store) &&
                 sqlite3_exec(store->database, "COMMIT", NULL, NULL, NULL) == SQLITE_OK &&
                 store_prepare_all(store) && ledger_load(store) && incidents_load(store);
    }
    if (!opened)
        snprintf(why, why_room, "%s: %s", path, sqlite3_errmsg(store->database));
    return opened;
}

static bool is_damage(int code)
{
    return (code & 0xff) == SQLITE_CORRUPT || (code & 0xff) == SQLITE_NOTADB;
}

/* history.db -> history.db.damaged; an older damaged one gives way. */
static bool set_aside(const struct store *store)
{
    char from[4096], to[4200];

    snprintf(from, sizeof from, "%s/" HISTORY_FILE, store->directory);
    snprintf(to, sizeof to, "%s.damaged", from);
    const struct io_result moved = disk_rename(from, to);
    snprintf(to, sizeof to, "%s-wal", from);
    const struct io_result wal = disk_remove(to);
    snprintf(to, sizeof to, "%s-shm", from);
    const struct io_result shm = disk_remove(to);
    observe_note(LOG_ERROR, "history", "%s is damaged: set aside (%s, %s, %s)", from,
                 io_result_text(moved), io_result_text(wal), io_result_text(shm));
    return moved.status == IO_OK;
}

bool store_open(struct store *store, char *why, size_t why_room)
{
    if (store_open_once(store, why, why_room))
        return true;
    const bool damaged = store->database && is_damage(sqlite3_extended_errcode(store->database));
    store_close(store);
    if (!damaged || !set_aside(store))
        return false;
    if (store_open_once(store, why, why_room))
        return true;
    store_close(store);
    return false;
}

void store_close(struct store *store)
{
    sqlite3_stmt **const all[] = {
        &store->begin,         &store->commit,       &store->rollback,    &store->insert,
        &store->prune_rows,    &store->prune_age,    &store->bounds,      &store->ledger_update,
        &store->ledger_insert, &store->ledger_close, &store->ledger_rest, &store->ledger_overdue,
        &store->ledger_prune};

    for (size_t i = 0; i < COUNT_OF(all); i++) {
        sqlite3_finalize(*all[i]);
        *all[i] = NULL;
    }
    incidents_finalize(store);
    incidents_unload(store);
    transcripts_finalize(store);
    ledger_unload(store);
    sqlite3_close(store->database);
    store->database = NULL;
}

/* ------------------------------------------------------------------ writing */

/* The events of one batch, chained by message. */
struct batch {
    struct kept *events;
    uint32_t *next;  /* the next event of the same message, or 0; events count from 1 */
    uint32_t *heads; /* hash table of first events */
    bool *later;     /* has no row of its own: not the first of its message, or the ledger's */
    uint32_t count, room;
};

static uint32_t batch_slot(const struct batch *batch, uint64_t message)
{
    uint32_t slot = (uint32_t)((message * UINT64_C(0x9e3779b97f4a7c15)) >> 32) & (batch->room - 1);

    while (batch->heads[slot] != 0 && batch->events[batch->heads[slot]].message != message)
        slot = (slot + 1) & (batch->room - 1);
    return slot;
}

static uint32_t count_events(struct bytes rest)
{
    struct kept kept;
    uint32_t count = 0;

    while (count < BATCH_ROWS_MAX && kept_read(&rest, &kept))
        count++;
    return count;
}

static void batch_close(struct batch *batch)
{
    free(batch->events);
    free(batch->next);
    free(batch->heads);
    free(batch->later);
}

/* Of the ledger alone; the story of the message has one line for all its recipients. */
static bool is_of_ledger(const struct kept *kept)
{
    return kept->kind == EVENT_RECIPIENT_ACCEPTED || kept->kind == EVENT_RECIPIENT_DEFERRED ||
           kept->kind == EVENT_RECIPIENT_REFUSED;
}

static bool batch_open(struct batch *batch, struct bytes octets)
{
    const uint32_t count = count_events(octets);

    batch->room = 64;
    while (batch->room < 2 * count)
        batch->room *= 2;
    batch->events = calloc(count + 1, sizeof *batch->events);
    batch->next = calloc(count + 1, sizeof *batch->next);
    batch->later = calloc(count + 1, sizeof *batch->later);
    batch->heads = calloc(batch->room, sizeof *batch->heads);
    if (!batch->events || !batch->next || !batch->later || !batch->heads)
        return false;
    while (batch->count < count && kept_read(&octets, &batch->events[batch->count + 1]))
        batch->count++;
    /* From the last to the first, so that each chain runs forward in time. */
    for (uint32_t i = batch->count; i > 0; i--) {
        batch->later[i] = is_of_ledger(&batch->events[i]);
        if (batch->events[i].message == 0 || batch->later[i])
            continue;
        uint32_t *head = &batch->heads[batch_slot(batch, batch->events[i].message)];
        batch->next[i] = *head;
        if (*head != 0)
            batch->later[*head] = true;
        *head = i;
    }
    return true;
}

/* With the numbers of `names` instead of the enums'. */
static struct kept for_disk(const struct store *store, const struct kept *kept)
{
    struct kept named = *kept;
    const uint64_t stage = kept->numbers[KEPT_STAGE], cause = kept->numbers[KEPT_CAUSE];

    named.kind = kept->kind < EVENT_KIND_COUNT ? store->kind_names[kept->kind] : 0;
    named.numbers[KEPT_STAGE] = stage > 0 && stage < STAGE_COUNT ? store->stage_names[stage] : 0;
    named.numbers[KEPT_CAUSE] =
        cause > 0 && cause <= CAUSE_COUNT ? store->cause_names[cause - 1] : 0;
    return named;
}

/* One row: the event at `first` and all of its message that follow in the batch. */
static bool insert_row(struct store *store, const struct batch *batch, uint32_t first,
                       struct buffer *packed)
{
    const int64_t base_us = batch->events[first].wall_us;
    uint64_t session = 0;

    buffer_clear(packed);
    for (uint32_t i = first; i != 0; i = batch->next[i]) {
        const struct kept named = for_disk(store, &batch->events[i]);
        kept_pack(packed, &named, base_us);
        session = session ? session : named.numbers[KEPT_SESSION];
    }
    if (packed->failed)
        return false;
    sqlite3_bind_int64(store->insert, 1, base_us);
    sqlite3_bind_int64(store->insert, 2, (int64_t)batch->events[first].message);
    sqlite3_bind_int64(store->insert, 3, (int64_t)session);
    sqlite3_bind_blob64(store->insert, 4, packed->at, packed->count, SQLITE_STATIC);
    return store_step(store->insert);
}

static bool write_batch(struct store *store, const struct batch *batch)
{
    CLEANUP(buffer_free) struct buffer packed = BUFFER_WITH_LIMIT(64 * MIB);
    bool written = store_step(store->begin);

    for (uint32_t i = 1; written && i <= batch->count; i++) {
        written = incidents_take(store, &batch->events[i]) &&
                  ledger_take(store, &batch->events[i]) &&
                  transcripts_take(store, &batch->events[i]);
        if (written && !batch->later[i])
            written = insert_row(store, batch, i, &packed);
    }
    if (!written || !incidents_save(store) || !store_step(store->commit))
        return false;
    incidents_saved(&store->incidents);
    incidents_tell(store);
    return true;
}

/* SQLite calls what it cannot make sense of damaged, also when an I/O error came between it and the
 * disk. So the file is opened once more, and set aside when that did not help. */
static void store_mend(struct store *store)
{
    char why[256];
    const bool again = store->suspect;

    store->suspect = !again;
    store_close(store);
    if (again && !set_aside(store))
        return;
    if (!store_open(store, why, sizeof why))
        observe_note(LOG_ERROR, "history", "%s", why);
}

/* A store that lies in pieces is begun anew; any other trouble may pass. */
static void store_recover(struct store *store)
{
    const int code = sqlite3_extended_errcode(store->database);

    if (!sqlite3_get_autocommit(store->database) && !store_step(store->rollback))
        observe_note(LOG_ERROR, "history", "rollback: %s", sqlite3_errmsg(store->database));
    observe_note(LOG_ERROR, "history", "a batch could not be written: %s", sqlite3_errstr(code));
    if (is_damage(code)) {
        store_mend(store);
        return;
    }
    ledger_reload(store);
    if (!incidents_load(store))
        observe_note(LOG_ERROR, "history", "incidents: %s", sqlite3_errmsg(store->database));
}

bool store_write(struct store *store, struct bytes octets)
{
    struct batch batch = {0};
    char why[256];

    if (!store->database && !store_open(store, why, sizeof why))
        return false;
    const bool made = batch_open(&batch, octets);
    const bool written = made && write_batch(store, &batch);
    batch_close(&batch);
    store->may_prune = true;
    if (made && !written)
        store_recover(store);
    else
        store->suspect = false;
    ledger_show(store);
    return written;
}

/* ------------------------------------------------------------------ bounds */

/* What is too much, which its ends tell. */
static void prune_surplus(struct store *store, int64_t *lowest_left)
{
    int64_t lowest = 0, highest = 0;

    if (sqlite3_step(store->bounds) == SQLITE_ROW) {
        lowest = sqlite3_column_int64(store->bounds, 0);
        highest = sqlite3_column_int64(store->bounds, 1);
    }
    sqlite3_reset(store->bounds);
    const int64_t surplus = highest - lowest + 1 - (int64_t)store->keep_rows;
    *lowest_left = lowest;
    if (highest == 0 || surplus <= 0)
        return;
    sqlite3_bind_int64(store->prune_rows, 1, lowest + MIN_OF(surplus, PRUNE_SLICE));
    if (!store_step(store->prune_rows))
        observe_note(LOG_WARNING, "history", "pruning: %s", sqlite3_errmsg(store->database));
}

#define LEAP_US ((int64_t)5 * 1000000)
static const uint64_t BELIEVED_AFTER_US = UINT64_C(24) * 3600 * US_PER_S;

/* A clock that leapt ahead makes nothing old: for a day, in which it may be set right, the time is
 * counted on from before the leap. One that went back is believed, since by it rows are younger. */
int64_t store_wall_us(struct store *store)
{
    struct sober_clock *clock = &store->clock;
    const int64_t wall_us = clock_wall_us();
    const uint64_t now_us = clock_now_us();
    const int64_t sober_us = clock->wall_us + (int64_t)(now_us - clock->steady_us);
    const bool leapt = clock->steady_us != 0 && wall_us > sober_us + LEAP_US;

    if (leapt && clock->ahead_since_us == 0)
        clock->ahead_since_us = now_us;
    if (leapt && now_us - clock->ahead_since_us < BELIEVED_AFTER_US)
        return sober_us;
    *clock = (struct sober_clock){wall_us, now_us, 0};
    return wall_us;
}

/* What is too old. It reads as many rows as it may take out, so it is not for every second. */
static void prune_aged(struct store *store, int64_t lowest)
{
    sqlite3_bind_int64(store->prune_age, 1, lowest + PRUNE_SLICE);
    sqlite3_bind_int64(store->prune_age, 2, store_wall_us(store) - (int64_t)store->keep_us);
    if (!store_step(store->prune_age))
        observe_note(LOG_WARNING, "history", "pruning: %s", sqlite3_errmsg(store->database));
    transcripts_prune_aged(store);
    ledger_prune(store);
}

void store_tend(struct store *store)
{
    const bool ages = clock_now_us() >= store->next_prune_us;
    int64_t lowest = 0;

    if (!store->database || (!store->may_prune && !ages))
        return;
    const int removed_before = sqlite3_total_changes(store->database);
    prune_surplus(store, &lowest);
    transcripts_prune_surplus(store);
    if (ages)
        prune_aged(store, lowest);
    store->may_prune = sqlite3_total_changes(store->database) != removed_before;
    if (ages && !store->may_prune)
        store->next_prune_us = deadline_in(PRUNE_IDLE_US);
}
