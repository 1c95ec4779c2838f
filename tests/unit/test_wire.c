/* Lines, raw pieces, the buffer pool, replies of a next hop and what its EHLO offers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "memory_stream.h"
#include "wire/wire.h"

#define LITERAL(text)                                                                              \
    {                                                                                              \
        (const uint8_t *)(text), sizeof(text) - 1                                                  \
    }

static struct arena arena = ARENA_WITH_LIMIT(MIB);

static void check_bytes(struct bytes got, const char *expected)
{
    if (!bytes_equal_text(got, expected))
        fail_msg("got \"%.*s\", expected \"%s\"", BYTES_PRINT(got), expected);
}

/* The outcome of every line up to the end, as text: "[line]" or a letter for the status. */
static void read_lines(struct bytes text, size_t first, size_t fragment, struct buffer *outcome)
{
    struct memory_stream memory = memory_stream_of(text);
    struct wire_input input;
    enum wire_status status;

    memory.first = first;
    memory.fragment = fragment;
    wire_input_open(&input, &memory.stream);
    do {
        struct bytes line;

        status = wire_read_line(&input, DEADLINE_NEVER, &line);
        if (status == WIRE_OK)
            buffer_print(outcome, "[%.*s]", BYTES_PRINT(line));
        else
            buffer_add_byte(outcome, status == WIRE_MALFORMED  ? 'M'
                                     : status == WIRE_TOO_LONG ? 'L'
                                     : status == WIRE_END      ? 'E'
                                                               : '?');
    } while (status != WIRE_END && status != WIRE_FAILED);
    wire_input_close(&input);
}

static void check_lines(struct bytes text, const char *expected)
{
    for (size_t first = 0; first < MIN_OF(text.count, (size_t)200); first++) {
        for (size_t fragment = 0; fragment < 2; fragment++) {
            struct buffer outcome = BUFFER_WITH_LIMIT(MIB);

            read_lines(text, first, first == 0 && fragment == 1 ? 1 : fragment * 3, &outcome);
            check_bytes(buffer_view(&outcome), expected);
            buffer_free(&outcome);
        }
    }
}

static void test_lines(void **state)
{
    (void)state;
    check_lines(BYTES_LITERAL("EHLO x\r\n\r\nQUIT\r\n"), "[EHLO x][][QUIT]E");
    check_lines(BYTES_LITERAL("NOOP\nNOOP\r\nRSET\r\n"), "M[RSET]E");
    check_lines(BYTES_LITERAL("NOOP\rNOOP\r\nRSET\r\n"), "M[RSET]E");
    check_lines(BYTES_LITERAL("NO\0OP\r\nRSET\r\n"), "M[RSET]E");
    check_lines(BYTES_LITERAL("a\r\r\nb\r\n"), "M[b]E");
    check_lines(BYTES_LITERAL("\n\r\nb\r\n"), "M[b]E");
    check_lines(BYTES_LITERAL("half\r"), "E");
    check_lines(BYTES_LITERAL("half\n"), "E");
    check_lines(BYTES_LITERAL("RCPT TO:<\"a\r\nRSET\r\n\"@b>\r\n"), "[RCPT TO:<\"a][RSET][\"@b>]E");
}

static void test_long_lines_are_one_error(void **state)
{
    static const size_t sizes[] = {WIRE_COMMAND_MAX + 1,
                                   WIRE_COMMAND_MAX + 2,
                                   WIRE_BUFFER_BYTES - 1,
                                   WIRE_BUFFER_BYTES,
                                   65536,
                                   200000};

    (void)state;
    for (size_t i = 0; i < COUNT_OF(sizes); i++) {
        struct buffer text = BUFFER_WITH_LIMIT(MIB), outcome = BUFFER_WITH_LIMIT(MIB);

        for (size_t k = 0; k < sizes[i]; k++)
            buffer_add_byte(&text, k % 7 == 3 ? '\r' : 'A');
        buffer_add_text(&text, "\r\nNOOP\r\n");
        /* Byte by byte too, so that a read ends between the CR and the LF. */
        read_lines(buffer_view(&text), 0, i == 0 ? 1 : i % 2 ? 0 : 1000, &outcome);
        check_bytes(buffer_view(&outcome), "L[NOOP]E");
        buffer_free(&text);
        buffer_free(&outcome);
    }
}

static void test_longest_line_is_kept(void **state)
{
    struct buffer text = BUFFER_WITH_LIMIT(MIB), outcome = BUFFER_WITH_LIMIT(MIB);

    (void)state;
    for (size_t k = 0; k < WIRE_COMMAND_MAX; k++)
        buffer_add_byte(&text, 'A');
    buffer_add_text(&text, "\r\n");
    read_lines(buffer_view(&text), 0, 0, &outcome);
    assert_int_equal(outcome.count, WIRE_COMMAND_MAX + 3);
    buffer_free(&text);
    buffer_free(&outcome);
}

static void test_endless_line_ends(void **state)
{
    struct buffer text = BUFFER_WITH_LIMIT(4 * MIB);
    struct wire_input input;
    struct bytes line;

    (void)state;
    for (size_t k = 0; k < 2 * MIB; k++)
        buffer_add_byte(&text, 'A');
    struct memory_stream memory = memory_stream_of(buffer_view(&text));
    wire_input_open(&input, &memory.stream);
    assert_int_equal(wire_read_line(&input, DEADLINE_NEVER, &line), WIRE_END);
    assert_true(input.bytes_read < MIB);
    wire_input_close(&input);
    buffer_free(&text);
}

/* A TLS hello has no line end: it must not be waited for. */
static void test_tls_hello(void **state)
{
    struct memory_stream memory = memory_stream_of(BYTES_LITERAL("\x16\x03\x01\x02\x00\x01"));
    struct wire_input input;
    struct smtp_command command;
    struct bytes line;

    (void)state;
    memory.at_end = (struct io_result){.status = IO_TIMEOUT};
    memory.fragment = 1;
    wire_input_open(&input, &memory.stream);
    assert_int_equal(wire_read_line(&input, DEADLINE_NEVER, &line), WIRE_OK);
    smtp_parse_command(&arena, line, &command);
    assert_int_equal(command.verb, SMTP_FOREIGN);
    wire_input_close(&input);
}

static void test_buffer_goes_back_before_a_wait(void **state)
{
    struct memory_stream memory = memory_stream_of(BYTES_LITERAL("NOOP\r\nRSET\r\n"));
    struct wire_input input;
    struct bytes line;

    (void)state;
    memory.at_end = (struct io_result){.status = IO_TIMEOUT};
    wire_input_open(&input, &memory.stream);
    assert_null(input.buffer);
    assert_int_equal(wire_read_line(&input, DEADLINE_NEVER, &line), WIRE_OK);
    assert_int_equal(memory.waits, 1);
    assert_true(wire_input_pending(&input));
    assert_int_equal(wire_read_line(&input, DEADLINE_NEVER, &line), WIRE_OK);
    check_bytes(line, "RSET");
    assert_false(wire_input_pending(&input));
    assert_int_equal(memory.reads, 1);
    assert_int_equal(wire_read_line(&input, DEADLINE_NEVER, &line), WIRE_TIMEOUT);
    assert_int_equal(memory.waits, 2);
    wire_input_close(&input);
    assert_null(input.buffer);
}

static void test_raw(void **state)
{
    struct memory_stream memory = memory_stream_of(BYTES_LITERAL("BDAT 5\r\nHe\r\n.QUIT\r\n"));
    struct wire_input input;
    struct bytes piece;
    struct buffer body = BUFFER_WITH_LIMIT(64);

    (void)state;
    memory.fragment = 3;
    wire_input_open(&input, &memory.stream);
    assert_int_equal(wire_read_line(&input, DEADLINE_NEVER, &piece), WIRE_OK);
    while (body.count < 5) {
        assert_int_equal(wire_read_raw(&input, 5 - body.count, DEADLINE_NEVER, &piece), WIRE_OK);
        assert_true(piece.count > 0);
        buffer_add(&body, piece);
    }
    check_bytes(buffer_view(&body), "He\r\n.");
    assert_int_equal(wire_read_line(&input, DEADLINE_NEVER, &piece), WIRE_OK);
    check_bytes(piece, "QUIT");
    wire_input_close(&input);
    buffer_free(&body);
}

/* ------------------------------------------------------------------ replies */

static enum wire_status read_reply(struct bytes text, size_t fragment, struct smtp_reply *reply)
{
    struct memory_stream memory = memory_stream_of(text);
    struct wire_input input;

    arena_clear(&arena);
    memory.fragment = fragment;
    wire_input_open(&input, &memory.stream);
    const enum wire_status status = smtp_read_reply(&input, &arena, DEADLINE_NEVER, reply);
    wire_input_close(&input);
    return status;
}

static const struct {
    struct bytes text;
    enum wire_status status;
    unsigned code;
    const char *enhanced;
} REPLIES[] = {
    {LITERAL("250 ok\r\n"), WIRE_OK, 250, ""},
    {LITERAL("250\r\n"), WIRE_OK, 250, ""},
    {LITERAL("250-a\r\n250-b\r\n250 c\r\n"), WIRE_OK, 250, ""},
    {LITERAL("451 4.7.1 Greylisted\r\n"), WIRE_OK, 451, "4.7.1"},
    {LITERAL("550-5.1.1 a\r\n550 5.1.1 b\r\n"), WIRE_OK, 550, "5.1.1"},
    {LITERAL("550 5.1.1\r\n"), WIRE_OK, 550, "5.1.1"},
    {LITERAL("550 4.1.1 other class\r\n"), WIRE_OK, 550, ""},
    {LITERAL("550 5.1.1x\r\n"), WIRE_OK, 550, ""},
    {LITERAL("550 5.1\r\n"), WIRE_OK, 550, ""},
    {LITERAL("550 5.7.1234 x\r\n"), WIRE_OK, 550, ""},
    {LITERAL("hello\r\n"), WIRE_MALFORMED, 0, ""},
    {LITERAL("25\r\n"), WIRE_MALFORMED, 0, ""},
    {LITERAL("\r\n"), WIRE_MALFORMED, 0, ""},
    {LITERAL("2500 x\r\n"), WIRE_MALFORMED, 0, ""},
    {LITERAL("999 x\r\n"), WIRE_MALFORMED, 0, ""},
    {LITERAL("199 x\r\n"), WIRE_MALFORMED, 0, ""},
    {LITERAL("250-a\r\n550 b\r\n"), WIRE_MALFORMED, 0, ""},
    {LITERAL("250 a\nb\r\n"), WIRE_MALFORMED, 0, ""},
    {LITERAL("250-a\r\n"), WIRE_END, 0, ""},
    {LITERAL("250 ok\n"), WIRE_END, 0, ""},
    {LITERAL("250 o"), WIRE_END, 0, ""},
    {LITERAL(""), WIRE_END, 0, ""},
};

static void test_replies(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT_OF(REPLIES); i++) {
        for (size_t fragment = 0; fragment < 5; fragment++) {
            struct smtp_reply reply;
            const enum wire_status status = read_reply(REPLIES[i].text, fragment, &reply);

            if (status != REPLIES[i].status || reply.code != REPLIES[i].code)
                fail_msg("\"%.*s\": status %d, code %u", BYTES_PRINT(REPLIES[i].text), (int)status,
                         reply.code);
            check_bytes(reply.enhanced, REPLIES[i].enhanced);
        }
    }
}

/* A reply cut anywhere is never taken for a whole one. */
static void test_reply_truncation(void **state)
{
    static const struct bytes whole = LITERAL("250-first\r\n250 2.0.0 second\r\n");
    struct smtp_reply reply;

    (void)state;
    for (size_t length = 0; length < whole.count; length++) {
        assert_int_not_equal(read_reply(bytes_slice(whole, 0, length), 0, &reply), WIRE_OK);
        assert_int_equal(reply.code, 0);
    }
    assert_int_equal(read_reply(whole, 0, &reply), WIRE_OK);
    check_bytes(reply.text, "250-first\n250 2.0.0 second");
    assert_int_equal(reply.line_count, 2);
}

static void test_reply_bounds(void **state)
{
    struct buffer many = BUFFER_WITH_LIMIT(MIB), wide = BUFFER_WITH_LIMIT(4 * MIB);
    struct smtp_reply reply;

    (void)state;
    for (unsigned i = 0; i < 10000; i++)
        buffer_add_text(&many, "250-x\r\n");
    buffer_add_text(&many, "250 x\r\n");
    assert_int_equal(read_reply(buffer_view(&many), 0, &reply), WIRE_TOO_LONG);
    buffer_add_text(&wide, "250 ");
    for (size_t i = 0; i < MIB; i++)
        buffer_add_byte(&wide, 'x');
    buffer_add_text(&wide, "\r\n");
    assert_int_not_equal(read_reply(buffer_view(&wide), 0, &reply), WIRE_OK);
    assert_int_equal(reply.code, 0);
    buffer_free(&many);
    buffer_free(&wide);
}

static void test_extensions(void **state)
{
    uint64_t limit = 1;

    (void)state;
    assert_int_equal(smtp_parse_extensions(BYTES_LITERAL("250 SIZE"), &limit), 0);
    assert_int_equal(limit, 0);
    const unsigned got = smtp_parse_extensions(
        BYTES_LITERAL("250-mx.example\n250-size 1000\n250-PIPELINING\n250-AUTH=LOGIN PLAIN\n"
                      "250-8BITMIME\n250-SMTPUTF8X\n250-\n250 CHUNKING"),
        &limit);
    assert_int_equal(got, EXTENSION_SIZE | EXTENSION_PIPELINING | EXTENSION_AUTH |
                              EXTENSION_8BITMIME | EXTENSION_CHUNKING);
    assert_int_equal(limit, 1000);
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
        cmocka_unit_test(test_lines),
        cmocka_unit_test(test_long_lines_are_one_error),
        cmocka_unit_test(test_longest_line_is_kept),
        cmocka_unit_test(test_endless_line_ends),
        cmocka_unit_test(test_tls_hello),
        cmocka_unit_test(test_buffer_goes_back_before_a_wait),
        cmocka_unit_test(test_raw),
        cmocka_unit_test(test_replies),
        cmocka_unit_test(test_reply_truncation),
        cmocka_unit_test(test_reply_bounds),
        cmocka_unit_test(test_extensions),
    };

    return cmocka_run_group_tests(tests, NULL, clear_arena);
}
