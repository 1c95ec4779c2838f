/* The spamd client over a stream in memory: what it sends, and every way an answer can come or
 * fail. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "memory_stream.h"
#include "wire/spamd.h"

#define LITERAL(text)                                                                              \
    {                                                                                              \
        (const uint8_t *)(text), sizeof(text) - 1                                                  \
    }

static struct arena arena = ARENA_WITH_LIMIT(4 * MIB);

static struct io_result read_view(void *argument, struct span into, uint64_t offset)
{
    const struct bytes piece = bytes_slice(*(struct bytes *)argument, offset, into.count);

    if (piece.count > 0)
        memcpy(into.at, piece.at, piece.count);
    return io_ok(piece.count);
}

static struct spamd_verdict scan(struct memory_stream *memory, struct bytes body)
{
    const struct message_source source = {read_view, &body, body.count};

    arena_clear(&arena);
    return spamd_talk_scan(&arena, &memory->stream, &source, DEADLINE_NEVER);
}

#define SPAM                                                                                       \
    "SPAMD/1.1 0 EX_OK\r\nContent-length: 81\r\nSpam: True ; 15.4 / 5.0\r\n\r\n"                   \
    "From: a\nX-Spam-Flag: YES\nX-Spam-Status: Yes, score=15.4\n\ttests=GTUBE\nSubject: x\n\n"
#define HAM "SPAMD/1.1 0 EX_OK\r\nContent-length: 0\r\nSpam: False ; -1.25 / 5.0\r\n\r\n"

static const struct {
    struct bytes answer;
    enum filter_fault fault;
} FAULTS[] = {
    {LITERAL(""), FILTER_FAULT_CRASHED},
    {LITERAL("SPAMD/1.0 75 EX_TEMPFAIL\r\n"), FILTER_FAULT_OVERLOADED},
    {LITERAL("SPAMD/1.0 69 Service Unavailable: TELL\r\n"), FILTER_FAULT_OVERLOADED},
    {LITERAL("SPAMD/1.0 79 Timeout: (30 second timeout)\r\n"), FILTER_FAULT_TIMEOUT},
    {LITERAL("SPAMD/1.0 76 Bad header line: x\r\n"), FILTER_FAULT_MISCONFIGURED},
    {LITERAL("SPAMD/1.0 1 EX_WHAT\r\n"), FILTER_FAULT_GARBLED},
    {LITERAL("HTTP/1.1 400 Bad Request\r\n\r\n"), FILTER_FAULT_GARBLED},
    {LITERAL("stream: OK\0"), FILTER_FAULT_GARBLED},
    {LITERAL("SPAMD/1.1 0 EX_OK\r\nContent-length: 0\r\n\r\n"), FILTER_FAULT_GARBLED},
    {LITERAL("SPAMD/1.1 0 EX_OK\r\nSpam: False ; 1 / 5\r\n\r\n"), FILTER_FAULT_GARBLED},
    {LITERAL(
         "SPAMD/1.1 0 EX_OK\r\nContent-length: 0\r\nContent-length: 0\r\nSpam: No ; 1 / 5\r\n\r\n"),
     FILTER_FAULT_GARBLED},
    {LITERAL("SPAMD/1.1 0 EX_OK\r\nContent-length: 0\r\nSpam: Maybe ; 1 / 5\r\n\r\n"),
     FILTER_FAULT_GARBLED},
    {LITERAL("SPAMD/1.1 0 EX_OK\r\nContent-length: 0\r\nSpam: False ; nan / 5\r\n\r\n"),
     FILTER_FAULT_GARBLED},
    {LITERAL("SPAMD/1.1 0 EX_OK\r\nContent-length: 0\r\nSpam: False ; 1 /\r\n\r\n"),
     FILTER_FAULT_GARBLED},
    {LITERAL("SPAMD/1.1 0 EX_OK\r\nContent-length: 0\r\nSpam: False ; 1 / 5\r\n\r\nX"),
     FILTER_FAULT_GARBLED},
};

static void test_judged(void **state)
{
    (void)state;
    for (size_t fragment = 0; fragment < 9; fragment++) {
        struct memory_stream memory = memory_stream_of(BYTES_LITERAL(SPAM));
        memory.fragment = fragment;
        struct spamd_verdict verdict = scan(&memory, BYTES_LITERAL("body"));
        if (verdict.result != SPAMD_JUDGED)
            fail_msg("fault %d: %.*s", (int)verdict.fault, BYTES_PRINT(verdict.words));
        assert_true(verdict.is_spam);
        assert_true(verdict.score > 15.39 && verdict.score < 15.41);
        assert_true(verdict.threshold > 4.99 && verdict.threshold < 5.01);
        assert_true(bytes_equal_text(verdict.headers, "X-Spam-Flag: YES\r\nX-Spam-Status: Yes, "
                                                      "score=15.4\r\n\ttests=GTUBE\r\n"));
        assert_true(bytes_equal_text(buffer_view(&memory.written),
                                     "HEADERS SPAMC/1.5\r\nContent-length: 4\r\n\r\nbody"));
        buffer_free(&memory.written);
    }
    struct memory_stream memory = memory_stream_of(BYTES_LITERAL(HAM));
    const struct spamd_verdict verdict = scan(&memory, BYTES_EMPTY);
    assert_int_equal(verdict.result, SPAMD_JUDGED);
    assert_false(verdict.is_spam);
    assert_true(verdict.score > -1.26 && verdict.score < -1.24);
    buffer_free(&memory.written);
}

static void test_faults(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT_OF(FAULTS); i++) {
        struct memory_stream memory = memory_stream_of(FAULTS[i].answer);
        const struct spamd_verdict verdict = scan(&memory, BYTES_LITERAL("body"));
        if (verdict.result != SPAMD_FAILED || verdict.fault != FAULTS[i].fault)
            fail_msg("case %zu: %d %d %.*s", i, (int)verdict.result, (int)verdict.fault,
                     BYTES_PRINT(verdict.words));
        buffer_free(&memory.written);
    }
}

static void test_every_prefix(void **state)
{
    const struct bytes whole = BYTES_LITERAL(SPAM);

    (void)state;
    for (size_t most = 0; most < whole.count; most++) {
        struct memory_stream memory = memory_stream_of(bytes_slice(whole, 0, most));
        const struct spamd_verdict verdict = scan(&memory, BYTES_LITERAL("body"));
        assert_int_equal(verdict.result, SPAMD_FAILED);
        assert_int_equal(verdict.fault, most ? FILTER_FAULT_GARBLED : FILTER_FAULT_CRASHED);
        buffer_free(&memory.written);
    }
}

/* It closes while we still send: a reason counts, a score of half a message does not. */
static void test_early_close(void **state)
{
    static uint8_t body[200000];
    static const struct {
        struct bytes answer;
        enum filter_fault fault;
    } cases[] = {
        {LITERAL(HAM), FILTER_FAULT_GARBLED},
        {LITERAL("SPAMD/1.0 75 EX_TEMPFAIL\r\n"), FILTER_FAULT_OVERLOADED},
        {LITERAL(""), FILTER_FAULT_CRASHED},
    };

    (void)state;
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct memory_stream memory = memory_stream_of(cases[i].answer);
        memory.write_limit = 70000;
        const struct spamd_verdict verdict = scan(&memory, bytes_of(body, sizeof body));
        assert_int_equal(verdict.result, SPAMD_FAILED);
        assert_int_equal(verdict.fault, cases[i].fault);
        buffer_free(&memory.written);
    }
}

static void test_ends_of_the_stream(void **state)
{
    static const struct {
        struct io_result result;
        enum filter_fault fault;
    } cases[] = {
        {{.status = IO_TIMEOUT}, FILTER_FAULT_TIMEOUT},
        {{.status = IO_CANCELLED}, FILTER_FAULT_LOCAL},
        {{.status = IO_FAILED, .error = ECONNRESET}, FILTER_FAULT_GARBLED},
        {{.status = IO_FAILED, .error = ENOMEM}, FILTER_FAULT_LOCAL},
    };

    (void)state;
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct memory_stream memory = memory_stream_of(BYTES_LITERAL("SPAMD/1.1 0 EX_OK\r\n"));
        memory.at_end = cases[i].result;
        assert_int_equal(scan(&memory, BYTES_EMPTY).fault, cases[i].fault);
        buffer_free(&memory.written);
    }
}

static void test_endless_answer(void **state)
{
    static uint8_t endless[2 * MIB];
    struct memory_stream memory = memory_stream_of(bytes_of(endless, sizeof endless));

    (void)state;
    memset(endless, 'x', sizeof endless);
    memcpy(endless, "SPAMD/1.1 0 EX_OK\r\n", 19);
    assert_int_equal(scan(&memory, BYTES_EMPTY).fault, FILTER_FAULT_GARBLED);
    buffer_free(&memory.written);
}

static void test_ping(void **state)
{
    static const struct bytes pong = LITERAL("SPAMD/1.5 0 PONG\r\n");

    (void)state;
    for (size_t most = 0; most <= pong.count; most++) {
        struct memory_stream memory = memory_stream_of(bytes_slice(pong, 0, most));
        const struct spamd_verdict verdict =
            spamd_talk_ping(&arena, &memory.stream, DEADLINE_NEVER);
        assert_int_equal(verdict.result == SPAMD_JUDGED, most >= sizeof "SPAMD/1.5 0 PONG" - 1);
        buffer_free(&memory.written);
    }
    arena_clear(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_judged),
        cmocka_unit_test(test_faults),
        cmocka_unit_test(test_every_prefix),
        cmocka_unit_test(test_early_close),
        cmocka_unit_test(test_ends_of_the_stream),
        cmocka_unit_test(test_endless_answer),
        cmocka_unit_test(test_ping),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
