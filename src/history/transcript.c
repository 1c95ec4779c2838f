/*
 * Transcripts: the dialogues of failed attempts and deferred sessions, in a table of their own,
 * bounded by days and by bytes. Who hands one over has left secrets and bodies out.
 */
#include "history/inside.h"

enum { PRUNE_SLICE = 1000 };

static const char TABLES[] =
    "CREATE TABLE IF NOT EXISTS transcripts(id INTEGER PRIMARY KEY, wall_us INTEGER NOT NULL,"
    " message INTEGER NOT NULL, session INTEGER NOT NULL, text TEXT NOT NULL);"
    "CREATE INDEX IF NOT EXISTS transcripts_message ON transcripts(message) WHERE message <> 0;"
    "CREATE INDEX IF NOT EXISTS transcripts_session ON transcripts(session) WHERE session <> 0;";

static bool load_size(struct store *store)
{
    sqlite3_stmt *statement = NULL;
    const bool loaded =
        store_prepare(store->database,
                      "SELECT coalesce(sum(length(CAST(text AS BLOB))), 0) FROM transcripts",
                      &statement) &&
        sqlite3_step(statement) == SQLITE_ROW;

    if (loaded)
        store->transcripts.bytes = sqlite3_column_int64(statement, 0);
    sqlite3_finalize(statement);
    return loaded;
}

bool transcripts_prepare(struct store *store)
{
    struct transcripts *transcripts = &store->transcripts;
    sqlite3 *database = store->database;

    return sqlite3_exec(database, TABLES, NULL, NULL, NULL) == SQLITE_OK &&
           store_prepare(database,
                         "INSERT INTO transcripts(wall_us, message, session, text)"
                         " VALUES(?1, ?2, ?3, ?4)",
                         &transcripts->insert) &&
           store_prepare(database,
                         "DELETE FROM transcripts WHERE id IN (SELECT id FROM transcripts"
                         " ORDER BY id LIMIT ?2) AND (?1 = 0 OR wall_us < ?1) RETURNING "
                         "length(CAST(text AS BLOB))",
                         &transcripts->prune) &&
           store_prepare(database,
                         "SELECT 1 FROM (SELECT wall_us FROM transcripts ORDER BY id LIMIT ?2)"
                         " WHERE wall_us < ?1 LIMIT 1",
                         &transcripts->any_aged) &&
           load_size(store);
}

void transcripts_finalize(struct store *store)
{
    struct transcripts *transcripts = &store->transcripts;

    sqlite3_finalize(transcripts->insert);
    sqlite3_finalize(transcripts->any_aged);
    sqlite3_finalize(transcripts->prune);
    transcripts->insert = transcripts->any_aged = transcripts->prune = NULL;
}

bool transcripts_take(struct store *store, const struct kept *kept)
{
    struct transcripts *transcripts = &store->transcripts;
    const struct bytes text = kept->texts[KEPT_TRANSCRIPT];

    if (text.count == 0)
        return true;
    sqlite3_bind_int64(transcripts->insert, 1, kept->wall_us);
    sqlite3_bind_int64(transcripts->insert, 2, (int64_t)kept->message);
    sqlite3_bind_int64(transcripts->insert, 3, (int64_t)kept->numbers[KEPT_SESSION]);
    store_bind(transcripts->insert, 4, text);
    transcripts->bytes += (int64_t)text.count;
    return store_step(transcripts->insert);
}

/* The oldest go first: `before_wall_us` 0 takes them whatever their age. */
static bool prune(struct store *store, int64_t before_wall_us, int most)
{
    sqlite3_stmt *statement = store->transcripts.prune;

    int result = SQLITE_ROW;

    sqlite3_bind_int64(statement, 1, before_wall_us);
    sqlite3_bind_int(statement, 2, most);
    while ((result = sqlite3_step(statement)) == SQLITE_ROW)
        store->transcripts.bytes -= sqlite3_column_int64(statement, 0);
    sqlite3_reset(statement);
    return result == SQLITE_DONE;
}

static void tell_failed(const struct store *store)
{
    observe_note(LOG_WARNING, "history", "transcripts: %s", sqlite3_errmsg(store->database));
}

/* As a rule there are none, and to look costs less than to delete nothing. */
void transcripts_prune_aged(struct store *store)
{
    const int64_t before_wall_us = store_wall_us(store) - (int64_t)store->transcripts.keep_us;
    sqlite3_stmt *const any = store->transcripts.any_aged;

    sqlite3_bind_int64(any, 1, before_wall_us);
    sqlite3_bind_int(any, 2, PRUNE_SLICE);
    const int result = sqlite3_step(any);
    sqlite3_reset(any);
    if (result != SQLITE_DONE && !prune(store, before_wall_us, PRUNE_SLICE))
        tell_failed(store);
}

void transcripts_prune_surplus(struct store *store)
{
    const struct transcripts *transcripts = &store->transcripts;
    bool done = true;

    for (unsigned i = 0;
         done && i < PRUNE_SLICE && transcripts->bytes > (int64_t)transcripts->keep_bytes; i++)
        done = prune(store, 0, 4);
    if (!done)
        tell_failed(store);
}
