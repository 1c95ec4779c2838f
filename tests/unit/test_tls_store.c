/* tls.db: policies and results come back as they were put, and damaged rows are passed over. */
#include "real_world.h"

#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "deliver/tls_store.h"

static char folder[32], path[64];

static void folder_make(void)
{
    snprintf(folder, sizeof folder, "/tmp/tls-store-XXXXXX");
    CHECK(mkdtemp(folder) != NULL);
    snprintf(path, sizeof path, "%s/tls.db", folder);
}

/* Who only reads leaves what SQLite puts beside the file. */
static void folder_remove(void)
{
    char beside[80];

    CHECK(unlink(path) == 0);
    snprintf(beside, sizeof beside, "%s-wal", path);
    unlink(beside);
    snprintf(beside, sizeof beside, "%s-shm", path);
    unlink(beside);
    CHECK(rmdir(folder) == 0);
}

static int64_t today(void)
{
    return clock_wall_us() / (int64_t)(86400 * US_PER_S);
}

WORLD(test_a_policy_comes_back)
{
    struct sts_row row = {.domain = "a.test", .id = "7", .text = BUFFER_WITH_LIMIT(KIB)};
    struct sts_row again = {.domain = "a.test"}, other = {.domain = "b.test"};

    folder_make();
    struct tls_store *store = tls_store_open(folder);
    CHECK(store != NULL);
    row.expires_s = row.fetched_s = row.used_s = clock_wall_us() / (int64_t)US_PER_S;
    buffer_add_text(&row.text, "version: STSv1\nmode: none\n");
    tls_store_write(store, &row);
    CHECK(tls_store_read(store, &again) && !tls_store_read(store, &other));
    CHECK(bytes_equal(buffer_view(&again.text), buffer_view(&row.text)));
    CHECK(strcmp(again.id, "7") == 0 && again.expires_s == row.expires_s);
    buffer_free(&row.text);
    buffer_free(&again.text);
    tls_store_close(store);
    folder_remove();
    return 0;
}

static bool count_one(void *argument, const struct tls_result *result)
{
    uint64_t *sum = argument;

    CHECK(strcmp(result->domain, "good.test") == 0 && result->kind == TLS_POLICY_STS);
    *sum += result->count;
    return true;
}

/* As another program, or a sick disk, may leave them. */
static void damage(void)
{
    static const struct {
        const char *day_more, *domain, *kind, *count;
    } rows[] = {{"0", "kind.test", "3", "1"},
                {"0", "below.test", "-1", "1"},
                {"0", "wide.test", "4294967297", "1"},
                {"0", "count.test", "1", "-1"},
                {"4611686018427387904", "day.test", "1", "1"}};
    sqlite3 *database = NULL;
    char text[200];

    CHECK(sqlite3_open(path, &database) == SQLITE_OK);
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        snprintf(text, sizeof text,
                 "INSERT INTO results VALUES (%lld + %s, '%s', %s, '', '', '', '', '', '', %s)",
                 (long long)today(), rows[i].day_more, rows[i].domain, rows[i].kind, rows[i].count);
        CHECK(sqlite3_exec(database, text, NULL, NULL, NULL) == SQLITE_OK);
    }
    sqlite3_close(database);
}

WORLD(test_damaged_rows_are_passed_over)
{
    struct tls_result *result = calloc(1, sizeof *result);
    uint64_t sum = 0;

    folder_make();
    struct tls_store *store = tls_store_open(folder);
    CHECK(store && result);
    *result = (struct tls_result){
        .day = today(), .kind = TLS_POLICY_STS, .domain = "good.test", .count = 5};
    CHECK(tls_store_add(store, result, 1) && tls_store_add(store, result, 1));
    tls_store_close(store);
    damage();
    CHECK(deliver_tls_results(folder, 0, count_one, &sum) && sum == 10);
    free(result);
    folder_remove();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_policy_comes_back),
        cmocka_unit_test(test_damaged_rows_are_passed_over),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
