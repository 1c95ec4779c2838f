/*
 * receive in the simulated world: every talk under several seeds (the network cuts and delays as it
 * likes), the same seed twice, and what only virtual time can show: idle and slow clients, the
 * longest session, a stop that nobody helps.
 */
#include "world_check.h"

#include "receive_talks.h"
#include "sim/sim.h"

enum { SEEDS = 5 };

static int talks_main(void *unused)
{
    const struct config config = doors_config();
    struct receive *receive = doors_open(&config);
    const struct talk_house rooms = {address_of, receive};

    (void)unused;
    if (!receive)
        return 1;
    for (unsigned i = 0; i < talk_count; i++) {
        play_one(&talks[i], &rooms, false);
        play_one(&talks[i], &rooms, true);
    }
    CHECK(talk_count > 10);
    receive_stop(receive, deadline_in(10 * US_PER_S));
    CHECK(receive_session_count(receive) == 0);
    receive_close(receive);
    return 0;
}

static uint64_t hash_of(uint64_t seed, int (*main)(void *argument))
{
    sim_open(seed);
    in_world(main, NULL, 2);
    const uint64_t hash = sim_trace_hash();
    sim_close();
    return hash;
}

static void test_talks(void **unused)
{
    uint64_t hashes[SEEDS];

    (void)unused;
    for (uint64_t seed = 0; seed < SEEDS; seed++)
        hashes[seed] = hash_of(seed, talks_main);
    assert_true(hashes[0] == hash_of(0, talks_main)); /* the same to the byte */
    assert_true(hashes[0] != hashes[1]);
}

/* ------------------------------------------------------------------ time */

static struct stream *client_says(const struct receive *receive, const char *said)
{
    struct stream *stream = NULL;
    const struct io_result dialled =
        stream_dial(receive_address(receive, "smtp"), NULL, deadline_in(US_PER_S), &stream);
    CHECK(dialled.status == IO_OK);
    const struct io_result written =
        stream_write(stream, bytes_of_text(said), deadline_in(US_PER_S));
    CHECK(written.status == IO_OK);
    return stream;
}

/* Everything until the end of the connection; when it ended, in *ended_us. */
static struct buffer hears_all(struct stream *stream, uint64_t *ended_us)
{
    struct buffer heard = BUFFER_WITH_LIMIT(64 * KIB);
    uint8_t piece[256];

    for (;;) {
        const struct io_result read = stream_read(stream, (struct span){piece, sizeof piece},
                                                  deadline_in(UINT64_C(86400) * US_PER_S));
        if (read.status != IO_OK)
            break;
        *ended_us = clock_now_us();
        buffer_add(&heard, bytes_of(piece, read.count));
    }
    stream_close(stream);
    return heard;
}

/* Does the session end with this reply, between these seconds after it was opened? */
static bool ends_with(struct stream *stream, const char *reply, uint64_t from_s, uint64_t to_s)
{
    const uint64_t start_us = clock_now_us();
    uint64_t ended_us = start_us;
    CLEANUP(buffer_free) struct buffer heard = hears_all(stream, &ended_us);
    const uint64_t took_s = (ended_us - start_us) / US_PER_S;
    const struct bytes all = buffer_view(&heard);

    if (bytes_find(all, bytes_of_text(reply)) < all.count && took_s >= from_s && took_s <= to_s)
        return true;
    fprintf(stderr, "after %llu s: %.*s\n", (unsigned long long)took_s, BYTES_PRINT(all));
    return false;
}

static int times_main(void *unused)
{
    struct config config = doors_config();

    (void)unused;
    config.limits.session_us = UINT64_C(3600) * US_PER_S;
    struct receive *receive = doors_open(&config);
    if (!receive)
        return 1;
    CHECK(ends_with(client_says(receive, ""), "421 4.4.2 Idle too long", 300, 301));
    CHECK(ends_with(client_says(receive, GREETING "N"), "(client.idle)", 300, 301));
    CHECK(ends_with(client_says(receive, GREETING ENVELOPE "DATA\r\nS: x\r\n"), "(client.idle)",
                    300, 301));
    CHECK(ends_with(client_says(receive, GREETING ENVELOPE "BDAT 100\r\nS: x\r\n"), "(client.idle)",
                    300, 301));
    CHECK(house.stored_count == 0);
    receive_stop(receive, deadline_in(10 * US_PER_S));
    receive_close(receive);
    return 0;
}

struct dripper {
    struct stream *stream;
    uint64_t every_us;
    const char *text;
    bool stopped;
    struct gate gate;
};

static void drip_main(void *argument)
{
    struct dripper *dripper = argument;
    const size_t count = strlen(dripper->text);

    for (size_t i = 0; !dripper->stopped; i++) {
        const struct io_result written = stream_write(
            dripper->stream, bytes_of(dripper->text + i % count, 1), deadline_in(US_PER_S));
        if (written.status != IO_OK || fiber_sleep_until(deadline_in(dripper->every_us)) != IO_OK)
            break;
    }
    gate_pass(&dripper->gate);
}

/* Reads while a fiber writes an octet now and then: how long does the server bear it? */
static bool drip_ends(struct receive *receive, const char *said, uint64_t from_s, uint64_t to_s)
{
    const uint64_t start_us = clock_now_us();
    struct dripper dripper = {.every_us = 10 * US_PER_S, .text = "x", .gate = {.left = 1}};
    CLEANUP(buffer_free) struct buffer heard = BUFFER_WITH_LIMIT(64 * KIB);
    uint8_t piece[256];

    dripper.stream = client_says(receive, said);
    CHECK(fiber_start("drip", drip_main, &dripper) != NULL);
    for (;;) {
        const struct io_result read =
            stream_read(dripper.stream, (struct span){piece, sizeof piece},
                        deadline_in(UINT64_C(86400) * US_PER_S));
        if (read.status != IO_OK)
            break;
        buffer_add(&heard, bytes_of(piece, read.count));
    }
    const uint64_t took_s = (clock_now_us() - start_us) / US_PER_S;
    dripper.stopped = true;
    CHECK(gate_wait(&dripper.gate, 0));
    stream_close(dripper.stream);
    const struct bytes all = buffer_view(&heard);
    if (bytes_find(all, BYTES_LITERAL("421 4.4.2 ")) < all.count && took_s >= from_s &&
        took_s <= to_s)
        return true;
    fprintf(stderr, "after %llu s: %.*s\n", (unsigned long long)took_s, BYTES_PRINT(all));
    return false;
}

/* One octet every ten seconds never meets the wait for a piece; the slowest rate and the time for a
 * whole command end it. */
static int drips_main(void *unused)
{
    const struct config config = doors_config();
    struct receive *receive = doors_open(&config);

    (void)unused;
    if (!receive)
        return 1;
    CHECK(drip_ends(receive, GREETING, 299, 302));
    CHECK(drip_ends(receive, GREETING ENVELOPE "DATA\r\n", 299, 305));
    receive_stop(receive, deadline_in(10 * US_PER_S));
    receive_close(receive);
    return 0;
}

static void run_in_sim(int (*main)(void *argument))
{
    sim_open(7);
    in_world(main, NULL, 1);
    sim_close();
    house_clear();
}

static void test_times(void **unused)
{
    (void)unused;
    run_in_sim(times_main);
}

static void test_drips(void **unused)
{
    (void)unused;
    run_in_sim(drips_main);
}

int main(int count, char **arguments)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_talks),
        cmocka_unit_test(test_times),
        cmocka_unit_test(test_drips),
    };

    load_talks(count > 1 ? arguments[1] : "tests/talk");
    observe_configure(LOG_NONE, LOG_ERROR);
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    for (unsigned i = 0; i < talk_count; i++)
        buffer_free(&talks[i].text);
    return failed;
}
