/*
 * The rows of incidents: themselves, the messages that stand for each, and which recipient waits
 * because of which, so that a restart goes on with them.
 */
#include "history/inside.h"

#include <string.h>

enum { WAITING_MAX = 262144, WAITING_ROOM_FIRST = 256, SWEEP_SLICE = 2000, ROWS_MAX = 10000 };
enum { FIRST_MESSAGES = 8, LATEST_MESSAGES = 16 };
/* Nothing was heard of a recipient so long after its next try: it is not followed any more. */
#define STALE_US ((int64_t)24 * 3600 * 1000000)
#define PRUNE_US (600 * US_PER_S) /* the bounds are wide: they need not be kept to the minute */

/* ------------------------------------------------------------------ who waits: the memory */

static size_t waiting_slot(const struct waiting_set *set, uint64_t key)
{
    size_t slot = (size_t)(key >> 20) & (set->room - 1);

    while (set->at[slot].key != 0 && set->at[slot].key != key)
        slot = (slot + 1) & (set->room - 1);
    return slot;
}

static struct waiting *waiting_find(const struct waiting_set *set, uint64_t key)
{
    struct waiting *found = set->room ? &set->at[waiting_slot(set, key)] : NULL;

    return found && found->key == key ? found : NULL;
}

static bool waiting_grow(struct waiting_set *set)
{
    struct waiting_set larger = {.room = set->room ? 2 * set->room : WAITING_ROOM_FIRST};

    larger.at = calloc(larger.room, sizeof *larger.at);
    if (!larger.at)
        return false;
    for (size_t i = 0; i < set->room; i++)
        if (set->at[i].key != 0)
            larger.at[waiting_slot(&larger, set->at[i].key)] = set->at[i];
    free(set->at);
    set->at = larger.at;
    set->room = larger.room;
    return true;
}

/* False: too many wait, this one is not followed. */
static bool waiting_put(struct waiting_set *set, uint64_t key, uint64_t incident)
{
    if (set->count >= WAITING_MAX || (2 * set->count >= set->room && !waiting_grow(set)))
        return false;
    struct waiting *place = &set->at[waiting_slot(set, key)];
    set->count += place->key == 0;
    *place = (struct waiting){.key = key, .incident = incident};
    return true;
}

/* Closes the gap: what was pushed past the freed place moves back. */
static void waiting_remove(struct waiting_set *set, uint64_t key)
{
    struct waiting *found = waiting_find(set, key);

    if (!found)
        return;
    found->key = 0;
    set->count--;
    for (size_t i = ((size_t)(found - set->at) + 1) & (set->room - 1); set->at[i].key != 0;
         i = (i + 1) & (set->room - 1)) {
        const struct waiting moved = set->at[i];
        set->at[i].key = 0;
        set->at[waiting_slot(set, moved.key)] = moved;
    }
}

/* ------------------------------------------------------------------ who waits: the table */

/* Positive, as SQLite counts, and never 0. */
static uint64_t waiting_key(const struct kept *kept)
{
    const uint64_t recipient = bytes_hash_nocase(kept->texts[KEPT_TO]);

    return (kept->message * UINT64_C(0x9e3779b97f4a7c15) ^ recipient) >> 1 | 1;
}

static void waiting_release(struct incidents *incidents, uint64_t incident_id)
{
    struct incident *incident = incident_by_id(incidents, incident_id);

    if (!incident || incident->waiting == 0)
        return;
    incident->waiting--;
    incident->dirty = incident->shown;
}

bool incident_wait(struct store *store, struct incident *incident, const struct kept *kept)
{
    struct incidents *incidents = &store->incidents;
    const uint64_t key = waiting_key(kept);
    const struct waiting *before = waiting_find(&incidents->waiting, key);
    const int64_t next_us = (int64_t)kept->numbers[KEPT_NEXT];

    if (before && before->incident != incident->id)
        waiting_release(incidents, before->incident);
    if (!before || before->incident != incident->id) {
        if (!waiting_put(&incidents->waiting, key, incident->id))
            return true;
        incident->waiting++;
    }
    sqlite3_bind_int64(incidents->wait_set, 1, (int64_t)key);
    sqlite3_bind_int64(incidents->wait_set, 2, (int64_t)incident->id);
    sqlite3_bind_int64(incidents->wait_set, 3, MAX_OF(next_us, kept->wall_us));
    return store_step(incidents->wait_set);
}

bool incident_wait_end(struct store *store, const struct kept *kept)
{
    struct incidents *incidents = &store->incidents;
    const uint64_t key = waiting_key(kept);
    const struct waiting *before = waiting_find(&incidents->waiting, key);

    if (!before)
        return true;
    waiting_release(incidents, before->incident);
    waiting_remove(&incidents->waiting, key);
    sqlite3_bind_int64(incidents->wait_end, 1, (int64_t)key);
    return store_step(incidents->wait_end);
}

/* ------------------------------------------------------------------ rows */

bool incident_message(struct store *store, struct incident *incident, const struct kept *kept)
{
    struct incidents *incidents = &store->incidents;
    const uint64_t id = kept->message ? kept->message : kept->numbers[KEPT_SESSION];

    if (id == 0 || id == incident->message)
        return true;
    incident->message = id;
    sqlite3_bind_int64(incidents->message_add, 1, (int64_t)incident->id);
    sqlite3_bind_int64(incidents->message_add, 2, (int64_t)id);
    if (!store_step(incidents->message_add))
        return false;
    if (++incident->messages <= INCIDENT_MESSAGES_MAX)
        return true;
    sqlite3_bind_int64(incidents->message_trim, 1, (int64_t)incident->id);
    sqlite3_bind_int(incidents->message_trim, 2, FIRST_MESSAGES);
    sqlite3_bind_int(incidents->message_trim, 3, LATEST_MESSAGES);
    return store_step(incidents->message_trim);
}

bool incident_told(struct store *store, const struct kept *kept)
{
    struct incidents *incidents = &store->incidents;
    const bool by_mail = bytes_equal_text(kept->texts[KEPT_FILTER], "mail");
    sqlite3_stmt *told = incidents->told[by_mail ? INCIDENT_BY_MAIL : INCIDENT_BY_COMMAND];

    sqlite3_bind_int64(told, 1, (int64_t)kept->message);
    sqlite3_bind_int64(told, 2, (int64_t)kept->numbers[KEPT_ATTEMPT]);
    return store_step(told);
}

static bool incident_write(struct store *store, struct incident *incident)
{
    sqlite3_stmt *upsert = store->incidents.upsert;

    sqlite3_bind_int64(upsert, 1, (int64_t)incident->id);
    sqlite3_bind_int(upsert, 2, (int)incident->direction);
    store_bind(upsert, 3, bytes_of_text(cause_name(incident->cause)));
    store_bind(upsert, 4, bytes_of_text(incident->subject));
    sqlite3_bind_int64(upsert, 5, incident->first_wall_us);
    sqlite3_bind_int64(upsert, 6, incident->last_wall_us);
    sqlite3_bind_int64(upsert, 7, incident->over_wall_us);
    sqlite3_bind_int64(upsert, 8, incident->good_wall_us);
    sqlite3_bind_int64(upsert, 9, (int64_t)incident->count);
    sqlite3_bind_int64(upsert, 10, (int64_t)incident->good);
    sqlite3_bind_int64(upsert, 11, (int64_t)incident->waiting);
    sqlite3_bind_int(upsert, 12, (int)incident->mark);
    store_bind(upsert, 13, bytes_of_text(incident->text));
    store_bind(upsert, 14, bytes_of_text(incident->host));
    store_bind(upsert, 15, bytes_of_text(incident->from));
    sqlite3_bind_int(upsert, 16, incident->breaker);
    store_bind(upsert, 17, bytes_of_text(incident->to));
    return store_step(upsert);
}

bool incidents_save(struct store *store)
{
    struct incidents *incidents = &store->incidents;

    for (unsigned i = 0; i < incidents->count; i++) {
        struct incident *incident = incidents->at[i];
        if (incident->dirty && !incident_write(store, incident))
            return false;
    }
    return true;
}

void incidents_saved(struct incidents *incidents)
{
    for (unsigned i = 0; i < incidents->count; i++)
        incidents->changed = incidents->changed || incidents->at[i]->dirty;
    for (unsigned i = 0; i < incidents->count; i++)
        incidents->at[i]->dirty = false;
}

static uint64_t out_of_ledger(struct store *store, uint64_t id)
{
    sqlite3_stmt *statement = store->incidents.out_of_ledger;
    uint64_t count = 0;

    sqlite3_bind_int64(statement, 1, (int64_t)id);
    if (sqlite3_step(statement) == SQLITE_ROW)
        count = (uint64_t)sqlite3_column_int64(statement, 0);
    sqlite3_reset(statement);
    return count;
}

static struct incident_brief brief_of(struct store *store, const struct incident *incident)
{
    struct incident_brief brief = {.id = incident->id,
                                   .direction = incident->direction,
                                   .cause = incident->cause,
                                   .state = incident->mark,
                                   .first_wall_us = incident->first_wall_us,
                                   .last_wall_us = incident->last_wall_us,
                                   .count = incident->count,
                                   .waiting = incident->direction == INCIDENT_OUT
                                                  ? incident->waiting
                                                  : out_of_ledger(store, incident->id)};

    snprintf(brief.subject, sizeof brief.subject, "%.255s", incident->subject);
    snprintf(brief.text, sizeof brief.text, "%.255s", incident->text);
    return brief;
}

bool incidents_brief(struct store *store, struct incident_brief rows[INCIDENT_BRIEFS_MAX],
                     unsigned *count)
{
    struct incidents *incidents = &store->incidents;

    *count = 0;
    if (!incidents->changed)
        return false;
    incidents->changed = false;
    for (int mark = INCIDENT_ESCALATED; mark >= INCIDENT_OPEN; mark--)
        for (unsigned i = 0; i < incidents->count && *count < INCIDENT_BRIEFS_MAX; i++) {
            const struct incident *incident = incidents->at[i];
            if (incident->shown && !incident->over && (int)incident->mark == mark)
                rows[(*count)++] = brief_of(store, incident);
        }
    return true;
}

static void stale_waiters(struct store *store, int64_t before_wall_us)
{
    struct incidents *incidents = &store->incidents;

    sqlite3_bind_int64(incidents->any_stale, 1, before_wall_us);
    const bool any = sqlite3_step(incidents->any_stale) == SQLITE_ROW;
    sqlite3_reset(incidents->any_stale);
    if (!any) /* as a rule; the other one takes a table of its own to run */
        return;
    sqlite3_bind_int64(incidents->stale, 1, before_wall_us);
    sqlite3_bind_int(incidents->stale, 2, SWEEP_SLICE);
    while (sqlite3_step(incidents->stale) == SQLITE_ROW) {
        const uint64_t key = (uint64_t)sqlite3_column_int64(incidents->stale, 0);
        const struct waiting *waiting = waiting_find(&incidents->waiting, key);
        if (waiting)
            waiting_release(incidents, waiting->incident);
        waiting_remove(&incidents->waiting, key);
    }
    sqlite3_reset(incidents->stale);
}

void incident_sweep(struct store *store)
{
    struct incidents *incidents = &store->incidents;
    const int64_t now_us = store_wall_us(store);

    if (incidents->waiting.count > 0)
        stale_waiters(store, now_us - STALE_US);
    if (incidents->pruned_us != 0 && clock_now_us() - incidents->pruned_us < PRUNE_US)
        return;
    incidents->pruned_us = clock_now_us();
    sqlite3_bind_int64(incidents->prune, 1, now_us - (int64_t)store->keep_us);
    sqlite3_bind_int(incidents->prune, 2, ROWS_MAX);
    if (!store_step(incidents->prune) ||
        (sqlite3_changes(store->database) > 0 && !store_step(incidents->prune_messages)))
        observe_note(LOG_WARNING, "history", "incidents: %s", sqlite3_errmsg(store->database));
}

/* ------------------------------------------------------------------ opening */

static const char TABLES[] =
    "CREATE TABLE IF NOT EXISTS incidents(id INTEGER PRIMARY KEY, direction INTEGER NOT NULL,"
    " cause TEXT NOT NULL, subject TEXT NOT NULL, first_us INTEGER NOT NULL,"
    " last_us INTEGER NOT NULL, over_us INTEGER NOT NULL, good_us INTEGER NOT NULL,"
    " count INTEGER NOT NULL, good INTEGER NOT NULL, waiting INTEGER NOT NULL,"
    " mark INTEGER NOT NULL, text TEXT NOT NULL, host TEXT NOT NULL, sender TEXT NOT NULL,"
    " breaker INTEGER NOT NULL, told_mail INTEGER NOT NULL DEFAULT 0,"
    " told_command INTEGER NOT NULL DEFAULT 0, recipient TEXT NOT NULL DEFAULT '');"
    "CREATE INDEX IF NOT EXISTS incidents_open ON incidents(over_us);"
    "CREATE TABLE IF NOT EXISTS incident_messages(id INTEGER PRIMARY KEY,"
    " incident INTEGER NOT NULL, message INTEGER NOT NULL, UNIQUE(incident, message));"
    "CREATE TABLE IF NOT EXISTS incident_waiting(key INTEGER PRIMARY KEY,"
    " incident INTEGER NOT NULL, due_us INTEGER NOT NULL);"
    "CREATE INDEX IF NOT EXISTS incident_waiting_due ON incident_waiting(due_us);";

/* What the operator was told stays, but for an incident that comes again after its end was told. */
static const char UPSERT[] =
    "INSERT INTO incidents(id, direction, cause, subject, first_us, last_us, over_us, good_us,"
    " count, good, waiting, mark, text, host, sender, breaker, recipient)"
    " VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15,?16,?17)"
    " ON CONFLICT(id) DO UPDATE SET last_us = ?6, over_us = ?7, good_us = ?8, count = ?9,"
    " good = ?10, waiting = ?11, mark = ?12, text = ?13, host = ?14, sender = ?15, breaker = ?16,"
    " recipient = ?17,"
    " told_mail = CASE WHEN ?7 = 0 THEN min(told_mail, ?12) ELSE told_mail END,"
    " told_command = CASE WHEN ?7 = 0 THEN min(told_command, ?12) ELSE told_command END";

static const struct {
    size_t offset;
    const char *sql;
} STATEMENTS[] = {
    {offsetof(struct incidents, upsert), UPSERT},
    {offsetof(struct incidents, message_add),
     "INSERT OR IGNORE INTO incident_messages(incident, message) VALUES(?1, ?2)"},
    {offsetof(struct incidents, message_trim),
     "DELETE FROM incident_messages WHERE incident = ?1"
     " AND id NOT IN (SELECT id FROM incident_messages WHERE incident = ?1 ORDER BY id LIMIT ?2)"
     " AND id NOT IN (SELECT id FROM incident_messages WHERE incident = ?1"
     " ORDER BY id DESC LIMIT ?3)"},
    {offsetof(struct incidents, wait_set),
     "INSERT OR REPLACE INTO incident_waiting(key, incident, due_us) VALUES(?1, ?2, ?3)"},
    {offsetof(struct incidents, wait_end), "DELETE FROM incident_waiting WHERE key = ?1"},
    {offsetof(struct incidents, any_stale),
     "SELECT 1 FROM incident_waiting WHERE due_us < ?1 LIMIT 1"},
    {offsetof(struct incidents, stale),
     "DELETE FROM incident_waiting WHERE key IN (SELECT key FROM incident_waiting"
     " WHERE due_us < ?1 ORDER BY due_us LIMIT ?2) RETURNING key"},
    {offsetof(struct incidents, prune),
     "DELETE FROM incidents WHERE (over_us <> 0 AND over_us < ?1) OR id IN"
     " (SELECT id FROM incidents WHERE over_us <> 0 ORDER BY over_us DESC LIMIT -1 OFFSET ?2)"},
    {offsetof(struct incidents, prune_messages),
     "DELETE FROM incident_messages WHERE incident NOT IN (SELECT id FROM incidents)"},
    {offsetof(struct incidents, out_of_ledger),
     "SELECT count(*) FROM ledger WHERE incident = ?1 AND state = 0"},
    {offsetof(struct incidents, told[INCIDENT_BY_MAIL]),
     "UPDATE incidents SET told_mail = max(told_mail, ?2) WHERE id = ?1"},
    {offsetof(struct incidents, told[INCIDENT_BY_COMMAND]),
     "UPDATE incidents SET told_command = max(told_command, ?2) WHERE id = ?1"},
};

static sqlite3_stmt **statement_at(struct incidents *incidents, size_t index)
{
    return (sqlite3_stmt **)(void *)((char *)incidents + STATEMENTS[index].offset);
}

bool incidents_prepare(struct store *store)
{
    bool done = sqlite3_exec(store->database, TABLES, NULL, NULL, NULL) == SQLITE_OK;

    for (size_t i = 0; done && i < COUNT_OF(STATEMENTS); i++)
        done =
            store_prepare(store->database, STATEMENTS[i].sql, statement_at(&store->incidents, i));
    return done;
}

void incidents_finalize(struct store *store)
{
    for (size_t i = 0; i < COUNT_OF(STATEMENTS); i++) {
        sqlite3_finalize(*statement_at(&store->incidents, i));
        *statement_at(&store->incidents, i) = NULL;
    }
}

void incidents_unload(struct store *store)
{
    struct incidents *incidents = &store->incidents;

    for (unsigned i = 0; i < incidents->count; i++)
        free(incidents->at[i]);
    free(incidents->at);
    free(incidents->waiting.at);
    incidents->at = NULL;
    incidents->count = incidents->shown_open = 0;
    incidents->waiting = (struct waiting_set){0};
}

static void column_text(sqlite3_stmt *statement, int column, char *into, size_t room)
{
    const unsigned char *text = sqlite3_column_text(statement, column);

    snprintf(into, room, "%s", text ? (const char *)text : "");
}

/* The instant on the monotonic clock, as far as the other one can be trusted. */
static uint64_t instant_of(int64_t wall_us)
{
    const int64_t age_us = clock_wall_us() - wall_us;
    const uint64_t now_us = clock_now_us();

    return age_us <= 0 ? now_us : now_us - MIN_OF((uint64_t)age_us, now_us);
}

static bool incident_read(struct incidents *incidents, sqlite3_stmt *row)
{
    enum cause cause = CAUSE_UNDECIDED;
    const unsigned char *name = sqlite3_column_text(row, 2);

    if (!name || !cause_parse(bytes_of_text((const char *)name), &cause))
        return true; /* of another version */
    struct incident *incident = incident_make(incidents);
    if (!incident)
        return false;
    *incident = (struct incident){
        .id = (uint64_t)sqlite3_column_int64(row, 0),
        .direction = (enum incident_direction)sqlite3_column_int(row, 1),
        .cause = cause,
        .first_wall_us = sqlite3_column_int64(row, 4),
        .last_wall_us = sqlite3_column_int64(row, 5),
        .good_wall_us = sqlite3_column_int64(row, 6),
        .count = (uint64_t)sqlite3_column_int64(row, 7),
        .good = (uint64_t)sqlite3_column_int64(row, 8),
        .mark = (enum incident_state)MIN_OF(sqlite3_column_int(row, 9), (int)INCIDENT_ESCALATED),
        .messages = INCIDENT_MESSAGES_MAX,
        .shown = true};
    column_text(row, 3, incident->subject, sizeof incident->subject);
    column_text(row, 10, incident->text, sizeof incident->text);
    column_text(row, 11, incident->host, sizeof incident->host);
    column_text(row, 12, incident->from, sizeof incident->from);
    column_text(row, 13, incident->to, sizeof incident->to);
    incident->age_from_us = instant_of(incident->first_wall_us);
    incident->last_us = instant_of(incident->last_wall_us);
    incident->good_us = incident->good_wall_us > 0 ? instant_of(incident->good_wall_us) : 0;
    incidents->shown_open++;
    return true;
}

static bool load_waiting(struct store *store)
{
    struct incidents *incidents = &store->incidents;
    sqlite3_stmt *statement = NULL;
    int result = SQLITE_ERROR;

    if (store_prepare(store->database, "SELECT key, incident FROM incident_waiting", &statement))
        while ((result = sqlite3_step(statement)) == SQLITE_ROW) {
            struct incident *incident =
                incident_by_id(incidents, (uint64_t)sqlite3_column_int64(statement, 1));
            if (incident && waiting_put(&incidents->waiting,
                                        (uint64_t)sqlite3_column_int64(statement, 0), incident->id))
                incident->waiting++;
        }
    sqlite3_finalize(statement);
    return result == SQLITE_DONE;
}

/* A breaker is closed at the start, whatever it was: it opens again by new failures. */
bool incidents_load(struct store *store)
{
    sqlite3_stmt *statement = NULL;
    int result = SQLITE_ERROR;

    incidents_unload(store);
    if (store_prepare(store->database,
                      "SELECT id, direction, cause, subject, first_us, last_us, good_us, count,"
                      " good, mark, text, host, sender, recipient FROM incidents WHERE over_us = 0"
                      " ORDER BY last_us DESC LIMIT 384",
                      &statement))
        while ((result = sqlite3_step(statement)) == SQLITE_ROW)
            if (!incident_read(&store->incidents, statement))
                break;
    sqlite3_finalize(statement);
    const bool loaded = result == SQLITE_DONE && load_waiting(store);
    store->incidents.changed = true;
    incidents_show(store);
    return loaded;
}
