/* The simulated world itself: time, chance, network, disk, crashes, SQLite, names. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <errno.h>
#include <signal.h>
#include <sqlite3.h>

#include "resolve/resolve.h"
#include "sim/sim.h"

static struct endpoint place(const char *text)
{
    struct endpoint endpoint;

    assert_true(endpoint_parse(bytes_of_text(text), &endpoint));
    return endpoint;
}

#define LATER deadline_in(60 * US_PER_S)

/* ------------------------------------------------------------------ echo, on a bad network */

enum { ECHO_BYTES = 20000, ECHO_CLIENTS = 5 };

static void echo_serve(void *argument, struct stream *stream)
{
    uint8_t room[777];

    assert_null(argument);
    for (;;) {
        const struct io_result got =
            stream_read(stream, (struct span){room, sizeof room}, deadline_in(30 * US_PER_S));

        if (got.status != IO_OK ||
            stream_write(stream, bytes_of(room, got.count), deadline_in(30 * US_PER_S)).status !=
                IO_OK)
            return;
    }
}

struct echo {
    unsigned whole, broken, running;
    struct fiber *main;
};

static void echo_ask(struct echo *echo, struct stream *stream)
{
    uint8_t sent[ECHO_BYTES], got[ECHO_BYTES];
    size_t heard = 0, said = 0;

    for (size_t i = 0; i < sizeof sent; i++)
        sent[i] = (uint8_t)random_u64();
    while (said < sizeof sent || heard < sizeof got) {
        const size_t part = MIN_OF(sizeof sent - said, (size_t)1000);

        if (part > 0 && stream_write(stream, bytes_of(sent + said, part), LATER).status != IO_OK)
            break;
        said += part;
        const struct io_result read = stream_read(
            stream, (struct span){got + heard, MIN_OF(sizeof got - heard, said - heard)}, LATER);
        if (read.status != IO_OK)
            break;
        heard += read.count;
    }
    assert_memory_equal(sent, got, heard);
    if (heard == sizeof got)
        echo->whole++;
    else
        echo->broken++;
}

static void echo_client(void *argument)
{
    struct echo *echo = argument;
    const struct endpoint at = place("127.0.0.1:7");
    struct stream *stream = NULL;

    if (stream_dial(&at, NULL, LATER, &stream).status == IO_OK)
        echo_ask(echo, stream);
    else
        echo->broken++;
    stream_close(stream);
    echo->running--;
    fiber_wake(echo->main);
}

static int echo_main(void *argument)
{
    struct echo *echo = argument;
    const struct endpoint at = place("127.0.0.1:7");

    echo->main = fiber_self();
    assert_true(sim_serve(&at, echo_serve, NULL));
    for (unsigned i = 0; i < ECHO_CLIENTS; i++) {
        echo->running++;
        assert_non_null(
            fiber_start_on(loop_session(i % loop_session_count()), "client", echo_client, echo));
    }
    while (echo->running > 0)
        assert_int_equal(fiber_park(DEADLINE_NEVER), IO_OK);
    return 7;
}

static uint64_t run_echo(uint64_t seed, const struct sim_net_fault *fault, struct echo *echo)
{
    *echo = (struct echo){0};
    sim_open(seed);
    if (fault)
        assert_true(sim_net_fault_add(fault) >= 0);
    assert_int_equal(world_run(echo_main, echo, 0), 7);
    const uint64_t hash = sim_trace_hash();
    sim_close();
    return hash;
}

static void same_seed_same_trace(void **state)
{
    struct echo echo;

    assert_null(*state);
    for (uint64_t seed = 1; seed < 6; seed++) {
        const uint64_t hash = run_echo(seed, NULL, &echo);

        assert_int_equal(echo.whole, ECHO_CLIENTS);
        assert_true(run_echo(seed, NULL, &echo) == hash);
        assert_true(run_echo(seed + 100, NULL, &echo) != hash);
    }
}

static void a_reset_strikes_where_it_was_ordered(void **state)
{
    struct echo echo;
    const struct sim_net_fault third = {
        .kind = SIM_NET_RESET, .connection = 3, .way = SIM_NET_TO_CLIENT, .after_bytes = 1234};
    const struct sim_net_fault refuse = {.kind = SIM_NET_REFUSE, .times = 2};
    const struct sim_net_fault hole = {.kind = SIM_NET_BLACK_HOLE, .connection = 1};
    const struct sim_net_fault half = {.kind = SIM_NET_HALF_OPEN, .times = 1, .after_random = 9000};

    assert_null(*state);
    for (uint64_t seed = 1; seed < 20; seed++) {
        run_echo(seed, &third, &echo);
        assert_int_equal(echo.broken, 1);
        run_echo(seed, &refuse, &echo);
        assert_int_equal(echo.broken, 2);
        run_echo(seed, &hole, &echo);
        assert_int_equal(echo.broken, 1);
        run_echo(seed, &half, &echo);
        assert_int_equal(echo.broken, 1);
    }
}

/* ------------------------------------------------------------------ single questions to the
 * network */

static int network_main(void *argument)
{
    const struct endpoint nobody = place("192.0.2.9:25"), at = place("127.0.0.1:0");
    struct listener *listener = NULL, *second = NULL;
    struct stream *out = NULL, *in = NULL;
    static uint8_t big[256 * 1024], room[4096];

    assert_null(argument);
    struct io_result result = stream_dial(&nobody, NULL, LATER, &out);
    assert_int_equal(result.error, ECONNREFUSED);
    const struct sim_net_fault hole = {.kind = SIM_NET_BLACK_HOLE, .at = &nobody};
    const int slot = sim_net_fault_add(&hole);
    const uint64_t start_us = clock_now_us();
    result = stream_dial(&nobody, NULL, deadline_in(30 * US_PER_S), &out);
    assert_int_equal(result.status, IO_TIMEOUT);
    assert_true(clock_now_us() - start_us >= 30 * US_PER_S);
    sim_net_fault_end(slot);

    assert_int_equal(listener_open(&at, false, &listener).status, IO_OK);
    assert_int_equal(listener_open(listener_endpoint(listener), false, &second).error, EADDRINUSE);
    assert_int_equal(stream_dial(listener_endpoint(listener), NULL, LATER, &out).status, IO_OK);
    assert_int_equal(listener_accept(listener, LATER, &in).status, IO_OK);
    /* Nobody reads: the window fills and the write waits. */
    result = stream_write(out, bytes_of(big, sizeof big), deadline_in(US_PER_S));
    assert_int_equal(result.status, IO_TIMEOUT);
    assert_int_equal(result.count, 64 * KIB);
    size_t heard = 0;
    while (heard < 64 * KIB) {
        result = stream_read(in, (struct span){room, sizeof room}, deadline_in(US_PER_S));
        assert_int_equal(result.status, IO_OK);
        heard += result.count;
    }
    assert_int_equal(stream_read(in, (struct span){room, 1}, deadline_in(10)).status, IO_TIMEOUT);
    stream_close(out);
    assert_int_equal(stream_wait_readable(in, LATER).status, IO_OK);
    assert_int_equal(stream_read(in, (struct span){room, 1}, LATER).status, IO_END);
    /* The other side is gone: the first write passes, then comes the reset. */
    assert_int_equal(stream_write(in, BYTES_LITERAL("late"), LATER).status, IO_OK);
    assert_int_equal(fiber_sleep_until(LATER), IO_OK);
    assert_int_equal(stream_write(in, BYTES_LITERAL("later"), LATER).error, ECONNRESET);
    assert_int_equal(stream_write(in, BYTES_LITERAL("later"), LATER).error, EPIPE);
    stream_close(in);
    listener_close(listener);
    return 0;
}

static void the_network_answers_as_a_kernel(void **state)
{
    assert_null(*state);
    for (uint64_t seed = 1; seed < 30; seed++) {
        sim_open(seed);
        assert_int_equal(world_run(network_main, NULL, 0), 0);
        sim_close();
    }
}

static int script_main(void *argument)
{
    static const char server[] =
        "> 220 hello\n< EHLO\n> 250 fine\nwait 100\n<~ .\n> 451 later\nclose\n"
        "--\n> 421 no\nreset\n";
    const struct endpoint at = place("unix:/run/peer");
    struct stream *stream = NULL;

    assert_null(argument);
    assert_true(sim_serve_script(&at, server));
    assert_int_equal(stream_dial(&at, NULL, LATER, &stream).status, IO_OK);
    assert_true(
        sim_play(stream, BYTES_LITERAL("< 220\n> EHLO me\n< 250\n> a\n> b\n> .\n< 451\n"), LATER));
    stream_close(stream);
    assert_int_equal(stream_dial(&at, NULL, LATER, &stream).status, IO_OK);
    assert_false(sim_play(stream, BYTES_LITERAL("< 220\n"), LATER));
    stream_close(stream);
    return 0;
}

static void scripts_are_played(void **state)
{
    assert_null(*state);
    sim_open(3);
    assert_int_equal(world_run(script_main, NULL, 0), 0);
    sim_close();
}

static size_t answer_datagram(void *argument, struct bytes packet, struct span reply)
{
    assert_null(argument);
    reply.at[0] = (uint8_t)(packet.at[0] + 1);
    return 1;
}

static int datagram_main(void *argument)
{
    const struct endpoint at = place("192.0.2.53:53");
    struct datagram *socket = NULL;
    uint8_t room[16];

    assert_null(argument);
    assert_int_equal(datagram_open(&at, &socket).status, IO_OK);
    assert_int_equal(datagram_send(socket, BYTES_LITERAL("a")).status, IO_OK);
    assert_int_equal(
        datagram_receive(socket, (struct span){room, sizeof room}, deadline_in(100)).status,
        IO_TIMEOUT);
    sim_datagram_serve(&at, answer_datagram, NULL);
    assert_int_equal(datagram_send(socket, BYTES_LITERAL("a")).status, IO_OK);
    assert_int_equal(datagram_receive(socket, (struct span){room, sizeof room}, LATER).count, 1);
    assert_int_equal(room[0], 'b');
    datagram_close(socket);
    return 0;
}

static void datagrams_pass(void **state)
{
    assert_null(*state);
    sim_open(3);
    assert_int_equal(world_run(datagram_main, NULL, 0), 0);
    sim_close();
}

/* ------------------------------------------------------------------ time, signals, ends */

static int five_days_main(void *argument)
{
    const uint64_t start_us = clock_now_us();

    assert_null(argument);
    for (unsigned i = 0; i < 5 * 24 * 60; i++)
        assert_int_equal(fiber_sleep_until(deadline_in(60 * US_PER_S)), IO_OK);
    assert_true(clock_now_us() - start_us >= 5 * 24 * 3600 * US_PER_S);
    return 0;
}

static void send_signal(void *argument)
{
    assert_null(argument);
    sim_signal(SIGTERM);
}

static int signal_main(void *argument)
{
    int number = 0;
    const int64_t wall_us = clock_wall_us();

    assert_null(argument);
    assert_int_equal(process_wait_signal(&number, deadline_in(US_PER_S)), IO_TIMEOUT);
    sim_at(deadline_in(3600 * US_PER_S), send_signal, NULL);
    assert_int_equal(process_wait_signal(&number, DEADLINE_NEVER), IO_OK);
    assert_int_equal(number, SIGTERM);
    sim_wall_jump(-365 * INT64_C(86400) * 1000000);
    assert_true(clock_wall_us() < wall_us);
    return 0;
}

static int stuck_main(void *argument)
{
    assert_null(argument);
    while (fiber_park(DEADLINE_NEVER) == IO_OK)
        continue;
    return 0;
}

static void add_one(void *argument)
{
    ++*(int *)argument;
}

static int work_and_loops_main(void *argument)
{
    int count = 0;

    assert_null(argument);
    assert_int_equal(loop_session_count(), 3);
    assert_int_equal(work_run(add_one, &count), IO_OK);
    assert_int_equal(count, 1);
    assert_int_equal(descriptor_wait(0, false, LATER).error, ENOSYS);
    return 0;
}

static void time_is_virtual(void **state)
{
    assert_null(*state);
    sim_open(1);
    assert_int_equal(world_run(five_days_main, NULL, 0), 0);
    assert_int_equal(world_run(signal_main, NULL, 0), 0);
    assert_int_equal(world_run(stuck_main, NULL, 0), SIM_STUCK);
    assert_int_equal(world_run(work_and_loops_main, NULL, 3), 0);
    sim_limit_time(3600 * US_PER_S);
    assert_int_equal(world_run(five_days_main, NULL, 0), SIM_OVERDUE);
    assert_int_equal(fiber_count(), 0);
    sim_close();
}

/* ------------------------------------------------------------------ the disk and the power cut */

static struct file *open_file(const char *path, unsigned flags)
{
    struct file *file = NULL;

    assert_int_equal(file_open(path, flags, &file).status, IO_OK);
    return file;
}

static struct io_result write_text(struct file *file, const char *text, uint64_t offset)
{
    const struct bytes parts[] = {bytes_of_text(text)};

    return file_write_at(file, parts, 1, offset);
}

static int half_synced_main(void *argument)
{
    struct file *synced = open_file("/d/synced", FILE_WRITE | FILE_CREATE);
    struct file *unsynced = open_file("/d/unsynced", FILE_WRITE | FILE_CREATE);

    assert_null(argument);
    assert_int_equal(write_text(synced, "kept", 0).count, 4);
    assert_int_equal(write_text(unsynced, "lost", 0).count, 4);
    assert_int_equal(file_sync(synced).status, IO_OK);
    assert_int_equal(disk_sync_directory("/d").status, IO_OK);
    assert_int_equal(write_text(synced, "KEPT", 4).count, 4);
    sim_crash(SIM_POWER_CUT);
    return 0;
}

static void a_power_cut_takes_what_was_not_synced_and_only_that(void **state)
{
    unsigned lost = 0, kept = 0, torn = 0;

    assert_null(*state);
    for (uint64_t seed = 0; seed < 1000; seed++) {
        sim_open(seed);
        sim_disk_make_directory("/d");
        assert_int_equal(world_run(half_synced_main, NULL, 0), SIM_CRASHED);
        const struct bytes synced = sim_disk_get("/d/synced");
        assert_true(bytes_starts_with(synced, BYTES_LITERAL("kept")));
        torn += synced.count == 8 && synced.at[4] == 0;
        const struct bytes unsynced = sim_disk_get("/d/unsynced");
        assert_true(sim_disk_exists("/d/unsynced"));
        kept += bytes_equal_text(unsynced, "lost");
        lost += !bytes_equal_text(unsynced, "lost");
        sim_close();
    }
    assert_true(lost > 100 && kept > 100 && torn > 10);
}

static int kill_main(void *argument)
{
    struct file *file = open_file("/d/file", FILE_WRITE | FILE_CREATE);

    assert_null(argument);
    assert_int_equal(file_lock(file).status, IO_OK);
    assert_int_equal(write_text(file, "alive", 0).count, 5);
    sim_crash(SIM_KILL);
    return 0;
}

static int after_kill_main(void *argument)
{
    struct file *file = open_file("/d/file", FILE_WRITE);
    struct file *other = open_file("/d/file", FILE_WRITE);

    assert_null(argument);
    assert_int_equal(file_lock(file).status, IO_OK);
    assert_int_equal(file_lock(other).error, EWOULDBLOCK);
    file_close(file);
    assert_int_equal(file_lock(other).status, IO_OK);
    file_close(other);
    return 0;
}

static void a_kill_leaves_the_page_cache(void **state)
{
    assert_null(*state);
    for (uint64_t seed = 0; seed < 50; seed++) {
        sim_open(seed);
        sim_disk_make_directory("/d");
        assert_int_equal(world_run(kill_main, NULL, 0), SIM_CRASHED);
        assert_true(bytes_equal_text(sim_disk_get("/d/file"), "alive"));
        assert_int_equal(world_run(after_kill_main, NULL, 0), 0);
        sim_close();
    }
}

static int rename_main(void *argument)
{
    const bool sync = *(bool *)argument;
    struct file *file = open_file("/d/tmp", FILE_WRITE | FILE_CREATE | FILE_NEW);

    assert_int_equal(write_text(file, "new", 0).count, 3);
    assert_int_equal(file_sync(file).status, IO_OK);
    file_close(file);
    assert_int_equal(disk_rename("/d/tmp", "/d/name").status, IO_OK);
    if (sync)
        assert_int_equal(disk_sync_directory("/d").status, IO_OK);
    sim_crash(SIM_POWER_CUT);
    return 0;
}

static void a_rename_is_whole_and_durable_only_when_synced(void **state)
{
    unsigned old = 0, new = 0;

    assert_null(*state);
    for (uint64_t seed = 0; seed < 400; seed++) {
        bool sync = seed % 2;

        sim_open(seed);
        sim_disk_put("/d/name", BYTES_LITERAL("old"));
        assert_int_equal(world_run(rename_main, &sync, 0), SIM_CRASHED);
        const struct bytes content = sim_disk_get("/d/name");
        if (sync || bytes_equal_text(content, "new")) {
            assert_true(bytes_equal_text(content, "new"));
            assert_false(sim_disk_exists("/d/tmp"));
            new += !sync;
        } else {
            assert_true(bytes_equal_text(content, "old"));
            old++;
        }
        sim_close();
    }
    assert_true(old > 50 && new > 50);
}

/* ------------------------------------------------------------------ faults of the disk */

static int failed_sync_main(void *argument)
{
    const struct sim_disk_fault fault = {
        .on = SIM_DISK_SYNC, .path_part = "/d/log", .error = EIO, .times = 1};
    struct file *file = open_file("/d/log", FILE_WRITE);

    assert_null(argument);
    assert_int_equal(write_text(file, "NEW", 0).count, 3);
    assert_true(sim_disk_fault_add(&fault) >= 0);
    assert_int_equal(file_sync(file).error, EIO);
    /* It answers well, and has written nothing. */
    assert_int_equal(file_sync(file).status, IO_OK);
    sim_crash(SIM_POWER_CUT);
    return 0;
}

static void a_failed_sync_is_never_made_good(void **state)
{
    unsigned lost = 0, written = 0;

    assert_null(*state);
    for (uint64_t seed = 0; seed < 200; seed++) {
        sim_open(seed);
        sim_disk_put("/d/log", BYTES_LITERAL("old"));
        assert_int_equal(world_run(failed_sync_main, NULL, 0), SIM_CRASHED);
        const struct bytes content = sim_disk_get("/d/log");
        lost += bytes_equal_text(content, "old");
        written += bytes_equal_text(content, "NEW");
        sim_close();
    }
    assert_int_equal(lost + written, 200);
    assert_true(lost > 40 && written > 10);
}

static int faults_main(void *argument)
{
    const struct sim_disk_fault write = {.on = SIM_DISK_WRITE, .error = EIO, .skip = 1, .times = 1};
    const struct sim_disk_fault stall = {.on = SIM_DISK_READ, .stall_us = 30 * US_PER_S};
    const struct sim_disk_fault denied = {.on = SIM_DISK_OPEN, .path_part = "b", .error = EACCES};
    struct file *file = open_file("/a", FILE_WRITE | FILE_CREATE);
    struct file *none = NULL;
    struct disk_space space;
    uint8_t room[8];

    assert_null(argument);
    assert_true(sim_disk_fault_add(&write) >= 0 && sim_disk_fault_add(&stall) >= 0 &&
                sim_disk_fault_add(&denied) >= 0);
    assert_int_equal(write_text(file, "one", 0).status, IO_OK);
    assert_int_equal(write_text(file, "two", 0).error, EIO);
    assert_int_equal(write_text(file, "six", 0).status, IO_OK);
    const uint64_t start_us = clock_now_us();
    assert_int_equal(file_read_at(file, (struct span){room, sizeof room}, 1).count, 2);
    assert_true(clock_now_us() - start_us >= 30 * US_PER_S);
    assert_memory_equal(room, "ix", 2);
    assert_int_equal(file_open("/b", FILE_WRITE | FILE_CREATE, &none).error, EACCES);
    assert_int_equal(file_open("/c", FILE_WRITE, &none).error, ENOENT);
    assert_int_equal(file_open("/x/c", FILE_WRITE | FILE_CREATE, &none).error, ENOENT);
    assert_int_equal(file_open("/a", FILE_WRITE | FILE_NEW, &none).error, EEXIST);
    assert_int_equal(disk_link("/a", "/d").status, IO_OK);
    assert_int_equal(disk_link("/a", "/d").error, EEXIST);
    assert_int_equal(disk_rename("/nothing", "/d").error, ENOENT);
    assert_int_equal(disk_make_directory("/e").status, IO_OK);
    assert_int_equal(disk_make_directory("/e").status, IO_OK);
    sim_disk_budget(8192, 5);
    assert_int_equal(disk_space("/", &space).status, IO_OK);
    assert_int_equal(space.bytes_free, 4096);
    assert_int_equal(space.inodes_free, 2);
    assert_int_equal(file_reserve(file, 8192).status, IO_OK);
    assert_int_equal(file_reserve(file, 8193).error, ENOSPC);
    assert_int_equal(write_text(file, "x", 8192).error, ENOSPC);
    assert_int_equal(file_truncate(file, 1).status, IO_OK);
    assert_int_equal(write_text(file, "x", 4096).status, IO_OK);
    sim_disk_read_only(true);
    assert_int_equal(write_text(file, "x", 0).error, EROFS);
    assert_int_equal(disk_remove("/a").error, EROFS);
    file_close(file);
    return 0;
}

static void the_disk_fails_as_ordered(void **state)
{
    assert_null(*state);
    for (uint64_t seed = 0; seed < 50; seed++) {
        sim_open(seed);
        assert_int_equal(world_run(faults_main, NULL, 0), 0);
        assert_true(sim_disk_flip("/a", 0, 0));
        assert_int_equal(sim_disk_get("/a").at[0], 's' ^ 1);
        sim_close();
    }
}

/* Twenty values, each synced before it counts; the machine dies at any step. */
static uint64_t acknowledged;

static int counting_main(void *argument)
{
    struct file *file = open_file("/d/count", FILE_WRITE);

    assert_null(argument);
    for (uint64_t value = 1; value <= 20; value++) {
        const struct bytes parts[] = {bytes_of(&value, sizeof value)};

        assert_int_equal(file_write_at(file, parts, 1, 0).status, IO_OK);
        assert_int_equal(file_sync(file).status, IO_OK);
        acknowledged = value;
    }
    file_close(file);
    return 0;
}

static void what_was_acknowledged_survives_every_step(void **state)
{
    unsigned crashes = 0;

    assert_null(*state);
    for (uint64_t seed = 0; seed < 1000; seed++) {
        uint64_t found = 0;

        sim_open(seed);
        sim_disk_put("/d/count", BYTES_LITERAL("\0\0\0\0\0\0\0\0"));
        sim_crash_at_step(1 + seed % 50, seed % 3 ? SIM_POWER_CUT : SIM_KILL);
        acknowledged = 0;
        crashes += world_run(counting_main, NULL, 0) == SIM_CRASHED;
        memcpy(&found, sim_disk_get("/d/count").at, sizeof found);
        assert_true(found == acknowledged || found == acknowledged + 1);
        sim_close();
    }
    assert_true(crashes > 700);
}

/* ------------------------------------------------------------------ SQLite */

enum { ROWS = 12 };
static int rows_done;

static bool run_sql(sqlite3 *db, const char *sql)
{
    return sqlite3_exec(db, sql, NULL, NULL, NULL) == SQLITE_OK;
}

/*
 * A transaction of two rows, acknowledged when COMMIT has returned. EXTRA is FULL for a WAL;
 * without one it also syncs the directory after the journal is gone, which FULL leaves to luck.
 */
static int sql_main(void *argument)
{
    sqlite3 *db = NULL;

    if (sqlite3_open_v2("/db/index", &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE,
                        disk_sqlite_vfs()) == SQLITE_OK &&
        run_sql(db, argument) && run_sql(db, "PRAGMA synchronous=EXTRA") &&
        run_sql(db, "PRAGMA wal_autocheckpoint=4") &&
        run_sql(db, "CREATE TABLE IF NOT EXISTS t(n INTEGER PRIMARY KEY, half, pad)"))
        while (rows_done < ROWS) {
            char sql[300];

            snprintf(sql, sizeof sql,
                     "BEGIN IMMEDIATE; INSERT INTO t VALUES(%d,1,zeroblob(900));"
                     "INSERT INTO t VALUES(%d,2,zeroblob(2000)); COMMIT",
                     2 * rows_done + 1, 2 * rows_done + 2);
            if (!run_sql(db, sql))
                break;
            rows_done++;
            fiber_yield();
        }
    sqlite3_close(db);
    return rows_done == ROWS ? 0 : 1;
}

static int take_text(void *argument, int count, char **values, char **names)
{
    assert_true(count == 1 && names);
    snprintf(argument, 100, "%s", values[0]);
    return 0;
}

static int sql_check_main(void *argument)
{
    sqlite3 *db = NULL;
    char text[100] = "";

    assert_null(argument);
    if (rows_done == 0)
        return 0;
    assert_int_equal(sqlite3_open_v2("/db/index", &db, SQLITE_OPEN_READWRITE, disk_sqlite_vfs()),
                     SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, "PRAGMA integrity_check", take_text, text, NULL), SQLITE_OK);
    assert_string_equal(text, "ok");
    assert_int_equal(sqlite3_exec(db, "SELECT count(*) FROM t", take_text, text, NULL), SQLITE_OK);
    const int rows = (int)strtol(text, NULL, 10);
    if (rows != 2 * rows_done && rows != 2 * rows_done + 2)
        fail_msg("%d rows after %d acknowledged transactions", rows, rows_done);
    sqlite3_close(db);
    return 0;
}

static uint64_t run_sql_until(uint64_t seed, uint64_t step, enum sim_crash_kind kind, bool wal)
{
    static char wal_mode[] = "PRAGMA journal_mode=WAL",
                rollback_mode[] = "PRAGMA journal_mode=DELETE";

    sim_open(seed);
    sim_disk_make_directory("/db");
    sim_crash_at_step(step, kind);
    rows_done = 0;
    const int code = world_run(sql_main, wal ? wal_mode : rollback_mode, 0);
    if (step == 0)
        assert_int_equal(code, 0);
    const uint64_t steps = sim_disk_steps();
    sim_crash_at_step(0, kind);
    assert_int_equal(world_run(sql_check_main, NULL, 0), 0);
    sim_close();
    return steps;
}

static void sqlite_keeps_what_it_committed(void **state)
{
    assert_null(*state);
    for (int wal = 0; wal < 2; wal++) {
        const uint64_t steps = run_sql_until(1, 0, SIM_POWER_CUT, wal);

        assert_true(steps > 50);
        for (uint64_t step = 1; step <= steps; step++)
            for (uint64_t round = 0; round < 3; round++)
                run_sql_until(step * 10 + round, step, round ? SIM_POWER_CUT : SIM_KILL, wal);
    }
}

static void sqlite_is_deterministic(void **state)
{
    uint64_t hashes[2];
    static char mode[] = "PRAGMA journal_mode=WAL";

    assert_null(*state);
    for (int i = 0; i < 2; i++) {
        sim_open(99);
        sim_disk_make_directory("/db");
        rows_done = 0;
        assert_int_equal(world_run(sql_main, mode, 0), 0);
        hashes[i] = sim_trace_hash();
        sim_close();
    }
    assert_true(hashes[0] == hashes[1]);
}

/* ------------------------------------------------------------------ names */

static int zone_main(void *argument)
{
    char why[256];
    struct arena arena = ARENA_WITH_LIMIT(MIB);
    struct dns_answer answer;
    struct mail_hosts hosts;
    struct bytes name;
    struct ip_address ip;
    struct resolver *resolver =
        resolver_open(&(struct resolver_settings){.timeout_us = US_PER_S}, why, sizeof why);

    assert_null(argument);
    struct lookup lookup =
        resolve_ask(resolver, &arena, BYTES_LITERAL("A.Example."), DNS_A, &answer);
    assert_int_equal(lookup.status, LOOKUP_FOUND);
    assert_int_equal(answer.count, 2);
    lookup = resolve_ask(resolver, &arena, BYTES_LITERAL("a.example"), DNS_TXT, &answer);
    assert_true(lookup.status == LOOKUP_ABSENT && !answer.nxdomain);
    lookup = resolve_ask(resolver, &arena, BYTES_LITERAL("b.example"), DNS_A, &answer);
    assert_true(lookup.status == LOOKUP_ABSENT && answer.nxdomain);
    lookup = resolve_ask(resolver, &arena, BYTES_LITERAL("www.example"), DNS_A, &answer);
    assert_int_equal(answer.count, 2);
    lookup = resolve_ask(resolver, &arena, BYTES_LITERAL("slow.example"), DNS_A, &answer);
    assert_true(lookup.status == LOOKUP_FAILED && lookup.reason == LOOKUP_REASON_TIMEOUT);
    lookup = resolve_ask(resolver, &arena, BYTES_LITERAL("sick.example"), DNS_A, &answer);
    assert_true(lookup.status == LOOKUP_FAILED && lookup.reason == LOOKUP_REASON_UNAVAILABLE);
    lookup = resolve_mail_hosts(resolver, &arena, BYTES_LITERAL("example"), &hosts);
    assert_int_equal(lookup.status, LOOKUP_FOUND);
    assert_int_equal(hosts.count, 2);
    assert_true(bytes_equal_text(hosts.hosts[0].name, "a.example"));
    assert_true(ip_parse(BYTES_LITERAL("192.0.2.1"), &ip));
    lookup = resolve_reverse(resolver, &arena, &ip, &name);
    assert_int_equal(lookup.status, LOOKUP_FOUND);
    assert_true(bytes_equal_text(name, "a.example"));
    arena_clear(&arena);
    resolver_close(resolver);
    return 0;
}

static void names_resolve(void **state)
{
    assert_null(*state);
    sim_open(5);
    sim_zone_add("a.example", "A", "192.0.2.1");
    sim_zone_add("a.example", "A", "192.0.2.2");
    sim_zone_add("www.example", "CNAME", "a.example");
    sim_zone_add("example", "MX", "20 www.example");
    sim_zone_add("example", "MX", "10 a.example.");
    sim_zone_add("1.2.0.192.in-addr.arpa", "PTR", "a.example");
    sim_zone_fault("slow.example", SIM_ZONE_TIMEOUT, 0);
    sim_zone_fault("sick.example", SIM_ZONE_SERVFAIL, 0);
    assert_int_equal(world_run(zone_main, NULL, 0), 0);
    sim_close();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_seed_same_trace),
        cmocka_unit_test(a_reset_strikes_where_it_was_ordered),
        cmocka_unit_test(the_network_answers_as_a_kernel),
        cmocka_unit_test(scripts_are_played),
        cmocka_unit_test(datagrams_pass),
        cmocka_unit_test(time_is_virtual),
        cmocka_unit_test(a_power_cut_takes_what_was_not_synced_and_only_that),
        cmocka_unit_test(a_kill_leaves_the_page_cache),
        cmocka_unit_test(a_rename_is_whole_and_durable_only_when_synced),
        cmocka_unit_test(a_failed_sync_is_never_made_good),
        cmocka_unit_test(the_disk_fails_as_ordered),
        cmocka_unit_test(what_was_acknowledged_survives_every_step),
        cmocka_unit_test(sqlite_keeps_what_it_committed),
        cmocka_unit_test(sqlite_is_deterministic),
        cmocka_unit_test(names_resolve),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
