/* Files, directories, signals and chance of the kernel world, in a fresh directory. */
#include "world_check.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char folder[] = "/tmp/holdfast-disk-XXXXXX";

/* ------------------------------------------------------------------ files */

static bool count_name(void *argument, const char *name)
{
    int *count = argument;

    CHECK(strncmp(name, "many-", 5) == 0);
    return ++*count != 7777;
}

static void check_listing(const char *path)
{
    char name[160];
    struct file *file = NULL;
    int count = 0;

    for (int i = 0; i < 1500; i++) { /* more than a batch */
        snprintf(name, sizeof name, "%s/many-%d-%0*d", path, i, 20, 0);
        CHECK(file_open(name, FILE_WRITE | FILE_NEW, &file).status == IO_OK);
        file_close_ptr(&file);
    }
    CHECK(disk_list(path, count_name, &count).status == IO_OK && count == 1500);
    count = 7776; /* stops at the first */
    CHECK(disk_list(path, count_name, &count).status == IO_OK && count == 7777);
    for (int i = 0; i < 1500; i++) {
        snprintf(name, sizeof name, "%s/many-%d-%0*d", path, i, 20, 0);
        CHECK(disk_remove(name).status == IO_OK);
    }
}

static void check_file(const char *path)
{
    struct file *file = NULL, *second = NULL;
    struct bytes parts[150];
    struct file_facts facts;
    uint8_t memory[600];
    struct span into = {memory, sizeof memory};

    CHECK(file_open(path, FILE_READ, &file).status == IO_FAILED && file == NULL);
    CHECK(file_open(path, FILE_WRITE | FILE_NEW, &file).status == IO_OK);
    struct io_result result = file_open(path, FILE_WRITE | FILE_NEW, &second);
    CHECK(result.status == IO_FAILED && result.error == EEXIST);
    for (size_t i = 0; i < COUNT_OF(parts); i++)
        parts[i] = i % 3 == 1 ? BYTES_EMPTY : BYTES_LITERAL("abcd");
    result = file_write_at(file, parts, COUNT_OF(parts), 10);
    CHECK(result.status == IO_OK && result.count == 400);
    CHECK(file_sync(file).status == IO_OK);
    result = file_read_at(file, into, 8);
    CHECK(result.status == IO_OK && result.count == 402 && memcmp(memory, "\0\0abcdabcd", 10) == 0);
    CHECK(file_read_at(file, into, 410).status == IO_END);
    CHECK(file_reserve(file, 100000).status == IO_OK);
    CHECK(file_facts(file, &facts).status == IO_OK && facts.size_bytes == 100000);
    result = file_read_at(file, into, 99999);
    CHECK(result.status == IO_OK && result.count == 1 && memory[0] == 0);
    CHECK(file_truncate(file, 12).status == IO_OK);
    CHECK(disk_facts(path, &facts).status == IO_OK && facts.size_bytes == 12);
    CHECK(!facts.is_directory && facts.modified_wall_us > 0);
    CHECK(file_lock(file).status == IO_OK);
    CHECK(file_open(path, FILE_WRITE, &second).status == IO_OK);
    result = file_lock(second);
    CHECK(result.status == IO_FAILED && result.error == EWOULDBLOCK);
    file_close_ptr(&file);
    CHECK(file_lock(second).status == IO_OK);
    file_close_ptr(&second);
}

static void check_names(const char *path)
{
    char other[200];
    struct disk_space space;
    struct file_facts facts;

    snprintf(other, sizeof other, "%s.other", path);
    CHECK(disk_link(path, other).status == IO_OK);
    const struct io_result result = disk_link(path, other);
    CHECK(result.status == IO_FAILED && result.error == EEXIST);
    CHECK(disk_rename(path, other).status == IO_OK); /* two names of one file: nothing happens */
    CHECK(disk_remove(path).status == IO_OK);
    CHECK(disk_facts(path, &facts).error == ENOENT);
    CHECK(disk_remove(other).status == IO_OK);
    CHECK(disk_space(folder, &space).status == IO_OK);
    CHECK(space.bytes_total >= space.bytes_free && space.bytes_total > 0);
}

/* What others may have put there: a link is not followed, a pipe not waited for. */
static void check_foreign(const char *path)
{
    struct file *file = NULL;
    char link[200], pipe[200];

    snprintf(link, sizeof link, "%s.link", path);
    snprintf(pipe, sizeof pipe, "%s.pipe", path);
    CHECK(symlink(path, link) == 0 && mkfifo(pipe, 0600) == 0);
    CHECK(file_open(link, FILE_READ, &file).status == IO_OK);
    file_close_ptr(&file);
    CHECK(file_open(path, FILE_READ | FILE_FOREIGN, &file).status == IO_OK);
    file_close_ptr(&file);
    const struct io_result followed = file_open(link, FILE_READ | FILE_FOREIGN, &file);
    CHECK(followed.status == IO_FAILED && followed.error == ELOOP && !file);
    CHECK(file_open(pipe, FILE_READ | FILE_FOREIGN, &file).status == IO_OK);
    file_close_ptr(&file);
    CHECK(disk_remove(link).status == IO_OK && disk_remove(pipe).status == IO_OK);
}

static void check_disk(void *argument)
{
    const char *name = argument;
    char path[128], inner[160];
    struct file_facts facts;

    snprintf(path, sizeof path, "%s/%s", folder, name);
    CHECK(disk_make_directory(path).status == IO_OK);
    CHECK(disk_make_directory(path).status == IO_OK);
    CHECK(disk_facts(path, &facts).status == IO_OK && facts.is_directory);
    snprintf(inner, sizeof inner, "%s/file", path);
    check_file(inner);
    CHECK(disk_make_directory(inner).error == EEXIST); /* a file is no directory */
    check_foreign(inner);
    check_names(inner);
    check_listing(path);
    CHECK(disk_sync_directory(path).status == IO_OK);
    CHECK(disk_remove(path).status == IO_OK);
}

struct disk_test {
    struct gate gate;
};

static void check_disk_there(void *argument)
{
    struct disk_test *test = argument;

    check_disk("blocking");
    gate_pass(&test->gate);
}

static int disk_main(void *argument UNUSED)
{
    struct disk_test test = {.gate = {.left = 1}};
    struct loop *writer = loop_start("writer", LOOP_BLOCKING);

    CHECK(writer && fiber_start_on(writer, "disk", check_disk_there, &test));
    check_disk("pool");
    CHECK(gate_wait(&test.gate, 0));
    return 0;
}

static void test_disk(void **state UNUSED)
{
    in_world(disk_main, NULL, 1);
}

/* ------------------------------------------------------------------ signals, chance */

static void waits_for_signal(void *argument)
{
    struct gate *gate = argument;
    int number = 0;

    CHECK(process_wait_signal(&number, deadline_in(US_PER_MS)) == IO_TIMEOUT && number == 0);
    kill(getpid(), SIGHUP);
    CHECK(process_wait_signal(&number, SOON_ENOUGH) == IO_OK && number == SIGHUP);
    kill(getpid(), SIGTERM);
    CHECK(process_wait_signal(&number, SOON_ENOUGH) == IO_OK && number == SIGTERM);
    gate_pass(gate);
}

static int signal_main(void *argument UNUSED)
{
    struct gate gate = {.left = 1};

    CHECK(fiber_start("signals", waits_for_signal, &gate) != NULL);
    CHECK(gate_wait(&gate, 0));
    gate.left = 1; /* and from another loop */
    CHECK(fiber_start_on(loop_session(1), "signals", waits_for_signal, &gate) != NULL);
    CHECK(gate_wait(&gate, 0));
    return 0;
}

static void test_signals(void **state UNUSED)
{
    in_world(signal_main, NULL, 2);
    in_world(signal_main, NULL, 2);
}

static int chance_main(void *argument UNUSED)
{
    uint64_t seen[64];
    uint8_t large[1000] = {0}, sum = 0;

    for (size_t i = 0; i < COUNT_OF(seen); i++) {
        seen[i] = random_u64();
        for (size_t j = 0; j < i; j++)
            CHECK(seen[i] != seen[j]);
    }
    random_fill((struct span){large, sizeof large});
    for (size_t i = 900; i < sizeof large; i++)
        sum |= large[i];
    CHECK(sum != 0);
    CHECK(clock_wall_us() > INT64_C(1700000000000000));
    CHECK(deadline_in(UINT64_MAX) == DEADLINE_NEVER);
    return 0;
}

static void test_chance(void **state UNUSED)
{
    in_world(chance_main, NULL, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_disk),
        cmocka_unit_test(test_signals),
        cmocka_unit_test(test_chance),
    };

    if (!mkdtemp(folder))
        return 1;
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    rmdir(folder);
    return failed;
}
