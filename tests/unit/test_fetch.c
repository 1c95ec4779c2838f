/*
 * What libcurl's seam makes of servers: a real TLS server of this program's own, on loopback, that answers each
 * connection by the next row of a table.
 */
#include "world_check.h"

#include <string.h>
#include <unistd.h>

#include "crypto/crypto.h"
#include "fetch/fetch.h"

struct server {
    struct tls_context *tls;
    struct listener *listener;
    const char *answer; /* NULL: silence */
    char asked[2048];
    char root[64], certificate[96], key[96];
    unsigned served;
};

static void serve_one(struct server *server, struct stream **stream)
{
    struct tls_facts facts;
    size_t count = 0;

    if (tls_accept(server->tls, stream, SOON_ENOUGH, &facts).status != IO_OK)
        return;
    server->asked[0] = 0;
    while (!strstr(server->asked, "\r\n\r\n")) {
        const struct span room = {(uint8_t *)server->asked + count, sizeof server->asked - 1 - count};
        const struct io_result got = stream_read(*stream, room, SOON_ENOUGH);
        if (got.status != IO_OK)
            return;
        count += got.count;
        server->asked[count] = 0;
    }
    if (!server->answer)
        CHECK(stream_wait_readable(*stream, SOON_ENOUGH).status != IO_TIMEOUT);
    else if (stream_write(*stream, bytes_of_text(server->answer), SOON_ENOUGH).status != IO_OK)
        return;
}

static void server_main(void *argument)
{
    struct server *server = argument;
    struct stream *stream = NULL;

    while (listener_accept(server->listener, DEADLINE_NEVER, &stream).status == IO_OK) {
        serve_one(server, &stream);
        stream_close(stream);
        server->served++;
    }
}

static struct fiber *server_start(struct server *server)
{
    const struct endpoint at = {.family = ENDPOINT_IPV4, .ip = {ENDPOINT_IPV4, {127, 0, 0, 1}}};
    char why[256] = "";

    snprintf(server->root, sizeof server->root, "/tmp/holdfast-fetch-XXXXXX");
    INVARIANT(mkdtemp(server->root));
    snprintf(server->certificate, sizeof server->certificate, "%s/cert.pem", server->root);
    snprintf(server->key, sizeof server->key, "%s/key.pem", server->root);
    INVARIANT(tls_make_self_signed("policy.example", server->certificate, server->key, why, sizeof why));
    server->tls = tls_context_server(server->certificate, server->key, why, sizeof why);
    INVARIANT(server->tls && listener_open(&at, false, &server->listener).status == IO_OK);
    return fiber_start("server", server_main, server);
}

static void server_end(struct server *server, struct fiber *fiber)
{
    fiber_cancel(fiber);
    while (fiber_count() > 1)
        CHECK(fiber_sleep_until(deadline_in(US_PER_MS)) == IO_OK);
    listener_close(server->listener);
    tls_context_free(server->tls);
    unlink(server->certificate);
    unlink(server->key);
    rmdir(server->root);
}

static const struct ip_address LOOPBACK[] = {{ENDPOINT_IPV4, {127, 0, 0, 1}}};

static struct fetch_request request_of(const struct server *server)
{
    return (struct fetch_request){.host = "policy.example",
                                  .path = "/.well-known/mta-sts.txt",
                                  .port = listener_endpoint(server->listener)->port,
                                  .addresses = LOOPBACK,
                                  .address_count = 1,
                                  .authorities = server->certificate,
                                  .deadline_us = SOON_ENOUGH};
}

#define OK_HEAD "HTTP/1.1 200 OK\r\nContent-Type: Text/Plain; charset=utf-8\r\n"

static int answers_main(void *argument UNUSED)
{
    static const struct {
        const char *answer;
        enum fetch_outcome outcome;
        unsigned status;
        const char *body;
    } ROWS[] = {
        {OK_HEAD "Content-Length: 5\r\n\r\nhello", FETCH_ANSWERED, 200, "hello"},
        {OK_HEAD "Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n", FETCH_ANSWERED, 200, "hello"},
        {OK_HEAD "Connection: close\r\n\r\nto the end", FETCH_ANSWERED, 200, "to the end"},
        {"HTTP/1.1 301 Moved\r\nLocation: https://elsewhere.example/\r\nContent-Length: 0\r\n\r\n", FETCH_ANSWERED, 301, ""},
        {"HTTP/1.1 404 No\r\nContent-Length: 2\r\n\r\nno", FETCH_ANSWERED, 404, "no"},
        {OK_HEAD "Content-Length: 17\r\n\r\n12345678901234567", FETCH_FAILED, 0, NULL}, /* over the limit of 16 */
        {OK_HEAD "Content-Length: 9\r\n\r\nshort", FETCH_FAILED, 0, NULL},
        {"220 mx.example ESMTP\r\n", FETCH_FAILED, 0, NULL},
        {"", FETCH_FAILED, 0, NULL},
    };
    struct server server = {0};
    struct fiber *const fiber = server_start(&server);
    struct arena arena = ARENA_WITH_LIMIT(MIB);

    for (size_t i = 0; i < COUNT_OF(ROWS); i++) {
        struct fetch_request request = request_of(&server);
        struct fetch_answer answer;
        request.bytes_max = 16;
        server.answer = ROWS[i].answer;
        fetch_https(&arena, &request, &answer);
        if (answer.outcome != ROWS[i].outcome || answer.status != ROWS[i].status)
            fprintf(stderr, "row %zu: %d %u %s\n", i, (int)answer.outcome, answer.status, answer.why);
        CHECK(answer.outcome == ROWS[i].outcome && answer.status == ROWS[i].status);
        CHECK(!ROWS[i].body || bytes_equal_text(answer.body, ROWS[i].body));
        CHECK((answer.why[0] == 0) == (answer.outcome == FETCH_ANSWERED));
        CHECK(answer.status != 200 || bytes_equal_text(answer.type, "text/plain"));
        CHECK(bytes_starts_with(bytes_of_text(server.asked),
                                BYTES_LITERAL("GET /.well-known/mta-sts.txt HTTP/1.1\r\nHost: policy.example:")));
        arena_clear(&arena);
    }
    CHECK(server.served == COUNT_OF(ROWS)); /* the redirect was not followed */
    server_end(&server, fiber);
    return 0;
}

static int trust_main(void *argument UNUSED)
{
    struct server server = {.answer = OK_HEAD "Content-Length: 5\r\n\r\nhello"};
    struct fiber *const fiber = server_start(&server);
    struct arena arena = ARENA_WITH_LIMIT(MIB);
    struct fetch_request request = request_of(&server);
    struct fetch_answer answer;

    request.authorities = NULL; /* signed by nobody that the system trusts */
    fetch_https(&arena, &request, &answer);
    CHECK(answer.outcome == FETCH_UNTRUSTED && answer.body.count == 0);
    request = request_of(&server);
    request.host = "other.example";
    fetch_https(&arena, &request, &answer);
    CHECK(answer.outcome == FETCH_UNTRUSTED && answer.body.count == 0);
    request = request_of(&server);
    request.address_count = 0;
    fetch_https(&arena, &request, &answer);
    CHECK(answer.outcome == FETCH_FAILED);
    request = request_of(&server);
    request.port = 1;
    fetch_https(&arena, &request, &answer);
    CHECK(answer.outcome == FETCH_FAILED && answer.why[0]);
    arena_clear(&arena);
    server_end(&server, fiber);
    return 0;
}

/* Silence ends at the deadline; and a cancelled fiber comes back long before it. */
struct waiting {
    struct server *server;
    struct fetch_answer answer;
    bool ended;
};

static void waiting_main(void *argument)
{
    struct waiting *waiting = argument;
    struct fetch_request request = request_of(waiting->server);
    struct arena arena = ARENA_WITH_LIMIT(MIB);

    fetch_https(&arena, &request, &waiting->answer);
    CHECK(fiber_cancelled());
    arena_clear(&arena);
    waiting->ended = true;
}

static int silence_main(void *argument UNUSED)
{
    struct server server = {0};
    struct fiber *const fiber = server_start(&server);
    struct waiting waiting = {.server = &server};
    struct arena arena = ARENA_WITH_LIMIT(MIB);
    struct fetch_request request = request_of(&server);
    struct fetch_answer answer;

    request.deadline_us = deadline_in(300 * US_PER_MS);
    fetch_https(&arena, &request, &answer);
    CHECK(answer.outcome == FETCH_FAILED && answer.why[0]);
    struct fiber *const other = fiber_start("waiting", waiting_main, &waiting);
    CHECK(fiber_sleep_until(deadline_in(50 * US_PER_MS)) == IO_OK);
    fiber_cancel(other);
    const uint64_t patience_us = deadline_in(20 * US_PER_S);
    while (!waiting.ended && clock_now_us() < patience_us)
        CHECK(fiber_sleep_until(deadline_in(US_PER_MS)) == IO_OK);
    CHECK(waiting.ended && waiting.answer.outcome == FETCH_FAILED);
    arena_clear(&arena);
    server_end(&server, fiber);
    return 0;
}

static void test_answers(void **state UNUSED) { in_world(answers_main, NULL, 1); }
static void test_trust(void **state UNUSED) { in_world(trust_main, NULL, 1); }
static void test_silence(void **state UNUSED) { in_world(silence_main, NULL, 1); }

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_answers), cmocka_unit_test(test_trust), cmocka_unit_test(test_silence)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
