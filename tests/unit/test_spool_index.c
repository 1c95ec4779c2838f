/* The index's own files: the WAL is written back into the database before it has grown large. */
#include "real_world.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "spool/index.h"

enum { TRANSACTIONS = 3000, WAL_BYTES_MOST = 8 * 1024 * 1024 };

WORLD(test_the_wal_stays_small)
{
    char folder[] = "/tmp/spool-index-XXXXXX", path[64], why[200];
    struct index *index = NULL;
    struct stat facts = {0};

    CHECK(mkdtemp(folder) != NULL);
    CHECK(index_open(folder, false, &index, why, sizeof why) == INDEX_NEW);
    for (uint64_t i = 1; i <= TRANSACTIONS; i++) {
        const struct index_state state = {.spool = 1, .position = i, .sequence = i};

        CHECK(index_begin(index, i % 100 == 0) && index_end(index, &state));
    }
    snprintf(path, sizeof path, "%s/index.db-wal", folder);
    CHECK(stat(path, &facts) == 0 && facts.st_size > 0 && facts.st_size < WAL_BYTES_MOST);
    index_close(index);
    CHECK(index_remove(folder));
    CHECK(rmdir(folder) == 0);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_the_wal_stays_small)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
