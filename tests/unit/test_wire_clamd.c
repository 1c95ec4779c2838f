/* The clamd client over a stream in memory: what it sends, and every way an answer can come or
 * fail. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "memory_stream.h"
#include "wire/clamd.h"

#define LITERAL(text)                                                                              \
    {                                                                                              \
        (const uint8_t *)(text), sizeof(text) - 1                                                  \
    }

static struct arena arena = ARENA_WITH_LIMIT(MIB);

/* At most so much at once, as a body's extents in the spool have their ends. */
enum { PIECE_BYTES = 10000 };

static struct io_result read_view(void *argument, struct span into, uint64_t offset)
{
    const struct bytes piece =
        bytes_slice(*(struct bytes *)argument, offset, MIN_OF(into.count, (size_t)PIECE_BYTES));

    if (piece.count > 0)
        memcpy(into.at, piece.at, piece.count);
    return (struct io_result){.status = IO_OK, .count = piece.count};
}

static struct clamd_verdict scan(struct memory_stream *memory, struct bytes body)
{
    const struct message_source source = {read_view, &body, body.count};

    arena_clear(&arena);
    return clamd_talk_scan(&arena, &memory->stream, &source, DEADLINE_NEVER);
}

static const struct {
    struct bytes answer;
    enum clamd_result result;
    enum filter_fault fault;
    const char *words; /* NULL: not looked at */
} ANSWERS[] = {
    {LITERAL("stream: OK\0"), CLAMD_CLEAN, FILTER_FAULT_NONE, ""},
    {LITERAL("stream: OK\n"), CLAMD_CLEAN, FILTER_FAULT_NONE, ""},
    {LITERAL("stream: Eicar-Signature FOUND\0"), CLAMD_FOUND, FILTER_FAULT_NONE, "Eicar-Signature"},
    {LITERAL("stream: a\r b FOUND\0"), CLAMD_FOUND, FILTER_FAULT_NONE, "a? b"},
    {LITERAL("INSTREAM size limit exceeded. ERROR\0"), CLAMD_TOO_LARGE, FILTER_FAULT_NONE, NULL},
    {LITERAL("stream: Can't allocate memory ERROR\0"), CLAMD_ERROR, FILTER_FAULT_NONE,
     "stream: Can't allocate memory ERROR"},
    {LITERAL(""), CLAMD_FAILED, FILTER_FAULT_CRASHED, NULL},
    {LITERAL("stream: OK"), CLAMD_FAILED, FILTER_FAULT_GARBLED, NULL},
    {LITERAL("stream: FOUND\0"), CLAMD_FAILED, FILTER_FAULT_GARBLED, NULL},
    {LITERAL("stream:  FOUND\0"), CLAMD_FAILED, FILTER_FAULT_GARBLED, NULL},
    {LITERAL("stream: OKAY\0"), CLAMD_FAILED, FILTER_FAULT_GARBLED, NULL},
    {LITERAL("OK\0"), CLAMD_FAILED, FILTER_FAULT_GARBLED, NULL},
    {LITERAL("\0"), CLAMD_FAILED, FILTER_FAULT_GARBLED, NULL},
    {LITERAL("HTTP/1.1 400 Bad Request\r\n\r\n"), CLAMD_FAILED, FILTER_FAULT_GARBLED, NULL},
    {LITERAL("stream: OK\0stream: Eicar FOUND\0"), CLAMD_FAILED, FILTER_FAULT_GARBLED, NULL},
};

static void test_answers(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT_OF(ANSWERS); i++) {
        for (size_t fragment = 0; fragment < 4; fragment++) {
            struct memory_stream memory = memory_stream_of(ANSWERS[i].answer);

            /* What lies behind a whole answer shows only when it comes with it. */
            if (fragment > 0 && i + 1 == COUNT_OF(ANSWERS))
                continue;
            memory.fragment = fragment;
            const struct clamd_verdict verdict = scan(&memory, BYTES_LITERAL("body"));
            if (verdict.result != ANSWERS[i].result || verdict.fault != ANSWERS[i].fault)
                fail_msg("case %zu: result %d, fault %d", i, (int)verdict.result,
                         (int)verdict.fault);
            if (ANSWERS[i].words)
                assert_true(bytes_equal_text(verdict.words, ANSWERS[i].words));
            buffer_free(&memory.written);
        }
    }
}

/* No prefix of an answer is ever clean, nor any answer that came without its end. */
static void test_truncated_answers(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT_OF(ANSWERS); i++) {
        for (size_t length = 0; length < ANSWERS[i].answer.count; length++) {
            struct memory_stream memory =
                memory_stream_of(bytes_slice(ANSWERS[i].answer, 0, length));
            const struct clamd_verdict verdict = scan(&memory, BYTES_LITERAL("body"));

            if (verdict.result == CLAMD_CLEAN)
                assert_int_equal(length, sizeof "stream: OK");
            if (length == 0)
                assert_int_equal(verdict.fault, FILTER_FAULT_CRASHED);
            buffer_free(&memory.written);
        }
    }
}

static void test_what_is_sent(void **state)
{
    static uint8_t body[150000];
    static const size_t sizes[] = {0, 1, 65535, 65536, 65537, 131072, sizeof body};

    (void)state;
    for (size_t i = 0; i < sizeof body; i++)
        body[i] = (uint8_t)(i * 31 >> 3);
    for (size_t i = 0; i < COUNT_OF(sizes); i++) {
        struct memory_stream memory = memory_stream_of(BYTES_LITERAL("stream: OK\0"));
        struct buffer got = BUFFER_WITH_LIMIT(MIB);

        assert_int_equal(scan(&memory, bytes_of(body, sizes[i])).result, CLAMD_CLEAN);
        struct reader reader = READER_OF(buffer_view(&memory.written));
        assert_true(bytes_equal(reader_bytes(&reader, 10), bytes_of("zINSTREAM", 10)));
        for (uint32_t count; (count = reader_u32(&reader)) > 0;)
            buffer_add(&got, reader_bytes(&reader, count));
        assert_false(reader.failed);
        assert_true(reader_at_end(&reader));
        assert_true(bytes_equal(buffer_view(&got), bytes_of(body, sizes[i])));
        buffer_free(&got);
        buffer_free(&memory.written);
    }
}

static struct clamd_verdict scan_with_writes_cut(const char *answer, size_t count, int error)
{
    static uint8_t body[200000];
    struct memory_stream memory = memory_stream_of(bytes_of(answer, count));

    memory.write_limit = 70000;
    memory.write_fault = (struct io_result){.status = IO_FAILED, .error = error};
    const struct clamd_verdict verdict = scan(&memory, bytes_of(body, sizeof body));
    buffer_free(&memory.written);
    return verdict;
}

/* clamd closes while we still send: what it said before counts, but an OK about half a message not.
 */
static void test_early_close(void **state)
{
    static const char limit[] = "INSTREAM size limit exceeded. ERROR";
    static const char found[] = "stream: Eicar FOUND", clean[] = "stream: OK";

    (void)state;
    assert_int_equal(scan_with_writes_cut(limit, sizeof limit, EPIPE).result, CLAMD_TOO_LARGE);
    assert_int_equal(scan_with_writes_cut(found, sizeof found, ECONNRESET).result, CLAMD_FOUND);
    assert_int_equal(scan_with_writes_cut(clean, sizeof clean, EPIPE).fault, FILTER_FAULT_GARBLED);
    assert_int_equal(scan_with_writes_cut("", 0, EPIPE).fault, FILTER_FAULT_CRASHED);
    assert_int_equal(scan_with_writes_cut("", 0, ENOBUFS).fault, FILTER_FAULT_LOCAL);
}

static enum filter_fault fault_at_end(const char *begun, struct io_result at_end)
{
    struct memory_stream memory = memory_stream_of(bytes_of_text(begun));

    memory.at_end = at_end;
    const struct clamd_verdict verdict = scan(&memory, BYTES_LITERAL("x"));
    assert_int_equal(verdict.result, CLAMD_FAILED);
    assert_true(verdict.words.count > 0);
    buffer_free(&memory.written);
    return verdict.fault;
}

static void test_faults(void **state)
{
    const struct io_result reset = {.status = IO_FAILED, .error = ECONNRESET};
    const struct io_result memory = {.status = IO_FAILED, .error = ENOMEM};
    const struct io_result timeout = {.status = IO_TIMEOUT}, cancelled = {.status = IO_CANCELLED};

    (void)state;
    assert_int_equal(fault_at_end("", reset), FILTER_FAULT_CRASHED);
    assert_int_equal(fault_at_end("stream: O", reset), FILTER_FAULT_GARBLED);
    assert_int_equal(fault_at_end("", timeout), FILTER_FAULT_TIMEOUT);
    assert_int_equal(fault_at_end("stream: OK", timeout), FILTER_FAULT_TIMEOUT);
    assert_int_equal(fault_at_end("", memory), FILTER_FAULT_LOCAL);
    assert_int_equal(fault_at_end("", cancelled), FILTER_FAULT_LOCAL);
}

static struct io_result read_broken(void *argument, struct span into, uint64_t offset)
{
    (void)argument;
    (void)into;
    return offset == 0 ? (struct io_result){.status = IO_FAILED, .error = EIO}
                       : (struct io_result){.status = IO_END};
}

/* A message that we cannot read ourselves says nothing about the filter, and is never called clean.
 */
static void test_our_own_message_is_damaged(void **state)
{
    struct memory_stream memory = memory_stream_of(BYTES_LITERAL("stream: OK\0"));
    struct bytes cut = BYTES_LITERAL("only this");
    const struct message_source broken = {read_broken, NULL, 10}, shorter = {read_view, &cut, 10};

    (void)state;
    assert_int_equal(clamd_talk_scan(&arena, &memory.stream, &broken, DEADLINE_NEVER).fault,
                     FILTER_FAULT_LOCAL);
    assert_int_equal(clamd_talk_scan(&arena, &memory.stream, &shorter, DEADLINE_NEVER).fault,
                     FILTER_FAULT_LOCAL);
    buffer_free(&memory.written);
}

static void test_endless_answer(void **state)
{
    static uint8_t text[100000];
    struct memory_stream memory = memory_stream_of(bytes_of(text, sizeof text));

    (void)state;
    memset(text, 'x', sizeof text);
    assert_int_equal(scan(&memory, BYTES_LITERAL("x")).fault, FILTER_FAULT_GARBLED);
    assert_true(memory.at < 10000);
    buffer_free(&memory.written);
}

static void test_ping(void **state)
{
    struct memory_stream good = memory_stream_of(BYTES_LITERAL("PONG\0"));
    struct memory_stream bad = memory_stream_of(BYTES_LITERAL("UNKNOWN COMMAND\0"));

    (void)state;
    assert_int_equal(clamd_talk_ping(&arena, &good.stream, DEADLINE_NEVER).result, CLAMD_CLEAN);
    assert_true(bytes_equal(buffer_view(&good.written), bytes_of("zPING", 6)));
    assert_int_equal(clamd_talk_ping(&arena, &bad.stream, DEADLINE_NEVER).fault,
                     FILTER_FAULT_GARBLED);
    buffer_free(&good.written);
    buffer_free(&bad.written);
}

static int clear_arena(void **state)
{
    (void)state;
    arena_clear(&arena);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_answers),        cmocka_unit_test(test_truncated_answers),
        cmocka_unit_test(test_what_is_sent),   cmocka_unit_test(test_early_close),
        cmocka_unit_test(test_faults),         cmocka_unit_test(test_our_own_message_is_damaged),
        cmocka_unit_test(test_endless_answer), cmocka_unit_test(test_ping),
    };

    return cmocka_run_group_tests(tests, NULL, clear_arena);
}
