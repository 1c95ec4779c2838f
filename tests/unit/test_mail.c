/* Addresses, xtext, header fields, Received. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "mail/mail.h"

#define B(text) BYTES_LITERAL(text)

static struct arena arena = ARENA_WITH_LIMIT(MIB);

static void check_bytes(struct bytes got, const char *expected)
{
    if (!bytes_equal_text(got, expected))
        fail_msg("got \"%.*s\", expected \"%s\"", BYTES_PRINT(got), expected);
}

static void check_round_trip(const char *text, const char *expected)
{
    struct address address;

    if (!address_parse(&arena, bytes_of_text(text), &address))
        fail_msg("\"%s\" was refused", text);
    check_bytes(address_text(&arena, address), expected);
}

static void test_addresses(void **state)
{
    static const char *const bad[] = {
        "",       "a",          "@b",       "a@",       "a@@b",       ".a@b",    "a.@b",
        "a..b@c", "a b@c",      "a@b c",    "a@-b",     "a@b-",       "a@b..c",  "a@.",
        "\"a@b",  "\"a\"b@c",   "a\"b\"@c", "\"\\\"@b", "a@[1.2.3]",  "a@[::1]", "a@[IPv6:1.2.3.4]",
        "a@[x]",  "a@[1.2.3.4", "a@xn---",  "a@b_c",    "\"a\tb\"@c", "<a@b>",   "a@b\xff"};

    (void)state;
    check_round_trip("a@B.Example", "a@b.example");
    check_round_trip("A.b+c@d.example.", "A.b+c@d.example");
    check_round_trip("\"a b\"@c", "\"a b\"@c");
    check_round_trip("\"plain\"@c", "plain@c");
    check_round_trip("\"a\\\"\\\\b\"@c", "\"a\\\"\\\\b\"@c");
    check_round_trip("\"\"@c", "\"\"@c");
    check_round_trip("a@[192.0.2.1]", "a@[192.0.2.1]");
    check_round_trip("a@[ipv6:2001:DB8::1]", "a@[IPv6:2001:db8::1]");
    check_round_trip("\xc3\xa9@b\xc3\xbc.example", "\xc3\xa9@b\xc3\xbc.example");
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        struct address address;

        if (address_parse(&arena, bytes_of_text(bad[i]), &address))
            fail_msg("\"%s\" was taken", bad[i]);
    }
}

static void test_address_questions(void **state)
{
    const struct address a = {B("x"), B("b.example")}, b = {B("x"), B("B.EXAMPLE")};
    const struct address c = {B("X"), B("b.example")}, null = {0};

    (void)state;
    assert_true(address_equal(a, b));
    assert_false(address_equal(a, c));
    assert_true(address_is_null(null));
    assert_false(address_is_null(a));
    check_bytes(address_text(&arena, null), "");
    assert_true(address_is_ascii(a));
    assert_false(address_is_ascii((struct address){B("\xc3\xa9"), B("b")}));
    /* Nothing that stands in an address may end a line of ours. */
    check_bytes(address_text(&arena, (struct address){B("a\r\nb"), B("c")}), "\"a??b\"@c");
}

/* Addresses found, "|" behind each; "!" at the end when something was none. */
static void check_list(const char *list, const char *expected)
{
    char got[256] = "";
    size_t count = 0;
    struct buffer spec = BUFFER_WITH_LIMIT(MAIL_ADDRESS_MAX);
    struct address_list walk = {.rest = bytes_of_text(list)};

    while (address_list_next(&walk, &spec))
        count += (size_t)snprintf(got + count, sizeof got - count, "%.*s|",
                                  BYTES_PRINT(buffer_view(&spec)));
    snprintf(got + count, sizeof got - count, "%s", walk.malformed ? "!" : "");
    buffer_free(&spec);
    assert_string_equal(got, expected);
}

static void test_address_lists(void **state)
{
    (void)state;
    check_list("", "");
    check_list(" , ,\r\n\t,", "");
    check_list("bob", "bob|");
    check_list("a@b.example, \"B, \\\"C\\\"\" <c@d.example>,e@f.example", "a@b.example|c@d.example|e@f.example|");
    check_list("team: a@b.example, c (x, y (z)) @ d . example;, \"q r\"@s", "a@b.example|c@d.example|\"q r\"@s|");
    check_list("<@x.example,@y.example:a@b.example>", "a@b.example|");
    check_list("undisclosed-recipients:;", "");
    check_list("a@[IPv6:::1], b", "a@[IPv6:::1]|b|");
    check_list("John Smith, a@b.example", "a@b.example|!");
    check_list("John <a@b.example", "!");
    check_list("J <a@b.example> (c) d, e", "a@b.example|e|");
    check_list("(never closed a@b.example", "");
    check_list("\"never closed a@b.example", "\"never closed a@b.example|"); /* its reader refuses it */
}

static void test_every_prefix_of_a_list(void **state)
{
    static const char list[] = "\"B \\\" (x)\" <@r:c@d.example>, g: e@[1.2.3.4] (a(b)c), h; \"q\"@s";
    struct buffer spec = BUFFER_WITH_LIMIT(64);

    (void)state;
    for (size_t count = 0; count < sizeof list; count++) {
        uint8_t *exact = malloc(count + 1); /* so that a sanitizer sees what is read behind it */
        memcpy(exact, list, count);
        struct address_list walk = {.rest = bytes_of(exact, count)};
        unsigned found = 0;
        while (address_list_next(&walk, &spec))
            found++;
        assert_true(found <= 4);
        free(exact);
    }
    buffer_free(&spec);
}

static void test_path_leaves_the_rest(void **state)
{
    struct bytes rest = B("<a@b.example> SIZE=1");
    struct address address;

    (void)state;
    assert_true(address_parse_path(&arena, &rest, PATH_REVERSE, &address));
    check_bytes(rest, " SIZE=1");
    rest = B("<>");
    assert_false(address_parse_path(&arena, &rest, PATH_FORWARD, &address));
    rest = B("<\"postmaster\">");
    assert_false(address_parse_path(&arena, &rest, PATH_FORWARD, &address));
}

/* Each prefix lies in memory of just its size, so reading on would be seen by the sanitizer. */
static void test_every_prefix_of_paths(void **state)
{
    static const char *const paths[] = {"<@a.b,@c:\"x\\\"y\"@[IPv6:2001:db8::1]>", "<a.b@c.d>",
                                        "<postmaster>", "<\xc3\xa9@\xc3\xa9.example>"};

    (void)state;
    for (size_t i = 0; i < COUNT_OF(paths); i++) {
        const size_t whole = strlen(paths[i]);

        for (size_t length = 0; length <= whole; length++) {
            uint8_t *copy = malloc(length + (length == 0));
            struct bytes rest = bytes_of(copy, length);
            struct address address;

            assert_non_null(copy);
            memcpy(copy, paths[i], length);
            assert_int_equal(address_parse_path(&arena, &rest, PATH_FORWARD, &address),
                             length == whole);
            free(copy);
        }
    }
}

static void test_xtext(void **state)
{
    static const char *const bad[] = {"+", "+2", "+GG", "a=b", "a b", "+0D", "+0A", "+00", "\x01"};
    struct buffer text = BUFFER_WITH_LIMIT(64);
    struct bytes plain;

    (void)state;
    assert_true(xtext_decode(&arena, B("a+2Bb+3Dc+20"), &plain));
    check_bytes(plain, "a+b=c ");
    xtext_encode(&text, plain);
    check_bytes(buffer_view(&text), "a+2Bb+3Dc+20");
    assert_true(xtext_decode(&arena, BYTES_EMPTY, &plain));
    for (size_t i = 0; i < COUNT_OF(bad); i++)
        if (xtext_decode(&arena, bytes_of_text(bad[i]), &plain))
            fail_msg("\"%s\" was taken", bad[i]);
    buffer_free(&text);
}

/* ------------------------------------------------------------------ header */

static const char MESSAGE[] = "Received: one\r\n\tmore\r\nSubject : hello\r\n world \r\n"
                              "no field here\r\nreceived:two\r\nX:\r\n\r\nReceived: body\r\n";

static void test_header_walk(void **state)
{
    static const char *const names[] = {"Received", "Subject", "received", "X"};
    struct header_walk walk = HEADER_WALK_OF(bytes_of_text(MESSAGE));
    struct header_field field;
    size_t count = 0;

    (void)state;
    for (; header_next(&walk, &field); count++) {
        assert_true(count < COUNT_OF(names));
        check_bytes(field.name, names[count]);
    }
    assert_int_equal(count, COUNT_OF(names));
    assert_true(walk.malformed);
    assert_int_equal(header_count(bytes_of_text(MESSAGE), "RECEIVED"), 2);
    assert_true(header_find(bytes_of_text(MESSAGE), "subject", &field));
    check_bytes(field.value, " hello\r\n world ");
    check_bytes(field.whole, "Subject : hello\r\n world \r\n");
    check_bytes(header_unfold(&arena, field.value), "hello world");
    assert_false(header_find(bytes_of_text(MESSAGE), "To", &field));
    check_bytes(bytes_skip(bytes_of_text(MESSAGE), header_end(bytes_of_text(MESSAGE))),
                "Received: body\r\n");
}

static void test_header_edges(void **state)
{
    struct header_field field;

    (void)state;
    assert_int_equal(header_end(B("\r\nbody")), 2);
    assert_int_equal(header_end(B("only one line")), 13);
    assert_int_equal(header_end(BYTES_EMPTY), 0);
    assert_int_equal(header_end(B("a: b\n\nbody")), 6);
    assert_false(header_find(B("\r\nTo: x\r\n"), "To", &field));
    assert_true(header_find(B("To: x"), "To", &field));
    check_bytes(field.value, " x");
    assert_false(header_find(B("Subject: a\rTo: b\r\n"), "To", &field));
    check_bytes(header_unfold(&arena, B(" a\rb\nc\r\n d\0e \r\n")), "a b c d e");
    for (size_t length = 0; length < sizeof MESSAGE; length++)
        (void)header_count(bytes_of(MESSAGE, length), "X");
}

/* ------------------------------------------------------------------ Received */

/* Unfolded, it must be one field whose lines are short and whose bytes are all printable. */
static void check_one_field(struct bytes text)
{
    struct header_walk walk = HEADER_WALK_OF(text);
    struct header_field field;
    size_t column = 0;

    assert_true(header_next(&walk, &field));
    assert_int_equal(walk.rest.count, 0);
    assert_false(walk.malformed);
    for (size_t i = 0; i < text.count; i++) {
        column = text.at[i] == '\n' ? 0 : column + 1;
        assert_true(column < 998);
        assert_true(text.at[i] >= ' ' || strchr("\r\n\t", text.at[i]));
    }
}

static void test_received(void **state)
{
    struct buffer text = BUFFER_WITH_LIMIT(8192);
    struct received_facts facts = {.hostname = "mx.example",
                                   .helo = B("client.example"),
                                   .client_name = B("rev.example"),
                                   .protocol = "ESMTPS",
                                   .tls = B("TLSv1.3 cipher TLS_AES_256_GCM_SHA384"),
                                   .message = 42,
                                   .only_recipient = {B("u"), B("r.example")},
                                   .wall_us = INT64_C(1795512414000000)};

    (void)state;
    assert_true(endpoint_parse(B("192.0.2.7:4711"), &facts.client));
    received_print(&text, &facts);
    check_one_field(buffer_view(&text));
    check_bytes(buffer_view(&text), "Received: from client.example (rev.example [192.0.2.7])\r\n"
                                    "\t(using TLSv1.3 cipher TLS_AES_256_GCM_SHA384)\r\n"
                                    "\tby mx.example with ESMTPS id 000000000001A\r\n"
                                    "\tfor <u@r.example>;\r\n"
                                    "\tTue, 24 Nov 2026 09:26:54 +0000\r\n");
    buffer_free(&text);
}

static void test_received_is_safe(void **state)
{
    struct buffer text = BUFFER_WITH_LIMIT(65536);
    uint8_t every[2048];
    struct received_facts facts = {.protocol = "SMTP"};

    (void)state;
    for (size_t i = 0; i < sizeof every; i++)
        every[i] = (uint8_t)i;
    received_print(&text, &facts);
    check_one_field(buffer_view(&text));
    facts.helo = facts.client_name = facts.tls = bytes_of(every, sizeof every);
    facts.only_recipient = (struct address){bytes_of(every, 128), B("r.example")};
    assert_true(endpoint_parse(B("[2001:db8::1]:25"), &facts.client));
    buffer_clear(&text);
    received_print(&text, &facts);
    check_one_field(buffer_view(&text));
    assert_true(bytes_find(buffer_view(&text), B("[IPv6:2001:db8::1]")) < text.count);
    buffer_free(&text);
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
        cmocka_unit_test_teardown(test_addresses, clear_arena),
        cmocka_unit_test_teardown(test_address_questions, clear_arena),
        cmocka_unit_test(test_address_lists),
        cmocka_unit_test(test_every_prefix_of_a_list),
        cmocka_unit_test_teardown(test_path_leaves_the_rest, clear_arena),
        cmocka_unit_test_teardown(test_every_prefix_of_paths, clear_arena),
        cmocka_unit_test_teardown(test_xtext, clear_arena),
        cmocka_unit_test_teardown(test_header_walk, clear_arena),
        cmocka_unit_test_teardown(test_header_edges, clear_arena),
        cmocka_unit_test_teardown(test_received, clear_arena),
        cmocka_unit_test_teardown(test_received_is_safe, clear_arena),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
