/*
 * The ledger's writing side: a deferral opens or continues a row, an acceptance or a refusal of the
 * same mail ends it. A set of open fingerprints in memory keeps plain mail from asking the table:
 * while nothing is deferred nothing is looked up.
 *
 * The same mail is: from the same network, sender and recipient, and, where both times are after
 * the header, with the same Message-ID. What was deferred before its header came may be any of
 * them.
 */
#include "history/inside.h"

#include <string.h>

enum { OPEN_MAX = 131072, OPEN_ROOM_FIRST = 1024, PRUNE_SLICE = 2000, LEDGER_ROWS_MAX = 1000000 };

/* ------------------------------------------------------------------ the set */

static size_t set_slot(const struct ledger *ledger, uint64_t fingerprint)
{
    size_t slot = (size_t)(fingerprint >> 20) & (ledger->room - 1);

    while (ledger->open[slot] != 0 && ledger->open[slot] != fingerprint)
        slot = (slot + 1) & (ledger->room - 1);
    return slot;
}

static bool set_holds(const struct ledger *ledger, uint64_t fingerprint)
{
    return ledger->overflowed ||
           (ledger->count > 0 && ledger->open[set_slot(ledger, fingerprint)] == fingerprint);
}

static bool set_grow(struct ledger *ledger)
{
    struct ledger larger = {.room = ledger->room ? 2 * ledger->room : OPEN_ROOM_FIRST};

    larger.open = calloc(larger.room, sizeof *larger.open);
    if (!larger.open)
        return false;
    for (size_t i = 0; i < ledger->room; i++)
        if (ledger->open[i] != 0)
            larger.open[set_slot(&larger, ledger->open[i])] = ledger->open[i];
    free(ledger->open);
    ledger->open = larger.open;
    ledger->room = larger.room;
    return true;
}

static void set_add(struct ledger *ledger, uint64_t fingerprint)
{
    if (ledger->count >= OPEN_MAX || (2 * ledger->count >= ledger->room && !set_grow(ledger))) {
        ledger->overflowed = true;
        return;
    }
    uint64_t *slot = &ledger->open[set_slot(ledger, fingerprint)];
    ledger->count += *slot == 0;
    *slot = fingerprint;
}

/* Closes the gap: what was pushed past the freed place moves back. */
static void set_remove(struct ledger *ledger, uint64_t fingerprint)
{
    if (ledger->count == 0)
        return;
    size_t gap = set_slot(ledger, fingerprint);
    if (ledger->open[gap] == 0)
        return;
    ledger->open[gap] = 0;
    ledger->count--;
    for (size_t i = (gap + 1) & (ledger->room - 1); ledger->open[i] != 0;
         i = (i + 1) & (ledger->room - 1)) {
        const uint64_t moved = ledger->open[i];
        ledger->open[i] = 0;
        ledger->open[set_slot(ledger, moved)] = moved;
    }
}

/* ------------------------------------------------------------------ fingerprints */

struct print {
    char network[ENDPOINT_TEXT_MAX];
    struct bytes from, to;
    uint64_t mail;        /* 0: its header has not been seen, or has no Message-ID */
    uint64_t fingerprint; /* of the others; never 0 */
};

void ledger_network(struct bytes client, char into[ENDPOINT_TEXT_MAX])
{
    struct endpoint endpoint = {0};
    struct ip_address ip;
    char text[ENDPOINT_TEXT_MAX];

    if (ip_parse(client, &ip))
        endpoint.ip = ip;
    else if (!endpoint_parse(client, &endpoint) || endpoint.family == ENDPOINT_UNIX) {
        snprintf(into, ENDPOINT_TEXT_MAX, "%s", endpoint.family == ENDPOINT_UNIX ? "unix" : "");
        return;
    }
    const bool small = endpoint.ip.family == ENDPOINT_IPV4;
    memset(endpoint.ip.octets + (small ? 3 : 8), 0, small ? 13 : 8);
    snprintf(into, ENDPOINT_TEXT_MAX, "%.100s/%u", ip_print(&endpoint.ip, text, sizeof text),
             small ? 24 : 64);
}

static uint64_t mix(uint64_t hash, struct bytes text)
{
    return (hash ^ bytes_hash_nocase(text)) * UINT64_C(0x9e3779b97f4a7c15);
}

static void print_make(struct print *print, struct bytes from, struct bytes to, uint64_t mail)
{
    print->from = from;
    print->to = to;
    print->mail = mail;
    print->fingerprint = mix(mix(mix(1, bytes_of_text(print->network)), from), to) | 1;
}

/* ------------------------------------------------------------------ the table */

bool ledger_prepare(struct store *store)
{
    sqlite3 *database = store->database;

    return store_prepare(database,
                         "UPDATE ledger SET last_us = max(last_us, ?5), attempts = attempts + 1,"
                         " cause = ?6, session = ?7, incident = ?8, dependency = ?9,"
                         " mail = CASE ?10 WHEN 0 THEN mail ELSE ?10 END WHERE id ="
                         " (SELECT id FROM ledger WHERE fingerprint = ?1 AND state = 0"
                         " AND network = ?2 AND sender = ?3 AND recipient = ?4"
                         " AND (?10 = 0 OR mail IN (0, ?10))"
                         " ORDER BY mail = ?10 DESC, id DESC LIMIT 1)",
                         &store->ledger_update) &&
           store_prepare(database,
                         "INSERT INTO ledger(fingerprint, network, sender, recipient, first_us,"
                         " last_us, cause, session, attempts, incident, dependency, mail)"
                         " VALUES(?1,?2,?3,?4,?5,?5,?6,?7,1,?8,?9,?10)",
                         &store->ledger_insert) &&
           store_prepare(database,
                         "UPDATE ledger SET state = ?5, ended_us = ?6, message = ?7"
                         " WHERE fingerprint = ?1 AND state = 0"
                         " AND network = ?2 AND sender = ?3 AND recipient = ?4"
                         " AND (?8 = 0 OR mail IN (0, ?8))",
                         &store->ledger_close) &&
           store_prepare(database,
                         "SELECT 1 FROM ledger WHERE fingerprint = ?1 AND state = 0 LIMIT 1",
                         &store->ledger_rest) &&
           store_prepare(database, "SELECT count(*) FROM ledger WHERE state = 0 AND first_us < ?",
                         &store->ledger_overdue) &&
           store_prepare(database,
                         "DELETE FROM ledger WHERE id IN (SELECT id FROM ledger"
                         " WHERE last_us < ?1 ORDER BY last_us LIMIT ?2)"
                         " OR id <= (SELECT max(id) FROM ledger) - ?3",
                         &store->ledger_prune);
}

static void bind_print(sqlite3_stmt *statement, const struct print *print)
{
    sqlite3_bind_int64(statement, 1, (int64_t)print->fingerprint);
    store_bind(statement, 2, bytes_of_text(print->network));
    store_bind(statement, 3, print->from);
    store_bind(statement, 4, print->to);
}

static bool ledger_defer(struct store *store, const struct print *print, const struct kept *kept)
{
    const char *cause = cause_name((enum cause)(kept->numbers[KEPT_CAUSE] - 1));
    const struct incident *incident = incident_by_id(&store->incidents, store->incident_now);

    for (unsigned round = set_holds(&store->ledger, print->fingerprint) ? 0 : 1; round < 2;
         round++) {
        sqlite3_stmt *statement = round == 0 ? store->ledger_update : store->ledger_insert;
        bind_print(statement, print);
        sqlite3_bind_int64(statement, 5, kept->wall_us);
        store_bind(statement, 6, bytes_of_text(cause));
        sqlite3_bind_int64(statement, 7, (int64_t)kept->numbers[KEPT_SESSION]);
        sqlite3_bind_int64(statement, 8, (int64_t)store->incident_now);
        store_bind(statement, 9,
                   incident ? bytes_of_text(incident->subject) : kept->texts[KEPT_FILTER]);
        sqlite3_bind_int64(statement, 10, (int64_t)print->mail);
        if (!store_step(statement))
            return false;
        if (round == 0 && sqlite3_changes(store->database) > 0)
            return true;
    }
    set_add(&store->ledger, print->fingerprint);
    store->ledger.still_out++;
    return true;
}

/* Has other mail of the same sender to the same recipient been deferred and not come back? */
static bool ledger_has_rest(const struct store *store, const struct print *print)
{
    if (print->mail == 0)
        return false;
    sqlite3_bind_int64(store->ledger_rest, 1, (int64_t)print->fingerprint);
    const int result = sqlite3_step(store->ledger_rest);
    sqlite3_reset(store->ledger_rest);
    return result != SQLITE_DONE;
}

static bool ledger_end(struct store *store, const struct print *print, const struct kept *kept,
                       enum ledger_state state)
{
    sqlite3_stmt *statement = store->ledger_close;

    if (!set_holds(&store->ledger, print->fingerprint))
        return true;
    bind_print(statement, print);
    sqlite3_bind_int64(statement, 5, (int)state);
    sqlite3_bind_int64(statement, 6, kept->wall_us);
    sqlite3_bind_int64(statement, 7, (int64_t)kept->message);
    sqlite3_bind_int64(statement, 8, (int64_t)print->mail);
    if (!store_step(statement))
        return false;
    const int ended = sqlite3_changes(store->database);
    if (!ledger_has_rest(store, print))
        set_remove(&store->ledger, print->fingerprint);
    store->ledger.still_out -= ended;
    if (state == LEDGER_CAME_BACK)
        store->ledger.came_back += ended;
    return true;
}

bool ledger_is_open(const struct ledger *ledger)
{
    return ledger->count > 0 || ledger->overflowed;
}

/* A deferral before MAIL names no sender, one at MAIL no recipient: any mail of the same network,
 * or of the same sender from there, ends those too. A refusal ends that of its sender: it came back
 * as far as that. */
static bool ledger_end_all(struct store *store, struct print *print, const struct kept *kept,
                           enum ledger_state state)
{
    const struct bytes from = kept->texts[KEPT_FROM], to = kept->texts[KEPT_TO];

    if (!ledger_is_open(&store->ledger))
        return true;
    ledger_network(kept->texts[KEPT_CLIENT], print->network);
    print_make(print, from, to, kept->mail);
    if (!ledger_end(store, print, kept, state))
        return false;
    print_make(print, from, BYTES_EMPTY, kept->mail);
    if (!ledger_end(store, print, kept, state))
        return false;
    if (state != LEDGER_CAME_BACK)
        return true;
    print_make(print, BYTES_EMPTY, BYTES_EMPTY, kept->mail);
    return ledger_end(store, print, kept, state);
}

/* Mail was deferred when a sender was named, or when it was us who did not let one be named. */
static bool is_deferral(const struct kept *kept)
{
    const uint64_t cause = kept->numbers[KEPT_CAUSE];

    return (kept->kind == EVENT_MESSAGE_DEFERRED || kept->kind == EVENT_RECIPIENT_DEFERRED) &&
           cause > 0 && cause <= CAUSE_COUNT &&
           (kept->texts[KEPT_FROM].count > 0 ||
            cause_row((enum cause)(cause - 1))->side == SIDE_OURS);
}

bool ledger_take(struct store *store, const struct kept *kept)
{
    struct print print;

    if (is_deferral(kept)) {
        ledger_network(kept->texts[KEPT_CLIENT], print.network);
        print_make(&print, kept->texts[KEPT_FROM], kept->texts[KEPT_TO], kept->mail);
        return ledger_defer(store, &print, kept);
    }
    if (kept->kind == EVENT_MESSAGE_ACCEPTED || kept->kind == EVENT_RECIPIENT_ACCEPTED ||
        kept->kind == EVENT_MESSAGE_REPEATED)
        return ledger_end_all(store, &print, kept, LEDGER_CAME_BACK);
    if ((kept->kind == EVENT_MESSAGE_REFUSED || kept->kind == EVENT_RECIPIENT_REFUSED) &&
        kept->texts[KEPT_FROM].count > 0)
        return ledger_end_all(store, &print, kept, LEDGER_REFUSED_LATER);
    return true;
}

/* ------------------------------------------------------------------ memory and table */

static bool load_counts(struct store *store)
{
    sqlite3_stmt *statement = NULL;
    bool loaded = store_prepare(store->database,
                                "SELECT sum(state = 0), sum(state = 1) FROM ledger", &statement) &&
                  sqlite3_step(statement) == SQLITE_ROW;

    if (loaded) {
        store->ledger.still_out = sqlite3_column_int64(statement, 0);
        store->ledger.came_back = sqlite3_column_int64(statement, 1);
    }
    sqlite3_finalize(statement);
    return loaded;
}

bool ledger_load(struct store *store)
{
    sqlite3_stmt *statement = NULL;
    int result = SQLITE_ERROR;

    ledger_unload(store);
    if (store_prepare(store->database, "SELECT fingerprint FROM ledger WHERE state = 0",
                      &statement))
        while ((result = sqlite3_step(statement)) == SQLITE_ROW && !store->ledger.overflowed)
            set_add(&store->ledger, (uint64_t)sqlite3_column_int64(statement, 0));
    const bool overflowed = store->ledger.overflowed;
    sqlite3_finalize(statement);
    const bool loaded = (result == SQLITE_DONE || overflowed) && load_counts(store);
    if (loaded) {
        ledger_tend(store);
        ledger_prune(store);
    }
    return loaded;
}

void ledger_unload(struct store *store)
{
    free(store->ledger.open);
    store->ledger = (struct ledger){0};
}

void ledger_reload(struct store *store)
{
    if (ledger_load(store))
        return;
    /* What is open is unknown: the table is asked each time until it can be read. */
    store->ledger.overflowed = true;
}

static int64_t count_overdue(struct store *store)
{
    int64_t count = 0;

    if (store->ledger.still_out <= 0)
        return 0;
    sqlite3_bind_int64(store->ledger_overdue, 1, store_wall_us(store) - store->overdue_us);
    if (sqlite3_step(store->ledger_overdue) == SQLITE_ROW)
        count = sqlite3_column_int64(store->ledger_overdue, 0);
    sqlite3_reset(store->ledger_overdue);
    return count;
}

void ledger_show(const struct store *store)
{
    const struct ledger *ledger = &store->ledger;
    const int64_t overdue = MIN_OF(ledger->overdue, ledger->still_out);

    metric_set(COUNTER_LEDGER_OUT, ledger->still_out - overdue);
    metric_set(COUNTER_LEDGER_OVERDUE, overdue);
    metric_set(COUNTER_LEDGER_BACK, ledger->came_back);
}

void ledger_tend(struct store *store)
{
    struct ledger *ledger = &store->ledger;

    ledger->overdue = count_overdue(store);
    ledger_show(store);
}

void ledger_prune(struct store *store)
{
    const struct ledger *ledger = &store->ledger;

    if (ledger->still_out + ledger->came_back == 0)
        return;
    sqlite3_bind_int64(store->ledger_prune, 1, store_wall_us(store) - (int64_t)store->keep_us);
    sqlite3_bind_int64(store->ledger_prune, 2, PRUNE_SLICE);
    sqlite3_bind_int64(store->ledger_prune, 3, LEDGER_ROWS_MAX);
    if (!store_step(store->ledger_prune) ||
        (sqlite3_changes(store->database) > 0 && !load_counts(store)))
        observe_note(LOG_WARNING, "history", "ledger: %s", sqlite3_errmsg(store->database));
}
