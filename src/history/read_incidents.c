/*
 * The reading side of incidents and transcripts, as of the rest: read-only, in any process.
 */
#include "history/inside.h"

#include <string.h>

static void close_database(sqlite3 **database)
{
    sqlite3_close(*database);
}

static struct bytes column_view(sqlite3_stmt *statement, int column)
{
    const void *at = sqlite3_column_blob(statement, column);

    return bytes_of(at, at ? (size_t)sqlite3_column_bytes(statement, column) : 0);
}

/* Runs a query whose first parameter is `id`, row by row. A file of before the table existed has
 * nothing to show. */
static bool read_rows(const char *directory, const char *sql, uint64_t id,
                      bool (*row)(void *argument, sqlite3_stmt *statement), void *argument,
                      char why[static 256])
{
    CLEANUP(close_database) sqlite3 *database = NULL;
    sqlite3_stmt *statement = NULL;
    const int open = history_read_open(directory, &database, why, 256);

    if (open <= 0)
        return open == 0;
    if (!store_prepare(database, sql, &statement)) {
        snprintf(why, 256, "history: %s", sqlite3_errmsg(database));
        return strstr(why, "no such table") != NULL;
    }
    sqlite3_bind_int64(statement, 1, (int64_t)id);
    int result = SQLITE_ROW;
    bool wanted = true;
    while (wanted && (result = sqlite3_step(statement)) == SQLITE_ROW)
        wanted = row(argument, statement);
    if (wanted && result != SQLITE_DONE)
        snprintf(why, 256, "history: %s", sqlite3_errmsg(database));
    sqlite3_finalize(statement);
    return !wanted || result == SQLITE_DONE;
}

struct incident_tale {
    incident_each *each;
    void *argument;
};

static enum incident_state state_of(int number)
{
    return number >= 0 && number <= INCIDENT_OVER ? (enum incident_state)number : INCIDENT_OPEN;
}

static bool tell_incident(void *argument, sqlite3_stmt *row)
{
    const struct incident_tale *tale = argument;
    enum cause known = CAUSE_UNDECIDED;
    const struct bytes cause = column_view(row, 2);
    const bool found = cause_parse(cause, &known);
    const int64_t over_us = sqlite3_column_int64(row, 6);
    const enum incident_state mark = state_of(sqlite3_column_int(row, 11));
    const bool out = sqlite3_column_int(row, 1) == INCIDENT_OUT;
    const struct incident_row incident = {
        .id = (uint64_t)sqlite3_column_int64(row, 0),
        .direction = out ? INCIDENT_OUT : INCIDENT_IN,
        .cause = cause,
        .side = bytes_of_text(found ? side_name(cause_row(known)->side) : ""),
        .subject = column_view(row, 3),
        .first_wall_us = sqlite3_column_int64(row, 4),
        .last_wall_us = sqlite3_column_int64(row, 5),
        .over_wall_us = over_us,
        .good_wall_us = sqlite3_column_int64(row, 7),
        .count = (uint64_t)sqlite3_column_int64(row, 8),
        .good = (uint64_t)sqlite3_column_int64(row, 9),
        .waiting = (uint64_t)sqlite3_column_int64(row, out ? 10 : 17),
        .mark = mark,
        .state = over_us ? INCIDENT_OVER : mark,
        .text = column_view(row, 12),
        .host = column_view(row, 13),
        .from = column_view(row, 14),
        .to = column_view(row, 18),
        .told = {state_of(sqlite3_column_int(row, 15)), state_of(sqlite3_column_int(row, 16))}};

    return tale->each(tale->argument, &incident);
}

#define INCIDENT_COLUMNS                                                                           \
    "SELECT id, direction, cause, subject, first_us, last_us, over_us, good_us, count, good,"      \
    " waiting, mark, text, host, sender, told_mail, told_command,"                                 \
    " (SELECT count(*) FROM ledger WHERE ledger.incident = incidents.id AND state = 0),"           \
    " recipient"                                                                                   \
    " FROM incidents "

bool incident_view(const char *directory, struct incident_query query, incident_each *each,
                   void *argument, char *why, size_t why_room)
{
    static const char *const by_choice[] = {
        [INCIDENTS_ALL] = INCIDENT_COLUMNS "ORDER BY over_us = 0 DESC, last_us DESC",
        [INCIDENTS_OPEN] = INCIDENT_COLUMNS "WHERE over_us = 0 ORDER BY last_us DESC",
        [INCIDENTS_TO_TELL] = INCIDENT_COLUMNS
        "WHERE (over_us = 0 AND (told_mail < mark OR told_command < mark))"
        " OR (over_us <> 0 AND (told_mail IN (1, 2, 3) OR told_command IN (1, 2, 3)))"
        " ORDER BY first_us"};
    struct incident_tale tale = {.each = each, .argument = argument};
    char words[256] = "";
    const bool read =
        read_rows(directory, query.id ? INCIDENT_COLUMNS "WHERE id = ?1" : by_choice[query.choice],
                  query.id, tell_incident, &tale, words);

    snprintf(why, why_room, "%s", words);
    return read;
}

struct message_list {
    uint64_t *messages;
    unsigned *count;
};

static bool take_message(void *argument, sqlite3_stmt *row)
{
    const struct message_list *list = argument;

    list->messages[(*list->count)++] = (uint64_t)sqlite3_column_int64(row, 0);
    return *list->count < INCIDENT_MESSAGES_MAX;
}

bool incident_messages(const char *directory, uint64_t id, uint64_t messages[INCIDENT_MESSAGES_MAX],
                       unsigned *count)
{
    struct message_list list = {.messages = messages, .count = count};
    char words[256] = "";

    *count = 0;
    return read_rows(directory,
                     "SELECT message FROM incident_messages WHERE incident = ?1 ORDER BY id", id,
                     take_message, &list, words);
}

struct transcript_tale {
    transcript_each *each;
    void *argument;
};

static bool tell_transcript(void *argument, sqlite3_stmt *row)
{
    const struct transcript_tale *tale = argument;
    const struct transcript_row transcript = {.wall_us = sqlite3_column_int64(row, 0),
                                              .message = (uint64_t)sqlite3_column_int64(row, 1),
                                              .session = (uint64_t)sqlite3_column_int64(row, 2),
                                              .text = column_view(row, 3)};

    return tale->each(tale->argument, &transcript);
}

bool transcript_view(const char *directory, uint64_t id, transcript_each *each, void *argument,
                     char *why, size_t why_room)
{
    struct transcript_tale tale = {.each = each, .argument = argument};
    char words[256] = "";
    const bool read =
        read_rows(directory,
                  "SELECT wall_us, message, session, text FROM transcripts WHERE id IN"
                  " (SELECT id FROM transcripts WHERE message = ?1 AND message <> 0"
                  " UNION SELECT id FROM transcripts WHERE session = ?1"
                  " AND session <> 0) ORDER BY id",
                  id, tell_transcript, &tale, words);

    snprintf(why, why_room, "%s", words);
    return read;
}
