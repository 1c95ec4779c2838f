/* The reader of DATA and the dot stuffer, against a plain model, over every way to cut the input.
 */
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

struct outcome {
    struct buffer body;
    bool ended, malformed;
    size_t rest, longest;
};

/* The model: the end is the first CR LF . CR LF of "CR LF" + input; lines are cut at CR LF. */
static struct outcome model(struct bytes input)
{
    struct buffer whole = BUFFER_WITH_LIMIT(64 * MIB);
    struct outcome outcome = {.body = BUFFER_WITH_LIMIT(64 * MIB)};

    buffer_add_text(&whole, "\r\n");
    buffer_add(&whole, input);
    const struct bytes view = buffer_view(&whole);
    const size_t end = bytes_find(view, BYTES_LITERAL("\r\n.\r\n"));
    outcome.ended = end < view.count;
    outcome.rest = outcome.ended ? view.count - end - 5 : 0;
    struct bytes text = bytes_slice(view, 2, end - (outcome.ended ? 0 : 2));
    while (text.count > 0) {
        const size_t line_end = bytes_find(text, BYTES_LITERAL("\r\n"));
        struct bytes line = bytes_slice(text, 0, line_end);
        text = bytes_skip(text, line_end + 2);
        if (line.count > 0 && line.at[0] == '.')
            line = bytes_skip(line, 1);
        outcome.malformed |= bytes_find_byte(line, '\r') < line.count ||
                             bytes_find_byte(line, '\n') < line.count ||
                             bytes_find_byte(line, 0) < line.count;
        outcome.longest = MAX_OF(outcome.longest, line.count);
        buffer_add(&outcome.body, line);
        buffer_add_text(&outcome.body, "\r\n");
    }
    buffer_free(&whole);
    return outcome;
}

static struct outcome really(struct bytes input, size_t first, size_t fragment)
{
    struct memory_stream memory = memory_stream_of(input);
    struct wire_input from;
    struct outcome outcome = {.body = BUFFER_WITH_LIMIT(64 * MIB)};

    memory.first = first;
    memory.fragment = fragment;
    wire_input_open(&from, &memory.stream);
    struct wire_data data = WIRE_DATA_OF(&from);
    for (;;) {
        struct bytes piece;
        const enum wire_status status = wire_read_data(&data, DEADLINE_NEVER, &piece);

        buffer_add(&outcome.body, piece);
        if (status != WIRE_OK || data.ended) {
            assert_int_equal(status, data.ended ? WIRE_OK : WIRE_END);
            break;
        }
        assert_true(piece.count > 0);
    }
    assert_int_equal(data.bytes, outcome.body.count);
    outcome.ended = data.ended;
    outcome.malformed = data.malformed;
    outcome.longest = data.longest_line;
    outcome.rest = data.ended ? from.end - from.start + (input.count - memory.at) : 0;
    wire_input_close(&from);
    return outcome;
}

static void check_same(struct bytes input, size_t first, size_t fragment)
{
    struct outcome expected = model(input), got = really(input, first, fragment);

    assert_int_equal(got.ended, expected.ended);
    if (expected.ended) {
        assert_int_equal(got.body.count, expected.body.count);
        assert_true(bytes_equal(buffer_view(&got.body), buffer_view(&expected.body)));
        assert_int_equal(got.malformed, expected.malformed);
        assert_int_equal(got.rest, expected.rest);
        assert_int_equal(got.longest, expected.longest);
    }
    buffer_free(&expected.body);
    buffer_free(&got.body);
}

static void check_every_cut(struct bytes input)
{
    check_same(input, 0, 0);
    for (size_t fragment = 1; fragment <= 7; fragment++)
        check_same(input, 0, fragment);
    for (size_t first = 1; first < input.count; first++) {
        check_same(input, first, 0);
        check_same(input, first, 1);
    }
}

static const struct bytes TRICKY[] = {
    LITERAL(".\r\n"),
    LITERAL(".\r\nNOOP\r\n"),
    LITERAL("\r\n.\r\n"),
    LITERAL("a\r\n.\r\nMAIL FROM:<x@y.example>\r\n"),
    LITERAL("..\r\n.x\r\n...\r\n.\r\n"),
    LITERAL(".From: a\r\n\r\n..x\r\n\r\n..\r\n\r\n.stuffy\r\n.\r\n"),
    LITERAL("a\r\n.b\r\n..\r\n\r\n.\r\n.\r\n"),
    LITERAL("a\r.\r\n.\r\r\n\r\n.\r\n"),
    LITERAL("\n\n\n.\n.\r\n\r\n.\r\n"),
    LITERAL("\r\r\r\r\n\r\r\n.\r\n"),
    LITERAL(".\r.\r\n.\n.\r\n.\r\n"),
    LITERAL("a\0b\r\n.\0\r\n.\r\n"),
    LITERAL("QUIT\r\n.\r\n"),
    LITERAL("no end at all"),
    LITERAL("no end\r\n."),
    LITERAL("no end\r\n.\r"),
    LITERAL("\r"),
    LITERAL(""),
};

static void test_every_cut_gives_the_same(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT_OF(TRICKY); i++)
        check_every_cut(TRICKY[i]);
}

/* Every word over the dangerous letters, up to six of them, whole and byte by byte. */
static void test_every_short_word(void **state)
{
    static const uint8_t letters[] = {'\r', '\n', '.', 'a', 0};
    uint8_t word[12];

    (void)state;
    for (size_t length = 1, count = COUNT_OF(letters); length <= 6; length++) {
        for (size_t number = 0; number < count; number++) {
            size_t digits = number;

            for (size_t i = 0; i < length; i++, digits /= COUNT_OF(letters))
                word[i] = letters[digits % COUNT_OF(letters)];
            memcpy(word + length, "\r\n.\r\n", 5);
            check_same(bytes_of(word, length + 5), 0, 0);
            check_same(bytes_of(word, length + 5), 0, 1);
        }
        count *= COUNT_OF(letters);
    }
}

/* The false ends of data collected by others: none may end the message, all but NUL-free ones
 * object. */
static void test_smuggling(void **state)
{
    static const struct bytes ends[] = {
        LITERAL("\n.\n"),         LITERAL("\n.\r"),       LITERAL("\r.\n"),
        LITERAL("\r.\r"),         LITERAL("\n.\r\n"),     LITERAL("\r.\r\n"),
        LITERAL("\r\n.\n"),       LITERAL("\r\n.\r"),     LITERAL("\r\n.\r\r\n"),
        LITERAL("\r\r\n.\r\r\n"), LITERAL("\r\n\0.\r\n"), LITERAL("\r\n.\0\r\n")};

    (void)state;
    for (size_t i = 0; i < COUNT_OF(ends); i++) {
        struct buffer text = BUFFER_WITH_LIMIT(MIB);

        buffer_add_text(&text, "Subject: outer\r\n\r\nouter body");
        buffer_add(&text, ends[i]);
        buffer_add_text(&text, "MAIL FROM:<smuggled@sender.example>\r\nDATA\r\nx\r\n.\r\n");
        check_every_cut(buffer_view(&text));
        struct outcome got = really(buffer_view(&text), 0, 0);
        assert_true(got.ended);
        assert_true(got.malformed);
        assert_int_equal(got.rest, 0);
        buffer_free(&got.body);
        buffer_free(&text);
    }
}

static void test_end_across_buffer_edges(void **state)
{
    static const size_t edges[] = {4097, 8193, WIRE_BUFFER_BYTES, 2 * WIRE_BUFFER_BYTES, 65537};

    (void)state;
    for (size_t i = 0; i < COUNT_OF(edges); i++) {
        for (size_t size = edges[i] - 7; size <= edges[i] + 3; size++) {
            struct buffer text = BUFFER_WITH_LIMIT(MIB);

            for (size_t k = 0; k < size; k++)
                buffer_add_byte(&text, k % 76 == 74 ? '\r' : k % 76 == 75 ? '\n' : 'a');
            buffer_add_text(&text, "\r\n.\r\nNOOP\r\n");
            check_same(buffer_view(&text), 0, 0);
            check_same(buffer_view(&text), size, 0);
            buffer_free(&text);
        }
    }
}

static void test_truncation_never_ends(void **state)
{
    static const struct bytes whole = LITERAL("a\r\n..\r\n.b\r\n.\r\n");

    (void)state;
    for (size_t length = 0; length < whole.count; length++) {
        struct outcome got = really(bytes_slice(whole, 0, length), 0, 0);

        assert_false(got.ended);
        buffer_free(&got.body);
    }
}

/* ------------------------------------------------------------------ stuffing */

static void stuff_in_cuts(struct bytes body, size_t fragment, struct buffer *into)
{
    struct wire_stuffer stuffer = {0};

    for (size_t at = 0; at < body.count; at += fragment)
        wire_stuff(&stuffer, into, bytes_slice(body, at, fragment));
    wire_stuff_end(&stuffer, into);
}

static void check_stuffed(const char *body, size_t count, const char *expected)
{
    for (size_t fragment = 1; fragment <= count + 1; fragment++) {
        struct buffer into = BUFFER_WITH_LIMIT(MIB);

        stuff_in_cuts(bytes_of(body, count), fragment, &into);
        assert_true(bytes_equal_text(buffer_view(&into), expected));
        buffer_free(&into);
    }
}

static void test_stuffing(void **state)
{
    (void)state;
    check_stuffed("", 0, ".\r\n");
    check_stuffed("a", 1, "a\r\n.\r\n");
    check_stuffed("a\r\n", 3, "a\r\n.\r\n");
    check_stuffed(".\r\n..\r\n", 7, "..\r\n...\r\n.\r\n");
    check_stuffed("a\n.\nb\r.\rc", 9, "a\r\n..\r\nb\r\n..\r\nc\r\n.\r\n");
    check_stuffed("a\0b\r\0\n.", 7, "ab\r\n..\r\n.\r\n");
    check_stuffed("a\r", 2, "a\r\n.\r\n");
    check_stuffed("\r\r\n\n", 4, "\r\n\r\n\r\n.\r\n");
}

/* What we write is never malformed, is one message, and reads back the same however it was cut. */
static void test_stuffing_reads_back(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT_OF(TRICKY); i++) {
        struct buffer whole = BUFFER_WITH_LIMIT(MIB);

        stuff_in_cuts(TRICKY[i], SIZE_MAX / 2, &whole);
        for (size_t fragment = 1; fragment < 5; fragment++) {
            struct buffer cut = BUFFER_WITH_LIMIT(MIB);

            stuff_in_cuts(TRICKY[i], fragment, &cut);
            assert_true(bytes_equal(buffer_view(&cut), buffer_view(&whole)));
            buffer_free(&cut);
        }
        struct outcome got = really(buffer_view(&whole), 0, 0);
        assert_true(got.ended);
        assert_false(got.malformed);
        assert_int_equal(got.rest, 0);
        buffer_free(&got.body);
        buffer_free(&whole);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_cut_gives_the_same),
        cmocka_unit_test(test_every_short_word),
        cmocka_unit_test(test_smuggling),
        cmocka_unit_test(test_end_across_buffer_edges),
        cmocka_unit_test(test_truncation_never_ends),
        cmocka_unit_test(test_stuffing),
        cmocka_unit_test(test_stuffing_reads_back),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
