/* Sockets of the kernel world: loopback, and Unix sockets in a fresh directory. */
#include "world_check.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

static char folder[] = "/tmp/holdfast-kernel-XXXXXX";

static struct endpoint loopback(uint16_t port)
{
    struct endpoint at = {0};

    CHECK(endpoint_parse(BYTES_LITERAL("127.0.0.1:0"), &at));
    at.port = port;
    return at;
}

static struct endpoint unix_path(const char *name)
{
    struct endpoint at = {.family = ENDPOINT_UNIX};

    snprintf(at.path, sizeof at.path, "%s/%s", folder, name);
    return at;
}

static struct listener *listen_at(struct endpoint at, bool shared)
{
    struct listener *listener = NULL;
    const struct io_result result = listener_open(&at, shared, &listener);

    if (result.status != IO_OK)
        fprintf(stderr, "listen: %s\n", io_result_text(result));
    CHECK(result.status == IO_OK);
    return listener;
}

static struct stream *dial_to(const struct endpoint *to)
{
    struct stream *stream = NULL;
    const struct io_result result = stream_dial(to, NULL, SOON_ENOUGH, &stream);

    if (result.status != IO_OK)
        fprintf(stderr, "dial: %s\n", io_result_text(result));
    CHECK(result.status == IO_OK && stream != NULL);
    return stream;
}

static struct stream *accept_one(struct listener *listener)
{
    struct stream *stream = NULL;

    CHECK(listener_accept(listener, SOON_ENOUGH, &stream).status == IO_OK && stream != NULL);
    return stream;
}

/* Both ends of a connection over a listener at `at`. */
struct pair {
    struct listener *listener;
    struct stream *client, *server;
};

static struct pair pair_open(struct endpoint at)
{
    struct pair pair = {.listener = listen_at(at, false)};

    pair.client = dial_to(listener_endpoint(pair.listener));
    pair.server = accept_one(pair.listener);
    return pair;
}

static void pair_close(struct pair *pair)
{
    stream_close(pair->client);
    stream_close(pair->server);
    listener_close(pair->listener);
}

/* ------------------------------------------------------------------ echo, many and often */

enum { CLIENTS = 20, MESSAGES = 400, MESSAGE_SIZE = 200 };

struct echo_test {
    struct endpoint at;
    struct gate listening, clients, sessions, servers;
    bool shared;
};
struct echo_session {
    struct echo_test *test;
    struct stream *stream;
};

static void echo_session(void *argument)
{
    struct echo_session *session = argument;
    struct stream *stream = session->stream;
    uint8_t memory[1024];
    struct io_result result;

    for (;;) {
        CHECK(stream_wait_readable(stream, SOON_ENOUGH).status == IO_OK);
        result = stream_read(stream, (struct span){memory, sizeof memory}, SOON_ENOUGH);
        if (result.status != IO_OK)
            break;
        CHECK(stream_write(stream, bytes_of(memory, result.count), SOON_ENOUGH).status == IO_OK);
    }
    CHECK(result.status == IO_END);
    stream_close(stream);
    gate_pass(&session->test->sessions);
    free(session);
}

static void echo_listener(void *argument)
{
    struct echo_test *test = argument;
    struct listener *listener = listen_at(test->at, test->shared);
    struct io_result result;

    test->at = *listener_endpoint(listener);
    gate_pass(&test->listening);
    for (;;) {
        struct stream *stream = NULL;
        result = listener_accept(listener, DEADLINE_NEVER, &stream);
        if (result.status != IO_OK)
            break;
        struct echo_session *session = malloc(sizeof *session);
        *session = (struct echo_session){test, stream};
        CHECK(fiber_start("session", echo_session, session) != NULL);
    }
    CHECK(result.status == IO_CANCELLED);
    listener_close(listener);
    gate_pass(&test->servers);
}

static bool read_exactly(struct stream *stream, struct span into)
{
    for (size_t done = 0; done < into.count;) {
        const struct io_result result =
            stream_read(stream, (struct span){into.at + done, into.count - done}, SOON_ENOUGH);
        if (result.status != IO_OK)
            return false;
        done += result.count;
    }
    return true;
}

static void echo_client(void *argument)
{
    struct echo_test *test = argument;
    struct stream *stream = dial_to(&test->at);
    uint8_t sent[MESSAGE_SIZE], received[MESSAGE_SIZE];

    for (int i = 0; i < MESSAGES; i++) {
        random_fill((struct span){sent, sizeof sent});
        CHECK(stream_write(stream, bytes_of(sent, sizeof sent), SOON_ENOUGH).status == IO_OK);
        CHECK(read_exactly(stream, (struct span){received, sizeof received}));
        CHECK(memcmp(sent, received, sizeof sent) == 0);
    }
    stream_close(stream);
    gate_pass(&test->clients);
}

static int echo_main(void *argument)
{
    struct echo_test *test = argument;
    const unsigned loops = test->shared ? loop_session_count() : 1;
    struct fiber *servers[8];

    test->servers.left = (int)loops;
    for (unsigned i = 0; i < loops; i++) {
        test->listening.left = 1;
        servers[i] = fiber_start_on(loop_session(i), "listener", echo_listener, test);
        CHECK(servers[i] != NULL && gate_wait(&test->listening, 0));
    }
    test->clients.left = test->sessions.left = CLIENTS;
    for (unsigned i = 0; i < CLIENTS; i++)
        CHECK(fiber_start_on(loop_session(i % loop_session_count()), "client", echo_client, test) !=
              NULL);
    CHECK(gate_wait(&test->clients, 0) && gate_wait(&test->sessions, 0));
    for (unsigned i = 0; i < loops; i++)
        fiber_cancel(servers[i]);
    CHECK(gate_wait(&test->servers, 0));
    return 0;
}

static void test_echo_tcp(void **state UNUSED)
{
    struct echo_test test = {.at = loopback(0), .shared = true};

    in_world(echo_main, &test, 2);
}

static void test_echo_unix(void **state UNUSED)
{
    struct echo_test test = {.at = unix_path("echo")};

    in_world(echo_main, &test, 2);
    assert_int_equal(access(test.at.path, F_OK), -1); /* the file goes with the listener */
}

/* ------------------------------------------------------------------ large transfers */

enum { LARGE = 4 * 1024 * 1024 };

static void sends_large(void *argument)
{
    struct stream *stream = argument;
    uint8_t *memory = malloc(LARGE);

    for (size_t i = 0; i < LARGE; i++)
        memory[i] = (uint8_t)(i * 31 >> 3);
    const struct io_result result = stream_write(stream, bytes_of(memory, LARGE), SOON_ENOUGH);
    CHECK(result.status == IO_OK && result.count == LARGE);
    free(memory);
    stream_close(stream);
}

static int large_main(void *argument)
{
    struct pair pair = pair_open(*(struct endpoint *)argument);
    uint8_t memory[3000];
    size_t done = 0;
    bool same = true;
    struct io_result result;

    CHECK(fiber_start("sends", sends_large, pair.client) != NULL);
    for (;;) {
        result = stream_read(pair.server, (struct span){memory, sizeof memory}, SOON_ENOUGH);
        if (result.status != IO_OK)
            break;
        for (size_t i = 0; i < result.count; i++, done++)
            same = same && memory[i] == (uint8_t)(done * 31 >> 3);
    }
    CHECK(result.status == IO_END && done == LARGE && same);
    pair.client = NULL;
    pair_close(&pair);
    return 0;
}

static void test_large(void **state UNUSED)
{
    struct endpoint tcp = loopback(0), local = unix_path("large");

    in_world(large_main, &tcp, 1);
    in_world(large_main, &local, 1);
}

/* ------------------------------------------------------------------ ends of streams */

/* A plain blocking client of the test's own, for what the runtime does not offer. */
static int plain_client(const struct endpoint *to)
{
    const int descriptor = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(to->port)};

    memcpy(&at.sin_addr, to->ip.octets, 4);
    CHECK(connect(descriptor, (struct sockaddr *)&at, sizeof at) == 0);
    return descriptor;
}

/* Data, then the end, arrive together; the other direction still works. */
static int half_close_main(void *argument UNUSED)
{
    struct listener *listener = listen_at(loopback(0), false);
    const int client = plain_client(listener_endpoint(listener));
    uint8_t memory[64];

    CHECK(send(client, "QUIT\r\n", 6, 0) == 6);
    CHECK(shutdown(client, SHUT_WR) == 0);
    struct stream *server = accept_one(listener);
    CHECK(stream_wait_readable(server, SOON_ENOUGH).status == IO_OK);
    struct io_result result = stream_read(server, (struct span){memory, 3}, SOON_ENOUGH);
    CHECK(result.status == IO_OK && result.count == 3);
    result = stream_read(server, (struct span){memory, sizeof memory}, SOON_ENOUGH);
    CHECK(result.status == IO_OK && result.count == 3 && memcmp(memory, "T\r\n", 3) == 0);
    CHECK(stream_wait_readable(server, SOON_ENOUGH).status == IO_OK);
    CHECK(stream_read(server, (struct span){memory, sizeof memory}, SOON_ENOUGH).status == IO_END);
    CHECK(stream_read(server, (struct span){memory, sizeof memory}, SOON_ENOUGH).status == IO_END);
    CHECK(stream_write(server, BYTES_LITERAL("221 bye\r\n"), SOON_ENOUGH).status == IO_OK);
    CHECK(recv(client, memory, sizeof memory, 0) == 9);
    stream_close(server);
    CHECK(recv(client, memory, sizeof memory, 0) == 0);
    close(client);
    listener_close(listener);
    return 0;
}

static int reset_main(void *argument UNUSED)
{
    struct pair pair = pair_open(loopback(0));
    uint8_t memory[8];

    stream_reset(pair.client);
    struct io_result result =
        stream_read(pair.server, (struct span){memory, sizeof memory}, SOON_ENOUGH);
    CHECK(result.status == IO_FAILED && result.error == ECONNRESET);
    result = stream_write(pair.server, BYTES_LITERAL("x"), SOON_ENOUGH);
    CHECK(result.status == IO_FAILED && result.error == EPIPE);
    pair.client = NULL;
    pair_close(&pair);
    return 0;
}

static int deadline_main(void *argument)
{
    struct pair pair = pair_open(*(struct endpoint *)argument);
    uint8_t memory[8];
    const struct span into = {memory, sizeof memory};

    CHECK(stream_read(pair.server, into, deadline_in(US_PER_MS)).status == IO_TIMEOUT);
    CHECK(stream_wait_readable(pair.server, deadline_in(US_PER_MS)).status == IO_TIMEOUT);
    CHECK(stream_write(pair.client, BYTES_LITERAL("late"), SOON_ENOUGH).status == IO_OK);
    const struct io_result result = stream_read(pair.server, into, SOON_ENOUGH);
    CHECK(result.status == IO_OK && result.count == 4);
    /* Nobody reads: the write ends at its deadline and says how far it came. */
    static uint8_t much[LARGE];
    struct io_result written = {.status = IO_OK};
    while (written.status == IO_OK)
        written = stream_write(pair.client, bytes_of(much, sizeof much), deadline_in(US_PER_MS));
    CHECK(written.status == IO_TIMEOUT && written.count < sizeof much);
    pair_close(&pair);
    return 0;
}

static void test_ends(void **state UNUSED)
{
    struct endpoint tcp = loopback(0), local = unix_path("ends");

    in_world(half_close_main, NULL, 1);
    in_world(reset_main, NULL, 1);
    in_world(deadline_main, &tcp, 1);
    in_world(deadline_main, &local, 1);
}

/* ------------------------------------------------------------------ dialling */

/* A listener that accepts nothing and has room for next to nothing: later dials hang. */
static int deaf_listener(struct endpoint *at)
{
    const int descriptor = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t length = sizeof address;

    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    CHECK(bind(descriptor, (struct sockaddr *)&address, sizeof address) == 0);
    CHECK(listen(descriptor, 0) == 0);
    CHECK(getsockname(descriptor, (struct sockaddr *)&address, &length) == 0);
    *at = loopback(ntohs(address.sin_port));
    return descriptor;
}

static int dial_main(void *argument UNUSED)
{
    struct stream *streams[4] = {0};
    struct endpoint to, from = loopback(0);
    struct io_result result = {0};

    /* Refused: a port that was ours a moment ago. */
    struct listener *gone = listen_at(loopback(0), false);
    to = *listener_endpoint(gone);
    listener_close(gone);
    result = stream_dial(&to, NULL, SOON_ENOUGH, &streams[0]);
    CHECK(result.status == IO_FAILED && result.error == ECONNREFUSED && !streams[0]);
    to = unix_path("nobody");
    result = stream_dial(&to, NULL, SOON_ENOUGH, &streams[0]);
    CHECK(result.status == IO_FAILED && result.error == ENOENT && !streams[0]);
    /* From an address of our choice. */
    struct listener *listener = listen_at(loopback(0), false);
    CHECK(ip_parse(BYTES_LITERAL("127.0.0.77"), &from.ip));
    result = stream_dial(listener_endpoint(listener), &from, SOON_ENOUGH, &streams[0]);
    CHECK(result.status == IO_OK);
    streams[1] = accept_one(listener);
    CHECK(ip_equal(&streams[1]->remote.ip, &from.ip));
    CHECK(ip_equal(&streams[0]->local.ip, &from.ip));
    CHECK(streams[1]->remote.port == streams[0]->local.port && streams[0]->local.port != 0);
    CHECK(streams[1]->local.port == listener_endpoint(listener)->port);
    stream_close(streams[0]);
    stream_close(streams[1]);
    listener_close(listener);
    /* Nobody answers. */
    const int deaf = deaf_listener(&to);
    memset(streams, 0, sizeof streams);
    for (size_t i = 0; i < COUNT_OF(streams); i++) {
        result = stream_dial(&to, NULL, deadline_in(20 * US_PER_MS), &streams[i]);
        CHECK(result.status == IO_OK || result.status == IO_TIMEOUT);
    }
    CHECK(result.status == IO_TIMEOUT && !streams[3]);
    for (size_t i = 0; i < COUNT_OF(streams); i++)
        stream_close(streams[i]);
    close(deaf);
    return 0;
}

static void test_dial(void **state UNUSED)
{
    in_world(dial_main, NULL, 1);
}

/* ------------------------------------------------------------------ cancelled in each sleep */

struct cancel_test {
    struct gate gate;
    struct listener *idle_listener;
    struct endpoint deaf;
    struct pair read, wait, write;
    struct datagram *datagram;
    int pipe[2];
    struct stream *dialled;
};

static void cancelled_accept(void *argument)
{
    struct cancel_test *test = argument;
    struct stream *stream = NULL;

    CHECK(listener_accept(test->idle_listener, DEADLINE_NEVER, &stream).status == IO_CANCELLED);
    CHECK(stream == NULL);
    gate_pass(&test->gate);
}

static void cancelled_read(void *argument)
{
    struct cancel_test *test = argument;
    uint8_t memory[8];
    const struct span into = {memory, sizeof memory};

    CHECK(stream_read(test->read.server, into, DEADLINE_NEVER).status == IO_CANCELLED);
    /* Though cancelled, its last words go out. */
    CHECK(stream_write(test->read.server, BYTES_LITERAL("421\r\n"), DEADLINE_NEVER).status ==
          IO_OK);
    gate_pass(&test->gate);
}

static void cancelled_wait(void *argument)
{
    struct cancel_test *test = argument;

    CHECK(stream_wait_readable(test->wait.server, DEADLINE_NEVER).status == IO_CANCELLED);
    gate_pass(&test->gate);
}

static void cancelled_write(void *argument)
{
    struct cancel_test *test = argument;
    static uint8_t much[LARGE];
    struct io_result result = {.status = IO_OK};

    while (result.status == IO_OK)
        result = stream_write(test->write.server, bytes_of(much, sizeof much), DEADLINE_NEVER);
    CHECK(result.status == IO_CANCELLED);
    gate_pass(&test->gate);
}

static void cancelled_dial(void *argument)
{
    struct cancel_test *test = argument;
    struct io_result result = {.status = IO_OK};
    struct stream *streams[8] = {0};
    size_t count = 0;

    while (result.status == IO_OK && count < COUNT_OF(streams))
        result = stream_dial(&test->deaf, NULL, DEADLINE_NEVER, &streams[count++]);
    CHECK(result.status == IO_CANCELLED);
    while (count > 0)
        stream_close(streams[--count]);
    gate_pass(&test->gate);
}

static void cancelled_datagram(void *argument)
{
    struct cancel_test *test = argument;
    uint8_t memory[8];
    const struct span into = {memory, sizeof memory};

    CHECK(datagram_receive(test->datagram, into, DEADLINE_NEVER).status == IO_CANCELLED);
    gate_pass(&test->gate);
}

static void cancelled_descriptor(void *argument)
{
    struct cancel_test *test = argument;

    CHECK(descriptor_wait(test->pipe[0], false, DEADLINE_NEVER).status == IO_CANCELLED);
    gate_pass(&test->gate);
}

static void cancelled_signal(void *argument)
{
    struct cancel_test *test = argument;
    int number = 0;

    CHECK(process_wait_signal(&number, DEADLINE_NEVER) == IO_CANCELLED);
    gate_pass(&test->gate);
}

static int cancel_main(void *argument UNUSED)
{
    fiber_main *const mains[] = {cancelled_accept,     cancelled_read,  cancelled_wait,
                                 cancelled_write,      cancelled_dial,  cancelled_datagram,
                                 cancelled_descriptor, cancelled_signal};
    struct cancel_test test = {.gate = {.left = COUNT_OF(mains)}};
    struct fiber *fibers[COUNT_OF(mains)];
    const int deaf = deaf_listener(&test.deaf);

    test.idle_listener = listen_at(loopback(0), false);
    test.read = pair_open(loopback(0));
    test.wait = pair_open(loopback(0));
    test.write = pair_open(loopback(0));
    CHECK(datagram_open(&test.deaf, &test.datagram).status == IO_OK);
    CHECK(pipe2(test.pipe, O_CLOEXEC) == 0);
    for (size_t i = 0; i < COUNT_OF(mains); i++)
        CHECK((fibers[i] = fiber_start("cancelled", mains[i], &test)) != NULL);
    CHECK(fiber_sleep_until(deadline_in(20 * US_PER_MS)) == IO_OK); /* all of them sleep by now, */
    CHECK(test.gate.left == COUNT_OF(mains)); /* and if one did not yet, it is cancelled early */
    for (size_t i = 0; i < COUNT_OF(mains); i++)
        fiber_cancel(fibers[i]);
    CHECK(gate_wait(&test.gate, 0));
    pair_close(&test.read);
    pair_close(&test.wait);
    pair_close(&test.write);
    listener_close(test.idle_listener);
    datagram_close(test.datagram);
    close(test.pipe[0]);
    close(test.pipe[1]);
    close(deaf);
    return 0;
}

static void test_cancel(void **state UNUSED)
{
    in_world(cancel_main, NULL, 1);
}

/* ------------------------------------------------------------------ descriptors, datagrams */

struct both_ways {
    struct gate gate;
    int descriptor;
};

static void waits_for_data(void *argument)
{
    struct both_ways *test = argument;

    CHECK(descriptor_wait(test->descriptor, false, SOON_ENOUGH).status == IO_OK);
    gate_pass(&test->gate);
}

static void waits_for_room(void *argument)
{
    struct both_ways *test = argument;

    CHECK(descriptor_wait(test->descriptor, true, SOON_ENOUGH).status == IO_OK);
    gate_pass(&test->gate);
}

/* Two fibers wait for the two directions of one foreign descriptor. */
static int descriptor_main(void *argument UNUSED)
{
    struct both_ways test = {.gate = {.left = 2}};
    int pair[2];
    char memory[65536] = {0};

    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) == 0);
    while (send(pair[0], memory, sizeof memory, 0) > 0)
        continue;
    test.descriptor = pair[0];
    CHECK(descriptor_wait(pair[0], false, deadline_in(US_PER_MS)).status == IO_TIMEOUT);
    CHECK(fiber_start("data", waits_for_data, &test) && fiber_start("room", waits_for_room, &test));
    fiber_yield();
    CHECK(test.gate.left == 2);
    while (recv(pair[1], memory, sizeof memory, 0) > 0)
        continue;
    CHECK(gate_wait(&test.gate, 1));
    CHECK(send(pair[1], "x", 1, 0) == 1);
    CHECK(gate_wait(&test.gate, 0));
    CHECK(descriptor_wait(-1, false, SOON_ENOUGH).error == EBADF);
    close(pair[0]);
    close(pair[1]);
    CHECK(descriptor_wait(pair[0], false, SOON_ENOUGH).error == EBADF);
    return 0;
}

static int datagram_main(void *argument UNUSED)
{
    const int server = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in at = {.sin_family = AF_INET}, from;
    socklen_t length = sizeof at;
    struct datagram *question = NULL;
    uint8_t memory[16];
    const struct span into = {memory, sizeof memory};

    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    CHECK(bind(server, (struct sockaddr *)&at, sizeof at) == 0);
    CHECK(getsockname(server, (struct sockaddr *)&at, &length) == 0);
    const struct endpoint to = loopback(ntohs(at.sin_port));
    CHECK(datagram_open(&to, &question).status == IO_OK);
    CHECK(datagram_receive(question, into, deadline_in(US_PER_MS)).status == IO_TIMEOUT);
    CHECK(datagram_send(question, BYTES_LITERAL("A?")).status == IO_OK);
    length = sizeof from;
    CHECK(recvfrom(server, memory, sizeof memory, 0, (struct sockaddr *)&from, &length) == 2);
    CHECK(sendto(server, "12345", 5, 0, (struct sockaddr *)&from, length) == 5);
    CHECK(sendto(server, "12345678901234567", 17, 0, (struct sockaddr *)&from, length) == 17);
    struct io_result result = datagram_receive(question, into, SOON_ENOUGH);
    CHECK(result.status == IO_OK && result.count == 5);
    result = datagram_receive(question, into, SOON_ENOUGH);
    CHECK(result.status == IO_FAILED && result.error == EMSGSIZE);
    close(server);
    CHECK(datagram_send(question, BYTES_LITERAL("A?")).status == IO_OK);
    result = datagram_receive(question, into, SOON_ENOUGH);
    CHECK(result.status == IO_FAILED && result.error == ECONNREFUSED);
    datagram_close(question);
    return 0;
}

static void test_descriptors(void **state UNUSED)
{
    in_world(descriptor_main, NULL, 1);
    in_world(datagram_main, NULL, 1);
}

/* ------------------------------------------------------------------ shortages, other loops */

/* The reserve takes one client at a time, who is marked; the others wait in the backlog. */
static int shortage_main(void *argument UNUSED)
{
    struct listener *listener = listen_at(loopback(0), false);
    const int other = plain_client(listener_endpoint(listener)),
              client = plain_client(listener_endpoint(listener));
    struct rlimit former, none;
    struct stream *stream = NULL, *late = NULL;

    CHECK(getrlimit(RLIMIT_NOFILE, &former) == 0);
    none = former;
    none.rlim_cur = (rlim_t)client; /* no new descriptor can be numbered below it */
    CHECK(setrlimit(RLIMIT_NOFILE, &none) == 0);
    stream = accept_one(listener);
    CHECK(stream->last_descriptor);
    CHECK(listener_accept(listener, deadline_in(20 * US_PER_MS), &late).status == IO_TIMEOUT);
    stream_close(stream);
    CHECK(setrlimit(RLIMIT_NOFILE, &former) == 0);
    stream = accept_one(listener); /* it has waited in the backlog */
    CHECK(!stream->last_descriptor);
    stream_close(stream);
    close(client);
    close(other);
    listener_close(listener);
    return 0;
}

struct foreign {
    struct gate gate;
    struct pair pair;
};

static void opens_pair(void *argument)
{
    struct foreign *foreign = argument;

    foreign->pair = pair_open(loopback(0));
    gate_pass(&foreign->gate);
}

/* What one loop opened may be closed from another one. */
static int foreign_close_main(void *argument UNUSED)
{
    struct foreign foreign = {.gate = {.left = 1}};

    CHECK(fiber_start_on(loop_session(1), "opens", opens_pair, &foreign) != NULL);
    CHECK(gate_wait(&foreign.gate, 0));
    pair_close(&foreign.pair);
    return 0;
}

/* A socket file left behind by a dead server is taken over, one in use is not. */
static int unix_again_main(void *argument UNUSED)
{
    const struct endpoint at = unix_path("again");
    struct listener *first = listen_at(at, false), *second = NULL;
    const struct io_result result = listener_open(&at, false, &second);

    CHECK(result.status == IO_FAILED && result.error == EADDRINUSE);
    char aside[128];
    snprintf(aside, sizeof aside, "%s.aside", at.path);
    CHECK(rename(at.path, aside) == 0);
    listener_close(first);
    CHECK(rename(aside, at.path) == 0);
    second = listen_at(at, false);
    listener_close(second);
    return 0;
}

static void test_listeners(void **state UNUSED)
{
    in_world(shortage_main, NULL, 1);
    in_world(foreign_close_main, NULL, 2);
    in_world(unix_again_main, NULL, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_echo_tcp),    cmocka_unit_test(test_echo_unix),
        cmocka_unit_test(test_large),       cmocka_unit_test(test_ends),
        cmocka_unit_test(test_dial),        cmocka_unit_test(test_cancel),
        cmocka_unit_test(test_descriptors), cmocka_unit_test(test_listeners),
    };

    if (!mkdtemp(folder))
        return 1;
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    rmdir(folder);
    return failed;
}
