/*
 * tls.db with rows that this server would not have written, or with octets of the file changed.
 * Whatever stands there: reading is bounded, what is handed on is in its range, the report is made,
 * and in a file that is whole what is written anew reads back as it is.
 *
 * Input: one octet of options. Then changes of the file (two octets where, one what), or rows: one
 * octet for the table and, a column each, one for its kind and a value.
 */
#include "diagnose/diagnose.h"
#include "deliver/tls_store.h"

#include <jansson.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { DAMAGED_FILE = 1, CHANGES_MAX = 64, ROWS_MAX = 32, POLICY_COLUMNS = 9, RESULT_COLUMNS = 10 };
enum value_kind { VALUE_NUMBER, VALUE_TEXT, VALUE_OCTETS, VALUE_NONE, VALUE_DOMAIN, VALUE_KINDS };

#define DOMAIN "d.test"

static char folder[64], path[80];

static void prepare(void)
{
    snprintf(folder, sizeof folder, "%s/holdfast-fuzz-XXXXXX",
             access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    INVARIANT(mkdtemp(folder) != NULL);
    snprintf(path, sizeof path, "%s/tls.db", folder);
}

static void remove_file(void)
{
    char beside[100];

    unlink(path);
    snprintf(beside, sizeof beside, "%s-wal", path);
    unlink(beside);
    snprintf(beside, sizeof beside, "%s-shm", path);
    unlink(beside);
}

static void tidy(void)
{
    remove_file();
    rmdir(folder);
}

/* ------------------------------------------------------------------ what stands in the file */

static void bind_value(sqlite3_stmt *statement, int at, struct reader *reader)
{
    const enum value_kind kind = reader_u8(reader) % VALUE_KINDS;
    struct bytes text;

    if (kind == VALUE_NUMBER) {
        sqlite3_bind_int64(statement, at, (int64_t)reader_u64(reader));
    } else if (kind == VALUE_TEXT || kind == VALUE_OCTETS) {
        text = reader_bytes(reader, reader_u8(reader));
        const char *const start = text.count > 0 ? (const char *)text.at : "";
        if (kind == VALUE_TEXT)
            sqlite3_bind_text(statement, at, start, (int)text.count, SQLITE_TRANSIENT);
        else
            sqlite3_bind_blob(statement, at, start, (int)text.count, SQLITE_TRANSIENT);
    } else if (kind == VALUE_DOMAIN) {
        sqlite3_bind_text(statement, at, DOMAIN, -1, SQLITE_STATIC);
    }
}

static void add_rows(struct reader *reader)
{
    static const char *const texts[] = {
        "INSERT OR REPLACE INTO policies VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        "INSERT OR REPLACE INTO results VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)"};
    sqlite3 *database = NULL;

    INVARIANT(sqlite3_open(path, &database) == SQLITE_OK);
    for (unsigned row = 0; row < ROWS_MAX && reader->rest.count > 0; row++) {
        sqlite3_stmt *statement = NULL;
        const unsigned table = reader_u8(reader) % 2;
        INVARIANT(sqlite3_prepare_v2(database, texts[table], -1, &statement, NULL) == SQLITE_OK);
        for (int at = 1; at <= (table ? RESULT_COLUMNS : POLICY_COLUMNS); at++)
            bind_value(statement, at, reader);
        sqlite3_step(statement);
        sqlite3_finalize(statement);
    }
    sqlite3_close(database);
}

static void damage_file(struct reader *reader)
{
    FILE *file = fopen(path, "r+");

    INVARIANT(file != NULL);
    fseek(file, 0, SEEK_END);
    const long length = ftell(file);
    for (unsigned i = 0; i < CHANGES_MAX && reader->rest.count > 0 && length > 0; i++) {
        fseek(file, reader_u16(reader) % length, SEEK_SET);
        fputc(reader_u8(reader), file);
    }
    fclose(file);
}

/* ------------------------------------------------------------------ what has to hold */

static struct sts_row row_made(void)
{
    struct sts_row row = {.domain = "new.test",
                          .text = BUFFER_WITH_LIMIT(STS_TEXT_ROOM),
                          .id = "1",
                          .fetched_s = clock_wall_us() / (int64_t)US_PER_S};

    row.expires_s = row.refresh_s = row.used_s = row.fetched_s + 1000;
    buffer_add_text(&row.text, "version: STSv1\nmode: none\nmax_age: 1\n");
    return row;
}

static void write_and_read(struct tls_store *store, bool whole)
{
    struct sts_row row = row_made(), again = {.domain = "new.test"};

    tls_store_write(store, &row);
    const bool found = tls_store_read(store, &again);
    INVARIANT(found || !whole);
    if (found && whole)
        INVARIANT(bytes_equal(buffer_view(&again.text), buffer_view(&row.text)) &&
                  again.expires_s == row.expires_s && strcmp(again.id, "1") == 0);
    buffer_free(&row.text);
    buffer_free(&again.text);
}

static void use(struct tls_store *store, bool whole)
{
    static struct tls_result result = {.domain = DOMAIN, .failure = "f", .count = 1};
    struct sts_row row = {.domain = DOMAIN};
    char domains[4][STS_DOMAIN_ROOM];

    if (tls_store_read(store, &row))
        INVARIANT(row.found && row.text.count <= STS_TEXT_ROOM);
    buffer_free(&row.text);
    INVARIANT(tls_store_due(store, clock_wall_us() / (int64_t)US_PER_S, domains, 4) <= 4);
    write_and_read(store, whole);
    result.day = clock_wall_us() / (int64_t)(86400 * US_PER_S);
    INVARIANT(tls_store_add(store, &result, 1) || !whole);
}

static bool check_result(void *argument, const struct tls_result *result)
{
    unsigned *own = argument;

    INVARIANT(result->kind <= TLS_POLICY_TLSA && result->day >= 0);
    *own += strcmp(result->failure, "f") == 0 ? 1 : 0;
    return true;
}

static void report(bool whole)
{
    const struct tls_report_request request = {.directory = folder, .hostname = "mx.test"};
    struct buffer text = BUFFER_WITH_LIMIT(16 * MIB);
    unsigned own = 0;
    const bool read = deliver_tls_results(folder, 0, check_result, &own);
    json_t *reports = diagnose_tls_report(&request);

    INVARIANT(!whole || (read && own > 0));
    INVARIANT(read == (reports != NULL) || !whole);
    if (reports)
        diagnose_print_tls_report(&text, reports);
    json_decref(reports);
    buffer_free(&text);
}

static int fuzz_main(void *argument)
{
    struct reader *reader = argument;
    const bool whole = !(reader_u8(reader) & DAMAGED_FILE);

    remove_file();
    struct tls_store *store = tls_store_open(folder);
    INVARIANT(store != NULL);
    if (!whole)
        use(store, true);
    tls_store_close(store);
    if (whole)
        add_rows(reader);
    else
        damage_file(reader);
    store = tls_store_open(folder);
    INVARIANT(store || !whole);
    if (store)
        use(store, whole);
    tls_store_close(store);
    report(whole);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct reader reader = READER_OF(bytes_of(data, MIN_OF(size, (size_t)8192)));

    observe_configure(LOG_NONE, LOG_ERROR);
    if (!folder[0]) {
        prepare();
        atexit(tidy);
    }
    INVARIANT(world_run(fuzz_main, &reader, 1) == 0);
    return 0;
}
