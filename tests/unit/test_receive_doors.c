/*
 * receive as its users see it: doors on several loops, talks over real sockets of the kernel world,
 * a full house, and stopping with clients at every point of the dialogue.
 */
#include "world_check.h"

#include "receive_talks.h"

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

/* ------------------------------------------------------------------ a full house */

/* Reads until `text` was said or the connection ends. */
static bool hears(struct stream *stream, const char *text)
{
    CLEANUP(buffer_free) struct buffer heard = BUFFER_WITH_LIMIT(64 * KIB);
    uint8_t octet[1];

    for (;;) {
        const struct bytes all = buffer_view(&heard);
        if (bytes_find(all, bytes_of_text(text)) < all.count)
            return true;
        const struct io_result read = stream_read(stream, (struct span){octet, 1}, SOON_ENOUGH);
        if (read.status != IO_OK)
            return false;
        buffer_add(&heard, bytes_of(octet, 1));
    }
}

static struct stream *client_of(const struct receive *receive, const char *said, const char *reply)
{
    struct stream *stream = NULL;
    const struct io_result dialled =
        stream_dial(receive_address(receive, "smtp"), NULL, SOON_ENOUGH, &stream);

    CHECK(dialled.status == IO_OK);
    const struct io_result written = stream_write(stream, bytes_of_text(said), SOON_ENOUGH);
    CHECK(written.status == IO_OK);
    CHECK(hears(stream, reply));
    return stream;
}

static int full_main(void *unused)
{
    struct config config = doors_config();
    struct stream *clients[3] = {0};

    (void)unused;
    config.limits.connections = 2;
    struct receive *receive = doors_open(&config);
    if (!receive)
        return 1;
    clients[0] = client_of(receive, "NOOP\r\n", "250 2.0.0 ");
    clients[1] = client_of(receive, "NOOP\r\n", "250 2.0.0 ");
    clients[2] = client_of(receive, "", "421 4.3.2 Server is busy");
    CHECK(!hears(clients[2], "220")); /* and closed */
    stream_close(clients[2]);
    stream_close(clients[0]);
    /* The place is free again as soon as the session has seen the end. */
    while (receive_session_count(receive) > 1)
        fiber_yield();
    clients[0] = client_of(receive, "QUIT\r\n", "221 2.0.0 ");
    stream_close(clients[0]);
    stream_close(clients[1]);
    receive_stop(receive, deadline_in(10 * US_PER_S));
    CHECK(receive_session_count(receive) == 0);
    receive_close(receive);
    return 0;
}

/* ------------------------------------------------------------------ stopping */

struct stop {
    struct receive *receive;
    struct gate gate;
    uint64_t deadline_us;
};

static void stop_main(void *argument)
{
    struct stop *stop = argument;

    receive_stop(stop->receive, stop->deadline_us);
    gate_pass(&stop->gate);
}

/* Idle clients are told at once; one in the middle of a body may end it, and is told then. */
static int stopping_main(void *unused)
{
    const struct config config = doors_config();
    struct receive *receive = doors_open(&config);

    (void)unused;
    if (!receive)
        return 1;
    struct stream *fresh = client_of(receive, "", "220 ");
    struct stream *idle = client_of(receive, GREETING, "250 HELP");
    struct stream *busy = client_of(receive, GREETING ENVELOPE "DATA\r\n", "354 ");
    struct stop stop = {receive, {.left = 1}, deadline_in(30 * US_PER_S)};
    CHECK(fiber_start("stop", stop_main, &stop) != NULL);
    CHECK(hears(fresh, "421 4.3.2 Server is shutting down"));
    CHECK(hears(idle, "(server.stopping)"));
    const struct io_result ended =
        stream_write(busy, BYTES_LITERAL("S: x\r\n\r\n.\r\nNOOP\r\n"), SOON_ENOUGH);
    CHECK(ended.status == IO_OK);
    CHECK(hears(busy, "250 2.0.0 Accepted as "));
    CHECK(hears(busy, "421 4.3.2 "));
    CHECK(house.stored_count == 1);
    stream_close(fresh);
    stream_close(idle);
    stream_close(busy);
    CHECK(gate_wait(&stop.gate, 0));
    CHECK(receive_session_count(receive) == 0);
    receive_close(receive);
    house_clear();
    return 0;
}

/* One that never ends its body is told at the deadline of the stop, and nothing is stored. */
static int stopping_late_main(void *unused)
{
    const struct config config = doors_config();
    struct receive *receive = doors_open(&config);

    (void)unused;
    if (!receive)
        return 1;
    struct stream *busy = client_of(receive, GREETING ENVELOPE "DATA\r\nhalf", "354 ");
    receive_stop(receive, clock_now_us());
    CHECK(receive_session_count(receive) == 0);
    CHECK(hears(busy, "421 4.3.2 Server is shutting down"));
    CHECK(house.stored_count == 0);
    stream_close(busy);
    receive_close(receive);
    house_clear();
    return 0;
}

/* An address that is taken is said with its name, and nothing is left open. */
static int taken_main(void *unused)
{
    struct config config = doors_config();
    struct listener *listener = NULL;
    char why[256] = "";

    (void)unused;
    const struct io_result opened = listener_open(&listens[0].address, false, &listener);
    CHECK(opened.status == IO_OK);
    listens[1].address = *listener_endpoint(listener);
    const struct receive_settings settings = {.config = &config};
    CHECK(receive_open(&settings, why, sizeof why) == NULL);
    CHECK(strstr(why, "listen lmtp on 127.0.0.1:") == why);
    listener_close(listener);
    return 0;
}

static void test_talks(void **unused)
{
    (void)unused;
    in_world(talks_main, NULL, 2);
}
static void test_full(void **unused)
{
    (void)unused;
    in_world(full_main, NULL, 1);
}
static void test_stopping(void **unused)
{
    (void)unused;
    in_world(stopping_main, NULL, 2);
}
static void test_stopping_late(void **unused)
{
    (void)unused;
    in_world(stopping_late_main, NULL, 2);
}
static void test_taken(void **unused)
{
    (void)unused;
    in_world(taken_main, NULL, 2);
}

int main(int count, char **arguments)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_talks),    cmocka_unit_test(test_full),
        cmocka_unit_test(test_stopping), cmocka_unit_test(test_stopping_late),
        cmocka_unit_test(test_taken),
    };

    load_talks(count > 1 ? arguments[1] : "tests/talk");
    observe_configure(LOG_NONE, LOG_ERROR);
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    for (unsigned i = 0; i < talk_count; i++)
        buffer_free(&talks[i].text);
    return failed;
}
