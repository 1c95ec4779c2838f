/* History and ledger through observe's door, over SQLite on a real disk. */
#include "world_check.h"

#include <ftw.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "history/history.h"
#include "history/inside.h"

static char folder[] = "/tmp/holdfast-history-XXXXXX";
static char directory[200], why[512];

/* A fresh directory for each test. */
static void fresh(const char *name)
{
    snprintf(directory, sizeof directory, "%s/%s", folder, name);
    CHECK(mkdir(directory, 0700) == 0);
}

static struct history *open_with(uint64_t keep_rows, uint64_t keep_us)
{
    const struct history_settings settings = {
        .directory = directory, .keep_rows = keep_rows, .keep_us = keep_us};
    struct history *history = history_open(&settings, why, sizeof why);

    if (!history)
        fprintf(stderr, "%s\n", why);
    CHECK(history != NULL);
    return history;
}

static const char *const FROM = "ann@a.example";

static struct event event_of(enum event_kind kind, uint64_t message, const char *to)
{
    return (struct event){.kind = kind,
                          .message = message,
                          .session = 7,
                          .stage = STAGE_DOT,
                          .client = BYTES_LITERAL("192.0.2.9:4000"),
                          .from = bytes_of_text(FROM),
                          .to = bytes_of_text(to)};
}

static void defer(const char *to, enum cause cause)
{
    struct event event = event_of(EVENT_MESSAGE_DEFERRED, 0, to);

    event.verdict = verdict_of(cause);
    event.has_verdict = true;
    event.code = 451;
    observe_event(&event);
}

/* The same, or its acceptance, by a mail whose header was seen. */
static void tell_mail(enum event_kind kind, uint64_t message, uint64_t mail)
{
    struct event event = event_of(kind, message, "bob@b.example");

    event.mail = mail;
    event.verdict = verdict_of(CAUSE_FILTER_POISON);
    event.has_verdict = kind == EVENT_MESSAGE_DEFERRED;
    observe_event(&event);
}

static void accept_at(uint64_t message, const char *to, const char *client)
{
    struct event event = event_of(EVENT_MESSAGE_ACCEPTED, message, to);

    event.client = bytes_of_text(client);
    observe_event(&event);
}

/* ------------------------------------------------------------------ stories */

struct told {
    size_t count;
    char events[20][40];
    struct history_row last;
    char text[100], to[100];
};

static bool tell(void *argument, const struct history_row *row)
{
    struct told *told = argument;

    if (told->count < 20)
        snprintf(told->events[told->count], 40, "%.*s", BYTES_PRINT(row->event));
    told->count++;
    told->last = *row;
    snprintf(told->text, sizeof told->text, "%.*s", BYTES_PRINT(row->text));
    snprintf(told->to, sizeof told->to, "%.*s", BYTES_PRINT(row->to));
    CHECK(bytes_equal_text(row->side, "") || bytes_equal_text(row->side, "theirs"));
    return true;
}

static int story_main(void *argument UNUSED)
{
    struct told told = {0};
    fresh("story");
    CHECK(history_of_message(directory, 5, tell, &told, why, sizeof why)); /* no file: nothing */
    CHECK(told.count == 0);
    struct history *history = open_with(0, 0);
    struct event event = event_of(EVENT_DELIVERY_DEFERRED, 5, "bob@b.example");

    accept_at(5, "bob@b.example", "192.0.2.9:4000");
    accept_at(6, "eve@b.example", "192.0.2.9:4000");
    event.verdict = verdict_of(CAUSE_CONNECT_REFUSED);
    event.has_verdict = true;
    event.attempt = 3;
    event.next_wall_us = clock_wall_us() + 300000000;
    event.took_us = 1234;
    event.session = 0;
    event.text = BYTES_LITERAL("refused \xff");
    observe_event(&event);
    history_flush(history);
    CHECK(history_of_message(directory, 5, tell, &told, why, sizeof why));
    CHECK(told.count == 2);
    CHECK(strcmp(told.events[0], "message.accepted") == 0);
    CHECK(strcmp(told.events[1], "delivery.deferred") == 0);
    CHECK(bytes_equal_text(told.last.side, "theirs"));
    CHECK(told.last.attempt == 3 && told.last.took_us == 1234 && told.last.message == 5);
    CHECK(told.last.next_wall_us == event.next_wall_us);
    CHECK(strcmp(told.text, "refused \xff") == 0 && strcmp(told.to, "bob@b.example") == 0);

    /* A later batch makes a second row; time decides the order. */
    event = event_of(EVENT_MESSAGE_ENDED, 5, "");
    event.wall_us = clock_wall_us() - 3600 * INT64_C(1000000);
    observe_event(&event);
    history_close(history);
    told.count = 0;
    CHECK(history_of_message(directory, 5, tell, &told, why, sizeof why));
    CHECK(told.count == 3 && strcmp(told.events[0], "message.ended") == 0);
    told.count = 0;
    CHECK(history_of_session(directory, 7, tell, &told, why, sizeof why));
    CHECK(told.count == 3); /* what was delivered without a session is not of this one */
    return 0;
}

static void test_story(void **state UNUSED)
{
    in_world(story_main, NULL, 1);
}

/* ------------------------------------------------------------------ the ledger */

struct ledger_told {
    size_t count;
    struct ledger_row rows[20];
    char to[20][100], cause[20][40], network[20][60];
};

static bool tell_ledger(void *argument, const struct ledger_row *row)
{
    struct ledger_told *told = argument;

    if (told->count >= 20)
        return false;
    snprintf(told->to[told->count], 100, "%.*s", BYTES_PRINT(row->to));
    snprintf(told->cause[told->count], 40, "%.*s", BYTES_PRINT(row->cause));
    snprintf(told->network[told->count], 60, "%.*s", BYTES_PRINT(row->client_network));
    told->rows[told->count++] = *row;
    return true;
}

static const struct ledger_told *ledger_now(void)
{
    static struct ledger_told told;

    told.count = 0;
    CHECK(ledger_view(directory, 0, tell_ledger, &told, why, sizeof why));
    return &told;
}

static int ledger_main(void *argument UNUSED)
{
    fresh("ledger");
    struct history *history = open_with(0, 0);
    const struct ledger_told *told = NULL;

    defer("bob@b.example", CAUSE_FILTER_TIMEOUT);
    history_flush(history);
    defer("Bob@B.example", CAUSE_FILTER_UNREACHABLE);
    defer("eve@b.example", CAUSE_FILTER_TIMEOUT);
    history_flush(history);
    told = ledger_now();
    CHECK(told->count == 2);
    CHECK(told->rows[0].attempts == 2 && told->rows[0].state == LEDGER_STILL_OUT);
    CHECK(strcmp(told->cause[0], "filter.unreachable") == 0);
    CHECK(strcmp(told->network[0], "192.0.2.0/24") == 0);
    CHECK(metric_get(COUNTER_LEDGER_OUT) == 2 && metric_get(COUNTER_LEDGER_BACK) == 0);

    accept_at(11, "bob@b.example", "192.0.2.77:1");   /* a neighbour of the first client */
    accept_at(12, "eve@b.example", "198.51.100.1:1"); /* another network: another mail */
    history_flush(history);
    told = ledger_now();
    CHECK(told->rows[0].state == LEDGER_CAME_BACK && told->rows[0].message == 11);
    CHECK(told->rows[0].ended_wall_us != 0);
    CHECK(told->rows[1].state == LEDGER_STILL_OUT);
    CHECK(metric_get(COUNTER_LEDGER_OUT) == 1 && metric_get(COUNTER_LEDGER_BACK) == 1);
    history_close(history);

    /* What is open survives a restart, and the next mail of that kind ends it. */
    history = open_with(0, 0);
    CHECK(metric_get(COUNTER_LEDGER_OUT) == 1 && metric_get(COUNTER_LEDGER_BACK) == 1);
    struct event event = event_of(EVENT_MESSAGE_REFUSED, 0, "eve@b.example");
    event.verdict = verdict_of(CAUSE_FILTER_REFUSED);
    event.has_verdict = true;
    observe_event(&event);
    defer("bob@b.example", CAUSE_FILTER_TIMEOUT); /* again: a row of its own */
    history_flush(history);
    told = ledger_now();
    CHECK(told->count == 3 && told->rows[1].state == LEDGER_REFUSED_LATER);
    CHECK(told->rows[2].state == LEDGER_STILL_OUT && told->rows[2].attempts == 1);
    event = event_of(EVENT_RECIPIENT_ACCEPTED, 13, "bob@b.example");
    observe_event(&event);
    history_flush(history);
    struct ledger_told of_message = {0};
    CHECK(ledger_of_message(directory, 13, tell_ledger, &of_message, why, sizeof why));
    CHECK(of_message.count == 1 && of_message.rows[0].state == LEDGER_CAME_BACK);
    history_close(history);
    return 0;
}

/* Deferred before a sender or a recipient was named: ended by what comes from there. */
static int early_main(void *argument UNUSED)
{
    fresh("early");
    struct history *history = open_with(0, 0);
    struct event event = event_of(EVENT_MESSAGE_DEFERRED, 0, "");

    event.verdict = verdict_of(CAUSE_SPOOL_FULL);
    event.has_verdict = true;
    observe_event(&event); /* at MAIL */
    event.from = BYTES_EMPTY;
    observe_event(&event); /* at the connection, by us */
    event.verdict = verdict_of(CAUSE_CLIENT_IDLE);
    observe_event(&event); /* no mail, no fault of ours: no row */
    history_flush(history);
    CHECK(ledger_now()->count == 2);
    accept_at(21, "bob@b.example", "192.0.2.9:4001");
    history_flush(history);
    CHECK(ledger_now()->rows[0].state == LEDGER_CAME_BACK);
    CHECK(ledger_now()->rows[1].state == LEDGER_CAME_BACK);
    history_close(history);
    return 0;
}

static unsigned still_out(struct history *history)
{
    const struct ledger_told *told = NULL;
    unsigned out = 0;

    history_flush(history);
    told = ledger_now();
    for (size_t i = 0; i < told->count; i++)
        out += told->rows[i].state == LEDGER_STILL_OUT;
    CHECK(metric_get(COUNTER_LEDGER_OUT) == out);
    return out;
}

/* Between the same two people one mail comes back and another does not. */
static int same_people_main(void *argument UNUSED)
{
    fresh("same_people");
    struct history *history = open_with(0, 0);

    tell_mail(EVENT_MESSAGE_DEFERRED, 0, 11);
    tell_mail(EVENT_MESSAGE_DEFERRED, 0, 11);
    tell_mail(EVENT_MESSAGE_DEFERRED, 0, 22);
    CHECK(still_out(history) == 2 && ledger_now()->count == 2);
    tell_mail(EVENT_MESSAGE_ACCEPTED, 31, 33); /* a third one, never deferred */
    CHECK(still_out(history) == 2);
    history_close(history);
    history = open_with(0, 0); /* which mail it is survives a restart */
    tell_mail(EVENT_MESSAGE_ACCEPTED, 32, 22);
    CHECK(still_out(history) == 1);
    tell_mail(EVENT_MESSAGE_ACCEPTED, 33, 11);
    CHECK(still_out(history) == 0);

    /* Deferred at RCPT, it may be any mail of theirs; at the dot it becomes the one it is. */
    tell_mail(EVENT_MESSAGE_DEFERRED, 0, 0);
    tell_mail(EVENT_MESSAGE_DEFERRED, 0, 44);
    tell_mail(EVENT_MESSAGE_DEFERRED, 0, 0);
    CHECK(still_out(history) == 1);
    tell_mail(EVENT_MESSAGE_ACCEPTED, 34, 55);
    CHECK(still_out(history) == 1);
    tell_mail(EVENT_MESSAGE_ACCEPTED, 35, 44);
    CHECK(still_out(history) == 0);
    history_close(history);
    return 0;
}

/* Older than a day: overdue, in the view and in the gauge. */
static int overdue_main(void *argument UNUSED)
{
    fresh("overdue");
    struct history *history = open_with(0, 0);
    struct event event = event_of(EVENT_MESSAGE_DEFERRED, 0, "old@b.example");

    event.verdict = verdict_of(CAUSE_SPOOL_FULL);
    event.has_verdict = true;
    event.wall_us = clock_wall_us() - INT64_C(25) * 3600 * 1000000;
    observe_event(&event);
    defer("new@b.example", CAUSE_FILTER_TIMEOUT);
    history_flush(history);
    CHECK(ledger_now()->count == 2 && ledger_now()->rows[0].state == LEDGER_OVERDUE);
    CHECK(ledger_now()->rows[1].state == LEDGER_STILL_OUT);
    history_close(history);
    history = open_with(0, 0);
    CHECK(metric_get(COUNTER_LEDGER_OVERDUE) == 1 && metric_get(COUNTER_LEDGER_OUT) == 1);
    history_close(history);
    return 0;
}

static void test_ledger(void **state UNUSED)
{
    in_world(ledger_main, NULL, 1);
    in_world(early_main, NULL, 1);
    in_world(overdue_main, NULL, 1);
    in_world(same_people_main, NULL, 1);
}

/* Many open rows, ended in another order: the set in memory and the table agree. */
static int many_main(void *argument UNUSED)
{
    enum { MANY = 3000 };
    char to[60];

    fresh("many");
    struct history *history = open_with(0, 0);
    for (unsigned i = 0; i < MANY; i++) {
        snprintf(to, sizeof to, "u%u@b.example", i);
        defer(to, CAUSE_FILTER_TIMEOUT);
    }
    history_flush(history);
    CHECK(metric_get(COUNTER_LEDGER_OUT) == MANY);
    for (unsigned i = 0; i < MANY; i++) {
        snprintf(to, sizeof to, "u%u@b.example", i * 7 % MANY);
        accept_at(1000 + i, to, "192.0.2.9:1");
    }
    history_flush(history);
    CHECK(metric_get(COUNTER_LEDGER_OUT) == 0 && metric_get(COUNTER_LEDGER_BACK) == MANY);
    history_close(history);
    return 0;
}

static void test_many(void **state UNUSED)
{
    in_world(many_main, NULL, 1);
}

/* ------------------------------------------------------------------ bounds and damage */

static int64_t ask(const char *sql)
{
    char path[300];
    sqlite3 *database = NULL;
    sqlite3_stmt *statement = NULL;
    int64_t answer = -1;

    snprintf(path, sizeof path, "%s/history.db", directory);
    if (sqlite3_open_v2(path, &database, SQLITE_OPEN_READONLY, NULL) == SQLITE_OK &&
        sqlite3_prepare_v2(database, sql, -1, &statement, NULL) == SQLITE_OK &&
        sqlite3_step(statement) == SQLITE_ROW)
        answer = sqlite3_column_int64(statement, 0);
    sqlite3_finalize(statement);
    sqlite3_close(database);
    return answer;
}

/* One row a plain message, and no more rows than asked for. */
static int bounds_main(void *argument UNUSED)
{
    struct event event;

    fresh("bounds");
    struct history *history = open_with(50, 0);
    for (uint64_t i = 1; i <= 40; i++) {
        accept_at(i, "bob@b.example", "192.0.2.9:1");
        event = event_of(EVENT_DELIVERY_DONE, i, "bob@b.example");
        observe_event(&event);
        event = event_of(EVENT_MESSAGE_ENDED, i, "");
        observe_event(&event);
    }
    history_flush(history);
    /* Gathering may have ended in the middle of one message. */
    CHECK(ask("SELECT count(*) FROM events") <= 40 + 2);
    for (uint64_t i = 41; i <= 400; i++) {
        accept_at(i, "bob@b.example", "192.0.2.9:1");
        if (i % 20 == 0)
            history_flush(history);
    }
    history_flush(history);
    CHECK(ask("SELECT count(*) FROM events") <= 50 + 5 * 20);
    CHECK(ask("SELECT max(message) FROM events") == 400);
    CHECK(ask("SELECT count(*) FROM events WHERE message = 1") == 0);
    history_close(history);
    return 0;
}

static void damage(const char *name)
{
    char path[300];

    snprintf(path, sizeof path, "%s/%s", directory, name);
    FILE *file = fopen(path, "w");
    CHECK(file != NULL);
    for (unsigned i = 0; i < 10000; i++)
        fputs("this is no database ", file);
    fclose(file);
}

/* A damaged file is set aside; the next one works. */
static int damage_main(void *argument UNUSED)
{
    struct told told = {0};
    char path[300];

    fresh("damage");
    damage("history.db");
    CHECK(!history_of_message(directory, 5, tell, &told, why, sizeof why));
    CHECK(strstr(why, "history") != NULL);
    struct history *history = open_with(0, 0);
    accept_at(5, "bob@b.example", "192.0.2.9:1");
    history_flush(history);
    CHECK(history_of_message(directory, 5, tell, &told, why, sizeof why));
    CHECK(told.count == 1);
    history_close(history);
    snprintf(path, sizeof path, "%s/history.db.damaged", directory);
    CHECK(access(path, F_OK) == 0);

    snprintf(directory, sizeof directory, "%s/nowhere", folder);
    const struct history_settings settings = {.directory = directory};
    CHECK(history_open(&settings, why, sizeof why) == NULL);
    CHECK(strstr(why, "nowhere/history.db") != NULL);
    return 0;
}

static void test_bounds(void **state UNUSED)
{
    in_world(bounds_main, NULL, 1);
    in_world(damage_main, NULL, 1);
}

/* ------------------------------------------------------------------ from several loops at once */

enum { TELLERS = 4, TOLD_EACH = 2000 };
static struct gate tellers;

static void teller(void *argument UNUSED)
{
    for (uint64_t i = 1; i <= TOLD_EACH; i++) {
        accept_at(i, "bob@b.example", "192.0.2.9:1");
        if (i % 100 == 0)
            fiber_yield();
    }
    gate_pass(&tellers);
}

static int loops_main(void *argument UNUSED)
{
    const int64_t dropped = metric_get(COUNTER_HISTORY_DROPPED);

    fresh("loops");
    struct history *history = open_with(0, 0);
    tellers = (struct gate){.left = TELLERS};
    for (unsigned i = 0; i < TELLERS; i++)
        CHECK(fiber_start_on(loop_session(i % loop_session_count()), "teller", teller, NULL) !=
              NULL);
    CHECK(gate_wait(&tellers, 0));
    history_flush(history);
    struct told told = {0};
    CHECK(history_of_message(directory, TOLD_EACH, tell, &told, why, sizeof why));
    CHECK(told.count == TELLERS || metric_get(COUNTER_HISTORY_DROPPED) > dropped);
    history_close(history);
    return 0;
}

static void test_loops(void **state UNUSED)
{
    in_world(loops_main, NULL, 2);
}

/* ------------------------------------------------------------------ the forms of an event */

static struct kept example(void)
{
    struct kept kept = {.kind = 300, .wall_us = -5};

    for (unsigned i = 0; i < KEPT_NUMBERS; i++)
        kept.numbers[i] = i == KEPT_TOOK ? UINT64_MAX : UINT64_C(1) << (9 * i % 63);
    for (unsigned i = 0; i < KEPT_TEXTS; i++)
        kept.texts[i] = bytes_slice(BYTES_LITERAL("abcdefghijklmnop"), i, 3 + i);
    kept.texts[KEPT_HELO] = BYTES_EMPTY;
    return kept;
}

static void test_forms(void **state UNUSED)
{
    struct buffer packed = BUFFER_WITH_LIMIT(4096);
    const struct kept kept = example();
    struct kept read;

    kept_pack(&packed, &kept, 1000);
    struct bytes rest = buffer_view(&packed);
    assert_true(kept_unpack(&rest, &read, 1000));
    assert_int_equal(rest.count, 0);
    assert_int_equal(read.kind, 300);
    assert_int_equal(read.wall_us, -5);
    assert_memory_equal(read.numbers, kept.numbers, sizeof kept.numbers);
    for (unsigned i = 0; i < KEPT_TRANSCRIPT; i++)
        assert_true(bytes_equal(read.texts[i], kept.texts[i]));
    assert_int_equal(read.texts[KEPT_TRANSCRIPT].count, 0); /* it has a table of its own */
    for (size_t cut = 0; cut < packed.count; cut++) {
        rest = bytes_slice(buffer_view(&packed), 0, cut);
        assert_false(kept_unpack(&rest, &read, 1000));
    }
    buffer_free(&packed);
}

/* ------------------------------------------------------------------ files of before */

/* As the first servers made them, whole; then with incidents of before they named a recipient. */
#define JUST_NOW "CAST(strftime('%s', 'now') AS INTEGER) * 1000000"
static const char FIRST_FILE[] =
    "CREATE TABLE names(id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE);"
    "CREATE TABLE events(id INTEGER PRIMARY KEY, wall_us INTEGER NOT NULL,"
    " message INTEGER NOT NULL, session INTEGER NOT NULL, packed BLOB NOT NULL);"
    "CREATE TABLE ledger(id INTEGER PRIMARY KEY, fingerprint INTEGER NOT NULL,"
    " network TEXT NOT NULL, sender TEXT NOT NULL COLLATE NOCASE,"
    " recipient TEXT NOT NULL COLLATE NOCASE, cause TEXT NOT NULL, first_us INTEGER NOT NULL,"
    " last_us INTEGER NOT NULL, ended_us INTEGER NOT NULL DEFAULT 0, attempts INTEGER NOT NULL,"
    " state INTEGER NOT NULL DEFAULT 0, session INTEGER NOT NULL,"
    " message INTEGER NOT NULL DEFAULT 0);"
    "INSERT INTO ledger VALUES(1, 77, '192.0.2.0/24', 'ann@a.example', 'bob@b.example',"
    " 'filter.timeout', " JUST_NOW ", " JUST_NOW ", 0, 3, 0, 9, 0);";
static const char LATER_FILE[] =
    "CREATE TABLE incidents(id INTEGER PRIMARY KEY, direction INTEGER NOT NULL,"
    " cause TEXT NOT NULL, subject TEXT NOT NULL, first_us INTEGER NOT NULL,"
    " last_us INTEGER NOT NULL, over_us INTEGER NOT NULL, good_us INTEGER NOT NULL,"
    " count INTEGER NOT NULL, good INTEGER NOT NULL, waiting INTEGER NOT NULL,"
    " mark INTEGER NOT NULL, text TEXT NOT NULL, host TEXT NOT NULL, sender TEXT NOT NULL,"
    " breaker INTEGER NOT NULL, told_mail INTEGER NOT NULL DEFAULT 0,"
    " told_command INTEGER NOT NULL DEFAULT 0);"
    "CREATE TABLE incident_messages(id INTEGER PRIMARY KEY,"
    " incident INTEGER NOT NULL, message INTEGER NOT NULL, UNIQUE(incident, message));"
    "INSERT INTO incidents VALUES(5, 0, 'filter.timeout', 'clamav', " JUST_NOW ", " JUST_NOW
    ", 0, 0, 3, 0,"
    " 1, 0, 'no answer', '', 'ann@a.example', 0, 0, 0);";

static void make_file(const char *sql)
{
    char path[300];
    sqlite3 *database = NULL;

    snprintf(path, sizeof path, "%s/history.db", directory);
    CHECK(sqlite3_open(path, &database) == SQLITE_OK);
    CHECK(sqlite3_exec(database, sql, NULL, NULL, NULL) == SQLITE_OK);
    CHECK(sqlite3_close(database) == SQLITE_OK);
}

static bool count_incident(void *argument, const struct incident_row *row)
{
    CHECK(bytes_equal_text(row->cause, "filter.timeout") && row->to.count == 0);
    ++*(unsigned *)argument;
    return true;
}

static bool count_ledger(void *argument, const struct ledger_row *row)
{
    CHECK(bytes_equal_text(row->to, "bob@b.example") && row->dependency.count == 0);
    ++*(unsigned *)argument;
    return true;
}

static void read_older(unsigned incidents)
{
    const struct incident_query all = {.choice = INCIDENTS_ALL}, one = {.id = 5};
    struct told told = {0};
    unsigned seen = 0, rows = 0, single = 0;

    CHECK(incident_view(directory, all, count_incident, &seen, why, sizeof why));
    CHECK(incident_view(directory, one, count_incident, &single, why, sizeof why));
    CHECK(seen == incidents && single == incidents);
    CHECK(ledger_view(directory, 0, count_ledger, &rows, why, sizeof why) && rows == 1);
    CHECK(history_of_message(directory, 5, tell, &told, why, sizeof why) && told.count == 0);
}

static int older_main(void *argument UNUSED)
{
    for (unsigned i = 0; i < 2; i++) {
        fresh(i == 0 ? "first" : "later");
        make_file(FIRST_FILE);
        if (i == 1)
            make_file(LATER_FILE);
        read_older(i);
        /* A server adds what is missing and reads its rows back; twice, as at each start. */
        for (unsigned starts = 0; starts < 2; starts++) {
            struct history *history = open_with(0, 0);
            history_flush(history);
            read_older(i);
            history_close(history);
        }
    }
    return 0;
}

static void test_older_files(void **state UNUSED)
{
    in_world(older_main, NULL, 1);
}

static int remove_entry(const char *path, const struct stat *facts UNUSED, int kind UNUSED,
                        struct FTW *where UNUSED)
{
    return remove(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forms), cmocka_unit_test(test_story),  cmocka_unit_test(test_ledger),
        cmocka_unit_test(test_many),  cmocka_unit_test(test_bounds), cmocka_unit_test(test_loops),
        cmocka_unit_test(test_older_files),
    };

    if (!mkdtemp(folder))
        return 1;
    observe_configure(LOG_NONE, LOG_ERROR);
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    nftw(folder, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    return failed;
}
