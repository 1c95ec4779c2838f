/*
 * Files of before: columns that came later. Who writes adds them; who only reads, in any process
 * and before the first start of a newer server, sees them through views of its own connection.
 */
#include "history/inside.h"

#include <string.h>

static const struct {
    const char *table, *column, *kind, *missing;
} ADDITIONS[] = {
    {"ledger", "incident", "INTEGER", "0"},
    {"ledger", "dependency", "TEXT", "''"},
    {"ledger", "mail", "INTEGER", "0"},
    {"incidents", "recipient", "TEXT", "''"},
};

/* SQLITE_ERROR is SQLite's answer for what does not exist; of a damaged file it says more. */
static bool is_missing(sqlite3 *database, const char *table, const char *column)
{
    return sqlite3_table_column_metadata(database, "main", table, column, NULL, NULL, NULL, NULL,
                                         NULL) == SQLITE_ERROR;
}

static bool lacks(sqlite3 *database, size_t addition)
{
    return !is_missing(database, ADDITIONS[addition].table, NULL) &&
           is_missing(database, ADDITIONS[addition].table, ADDITIONS[addition].column);
}

bool shape_complete(sqlite3 *database)
{
    char sql[256];

    for (size_t i = 0; i < COUNT_OF(ADDITIONS); i++) {
        snprintf(sql, sizeof sql, "ALTER TABLE %s ADD COLUMN %s %s NOT NULL DEFAULT %s",
                 ADDITIONS[i].table, ADDITIONS[i].column, ADDITIONS[i].kind, ADDITIONS[i].missing);
        if (lacks(database, i) && sqlite3_exec(database, sql, NULL, NULL, NULL) != SQLITE_OK)
            return false;
    }
    return true;
}

/* All that one table lacks, in one view of its name: names without a schema find it first. */
static bool shade_table(sqlite3 *database, size_t first)
{
    CLEANUP(buffer_free) struct buffer sql = BUFFER_WITH_LIMIT(KIB);
    const char *table = ADDITIONS[first].table;

    buffer_print(&sql, "CREATE TEMP VIEW %s AS SELECT *", table);
    for (size_t i = first; i < COUNT_OF(ADDITIONS); i++)
        if (strcmp(ADDITIONS[i].table, table) == 0 && lacks(database, i))
            buffer_print(&sql, ", %s AS %s", ADDITIONS[i].missing, ADDITIONS[i].column);
    buffer_print(&sql, " FROM main.%s", table);
    buffer_add_byte(&sql, 0);
    return !sql.failed && sqlite3_exec(database, (const char *)buffer_view(&sql).at, NULL, NULL,
                                       NULL) == SQLITE_OK;
}

bool shape_shade(sqlite3 *database)
{
    const char *shaded = NULL;

    for (size_t i = 0; i < COUNT_OF(ADDITIONS); i++) {
        if ((shaded && strcmp(ADDITIONS[i].table, shaded) == 0) || !lacks(database, i))
            continue;
        if (!shade_table(database, i))
            return false;
        shaded = ADDITIONS[i].table;
    }
    return true;
}
