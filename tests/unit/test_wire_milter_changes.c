/* What a milter changes: read from its packets, and applied to a header. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "milter_script.h"

static struct arena arena = ARENA_WITH_LIMIT(4 * MIB);

/* ------------------------------------------------------------------ applying */

static struct milter_change *change(enum milter_change_kind kind, uint32_t index, const char *name,
                                    const char *value)
{
    struct milter_change *made = ARENA_NEW(&arena, struct milter_change);

    *made = (struct milter_change){
        .kind = kind, .index = index, .name = bytes_of_text(name), .value = bytes_of_text(value)};
    return made;
}

static struct milter_changes changes_of(struct milter_change *const *list)
{
    struct milter_changes changes = {0};

    for (; *list; list++) {
        if (changes.last)
            changes.last->next = *list;
        else
            changes.first = *list;
        changes.last = *list;
    }
    return changes;
}

static void assert_applied(struct milter_change *const *list, const char *above, const char *below)
{
    const struct milter_headers before = {
        .above = BYTES_LITERAL("Top: 1\r\n"),
        .below = BYTES_LITERAL("From: a\r\nTo: b\r\nX: 1\r\n more\r\nx: 2\r\nSubject: s\r\n")};
    const struct milter_changes changes = changes_of(list);
    struct buffer new_above = BUFFER_WITH_LIMIT(MIB), new_below = BUFFER_WITH_LIMIT(MIB);

    assert_true(milter_headers_apply(&before, &changes, &new_above, &new_below));
    if (!bytes_equal_text(buffer_view(&new_above), above) ||
        !bytes_equal_text(buffer_view(&new_below), below))
        fail_msg("above:\n%.*sbelow:\n%.*s", BYTES_PRINT(buffer_view(&new_above)),
                 BYTES_PRINT(buffer_view(&new_below)));
    buffer_free(&new_above);
    buffer_free(&new_below);
    arena_clear(&arena);
}

#define APPLIED(above, below, ...)                                                                 \
    assert_applied((struct milter_change *const[]){__VA_ARGS__, NULL}, above, below)
#define REST "From: a\r\nTo: b\r\nX: 1\r\n more\r\nx: 2\r\nSubject: s\r\n"

static void test_add_and_insert(void **state)
{
    (void)state;
    APPLIED("Top: 1\r\n", REST "N: v\r\nM: w\r\n", change(MILTER_HEADER_ADD, 0, "N", " v"),
            change(MILTER_HEADER_ADD, 0, "M", " w"));
    APPLIED("N: v\r\nTop: 1\r\n", REST, change(MILTER_HEADER_INSERT, 0, "N", " v"));
    /* The position counts what stands above, and our own Received. */
    APPLIED("Top: 1\r\nN: v\r\n", REST, change(MILTER_HEADER_INSERT, 1, "N", " v"));
    APPLIED("Top: 1\r\n", "N: v\r\n" REST, change(MILTER_HEADER_INSERT, 2, "N", " v"));
    APPLIED("Top: 1\r\n", "M: w\r\nN: v\r\n" REST, change(MILTER_HEADER_INSERT, 2, "N", " v"),
            change(MILTER_HEADER_INSERT, 2, "M", " w"));
    APPLIED("Top: 1\r\n", "From: a\r\nN:\r\nTo: b\r\nX: 1\r\n more\r\nx: 2\r\nSubject: s\r\n",
            change(MILTER_HEADER_INSERT, 3, "N", ""));
    APPLIED("Top: 1\r\n", REST "N: v\r\n", change(MILTER_HEADER_INSERT, 1000000, "N", " v"));
}

static void test_change_and_delete(void **state)
{
    (void)state;
    APPLIED("Top: 1\r\n", "From: a\r\nTo: b\r\nX: 1\r\n more\r\nx: 2\r\nSubject: changed\r\n",
            change(MILTER_HEADER_CHANGE, 1, "SUBJECT", " changed"));
    APPLIED("Top: 1\r\n", "From: a\r\nTo: b\r\nX: 1\r\n more\r\nx: new\r\nSubject: s\r\n",
            change(MILTER_HEADER_CHANGE, 2, "X", " new"));
    APPLIED("Top: 1\r\n", REST "X: new\r\n", change(MILTER_HEADER_CHANGE, 3, "X", " new"));
    APPLIED("Top: 1\r\n", "From: a\r\nTo: b\r\nx: 2\r\nSubject: s\r\n",
            change(MILTER_HEADER_CHANGE, 1, "X", ""));
    /* From the last to the first, as milters do to be safe from shifting. */
    APPLIED("Top: 1\r\n", "From: a\r\nTo: b\r\nSubject: s\r\n",
            change(MILTER_HEADER_CHANGE, 2, "X", ""), change(MILTER_HEADER_CHANGE, 1, "X", ""));
    APPLIED("Top: 1\r\n", REST, change(MILTER_HEADER_CHANGE, 3, "X", ""),
            change(MILTER_HEADER_CHANGE, 1, "None", ""));
    APPLIED("", REST, change(MILTER_HEADER_CHANGE, 1, "Top", ""));
    APPLIED("Top: 2\r\n", REST "N: 2\r\n", change(MILTER_HEADER_ADD, 0, "N", " 1"),
            change(MILTER_HEADER_CHANGE, 1, "n", " 2"),
            change(MILTER_HEADER_CHANGE, 1, "Top", " 2"));
}

static void test_apply_bounds(void **state)
{
    const struct milter_headers before = {.below = BYTES_LITERAL("A: 1\r\nB: no end")};
    struct milter_change *const list[] = {change(MILTER_HEADER_ADD, 0, "N", " v"), NULL};
    const struct milter_changes changes = changes_of(list);
    struct buffer above = BUFFER_WITH_LIMIT(MIB), below = BUFFER_WITH_LIMIT(MIB);
    struct buffer small = BUFFER_WITH_LIMIT(10);

    (void)state;
    assert_true(milter_headers_apply(&before, &changes, &above, &below));
    assert_true(bytes_equal_text(buffer_view(&below), "A: 1\r\nB: no end\r\nN: v\r\n"));
    buffer_clear(&above);
    assert_false(milter_headers_apply(&before, &changes, &above, &small));
    buffer_free(&above);
    buffer_free(&below);
    buffer_free(&small);
    arena_clear(&arena);
}

/* ------------------------------------------------------------------ reading */

static enum milter_parsed parse(uint32_t actions, uint32_t steps, struct bytes packet,
                                struct milter_changes *changes)
{
    const struct milter milter = {.actions = actions, .steps = steps};
    const struct milter_packet split = {packet.at[0], bytes_skip(packet, 1)};
    const char *why = "";

    *changes = (struct milter_changes){0};
    const enum milter_parsed parsed = milter_parse_change(&arena, &milter, &split, changes, &why);
    assert_int_equal(parsed == MILTER_PARSED_BAD, why[0] != '\0');
    return parsed;
}

#define LITERAL(text)                                                                              \
    {                                                                                              \
        (const uint8_t *)(text), sizeof(text) - 1                                                  \
    }

static const struct {
    struct bytes packet;
    uint32_t action;
    enum milter_change_kind kind;
    uint32_t index;
    const char *name, *value;
} CHANGES[] = {
    {LITERAL("hX-A\0b\0"), 0x1, MILTER_HEADER_ADD, 0, "X-A", " b"},
    {LITERAL("hX-A\0\0"), 0x1, MILTER_HEADER_ADD, 0, "X-A", ""},
    {LITERAL("hX-A\0one\n\ttwo\r\nthree\n \n\0"), 0x1, MILTER_HEADER_ADD, 0, "X-A",
     " one\r\n\ttwo\r\n\tthree"},
    {LITERAL("i\0\0\0\2X-A\0b\0"), 0x1, MILTER_HEADER_INSERT, 2, "X-A", " b"},
    {LITERAL("m\0\0\0\1Subject\0changed\0"), 0x10, MILTER_HEADER_CHANGE, 1, "Subject", " changed"},
    {LITERAL("m\0\0\0\1Subject\0\0"), 0x10, MILTER_HEADER_CHANGE, 1, "Subject", ""},
    {LITERAL("+<a@b>\0"), 0x4, MILTER_RECIPIENT_ADD, 0, "<a@b>", ""},
    {LITERAL("2<a@b>\0NOTIFY=NEVER\0"), 0x80, MILTER_RECIPIENT_ADD, 0, "<a@b>", "NOTIFY=NEVER"},
    {LITERAL("2<a@b>\0"), 0x80, MILTER_RECIPIENT_ADD, 0, "<a@b>", ""},
    {LITERAL("-<a@b>\0"), 0x8, MILTER_RECIPIENT_DELETE, 0, "<a@b>", ""},
    {LITERAL("e<a@b>\0SIZE=1\0"), 0x40, MILTER_SENDER_CHANGE, 0, "<a@b>", "SIZE=1"},
    {LITERAL("e<>\0"), 0x40, MILTER_SENDER_CHANGE, 0, "<>", ""},
};

static void test_each_change(void **state)
{
    struct milter_changes changes;

    (void)state;
    for (size_t i = 0; i < COUNT_OF(CHANGES); i++) {
        assert_int_equal(parse(CHANGES[i].action, 0, CHANGES[i].packet, &changes),
                         MILTER_PARSED_CHANGE);
        assert_int_equal(changes.count, 1);
        assert_int_equal(changes.first->kind, CHANGES[i].kind);
        assert_int_equal(changes.first->index, CHANGES[i].index);
        assert_true(bytes_equal_text(changes.first->name, CHANGES[i].name));
        if (!bytes_equal_text(changes.first->value, CHANGES[i].value))
            fail_msg("case %zu: \"%.*s\"", i, BYTES_PRINT(changes.first->value));
        /* Not agreed upon; and cut short at each place where it is not whole without the rest. */
        assert_int_equal(
            parse(MILTER_ACTIONS_ALL & ~CHANGES[i].action, 0, CHANGES[i].packet, &changes),
            MILTER_PARSED_BAD);
        for (size_t most = 1; most < CHANGES[i].packet.count; most++) {
            const enum milter_parsed parsed =
                parse(CHANGES[i].action, 0, bytes_slice(CHANGES[i].packet, 0, most), &changes);
            if (parsed != MILTER_PARSED_BAD) /* only the parameters are missing, all of them */
                assert_int_equal(CHANGES[i].packet.at[most - 1], 0);
        }
    }
    arena_clear(&arena);
}

static void test_leading_space(void **state)
{
    struct milter_changes changes;

    (void)state;
    parse(0x1, MILTER_LEADING_SPACE, BYTES_LITERAL("hX-A\0b\0"), &changes);
    assert_true(bytes_equal_text(changes.first->value, "b"));
    parse(0x1, MILTER_LEADING_SPACE, BYTES_LITERAL("hX-A\0  b\0"), &changes);
    assert_true(bytes_equal_text(changes.first->value, "  b"));
    arena_clear(&arena);
}

static void test_bad_changes(void **state)
{
    static const struct bytes bad[] = {
        LITERAL("hX:A\0b\0"),
        LITERAL("h\0b\0"),
        LITERAL("hX A\0b\0"),
        LITERAL("hX\nA\0b\0"),
        LITERAL("hX\0b\0c\0"),
        LITERAL("hX\0"),
        LITERAL("m\0\0\0\0Subject\0b\0"),
        LITERAL("+\0"),
        LITERAL("-\0"),
        LITERAL("q\0"),
        LITERAL("qwhy"),
        LITERAL("+<a@b>\0x\0y\0"),
    };
    struct milter_changes changes;

    (void)state;
    for (size_t i = 0; i < COUNT_OF(bad); i++)
        assert_int_equal(parse(MILTER_ACTIONS_ALL, 0, bad[i], &changes), MILTER_PARSED_BAD);
    assert_int_equal(parse(MILTER_ACTIONS_ALL, 0, BYTES_LITERAL("c"), &changes),
                     MILTER_PARSED_OTHER);
    assert_int_equal(parse(MILTER_ACTIONS_ALL, 0, BYTES_LITERAL("qbecause\0"), &changes),
                     MILTER_PARSED_CHANGE);
    assert_true(changes.quarantined && bytes_equal_text(changes.quarantine_why, "because"));
    arena_clear(&arena);
}

/* ------------------------------------------------------------------ at the end of a message */

static struct io_result no_body(void *argument, struct span into, uint64_t offset)
{
    (void)argument;
    (void)into;
    (void)offset;
    return io_status_only(IO_END);
}

static struct io_result sink_write(void *argument, struct bytes piece)
{
    buffer_add(argument, piece);
    return io_ok(piece.count);
}

static struct io_result sink_full(void *argument, struct bytes piece)
{
    (void)argument;
    (void)piece;
    return io_failed(ENOSPC);
}

static struct milter_verdict end_with(struct bytes answer, uint32_t actions,
                                      struct milter_changes *changes)
{
    const struct script_row row = {'E', answer};
    struct milter_script script = milter_script_of(&row, 1);
    const struct milter_call call = {.arena = &arena, .deadline_us = DEADLINE_NEVER};
    const struct message_source body = {no_body, NULL, 0};
    struct milter *milter;

    script.actions = actions;
    assert_int_equal(milter_open_stream(&script.stream, &call, &milter).answer, MILTER_CONTINUE);
    const struct milter_verdict verdict =
        milter_message(milter, &call, &(struct milter_message){.body = &body}, changes);
    milter_close(&milter);
    milter_script_free(&script);
    return verdict;
}

static void test_body_replaced(void **state)
{
    static const struct bytes answer =
        LITERAL("\0\0\0\6b1\r\n2\r\0\0\0\3b\n\r\0\0\0\6bx\0\n.\r\0\0\0\1p\0\0\0\1a");
    struct buffer body = BUFFER_WITH_LIMIT(MIB);
    struct milter_changes changes = {.body = {sink_write, &body}};

    (void)state;
    assert_int_equal(end_with(answer, MILTER_ACTIONS_ALL, &changes).answer, MILTER_ACCEPT);
    assert_true(changes.body_replaced);
    if (!bytes_equal_text(buffer_view(&body), "1\r\n2\r\n\r\nx\r\n.\r\n"))
        fail_msg("\"%.*s\"", BYTES_PRINT(buffer_view(&body)));
    changes = (struct milter_changes){.body = {sink_write, &body}};
    assert_int_equal(end_with(answer, 0, &changes).fault, FILTER_FAULT_GARBLED);
    changes = (struct milter_changes){.body = {sink_full, NULL}};
    assert_int_equal(end_with(answer, MILTER_ACTIONS_ALL, &changes).fault, FILTER_FAULT_LOCAL);
    changes = (struct milter_changes){.body = {sink_full, NULL}};
    assert_int_equal(
        end_with(BYTES_LITERAL("\0\0\0\1b\0\0\0\1c"), MILTER_ACTIONS_ALL, &changes).answer,
        MILTER_CONTINUE);
    assert_true(changes.body_replaced); /* by nothing */
    buffer_free(&body);
    arena_clear(&arena);
}

static void test_too_many_changes(void **state)
{
    struct buffer answer = BUFFER_WITH_LIMIT(MIB);
    struct milter_changes changes = {0};

    (void)state;
    for (unsigned i = 0; i <= MILTER_CHANGES_MAX; i++)
        script_put(&answer, 'h', BYTES_LITERAL("X\0y\0"));
    script_put(&answer, 'a', BYTES_EMPTY);
    assert_int_equal(end_with(buffer_view(&answer), MILTER_ACTIONS_ALL, &changes).fault,
                     FILTER_FAULT_GARBLED);
    assert_int_equal(changes.count, MILTER_CHANGES_MAX);
    buffer_free(&answer);
    arena_clear(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_add_and_insert), cmocka_unit_test(test_change_and_delete),
        cmocka_unit_test(test_apply_bounds),   cmocka_unit_test(test_each_change),
        cmocka_unit_test(test_leading_space),  cmocka_unit_test(test_bad_changes),
        cmocka_unit_test(test_body_replaced),  cmocka_unit_test(test_too_many_changes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
