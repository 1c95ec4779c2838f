/* base: bytes, arenas, buffers, readers, endpoints, units. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/base.h"

#define B(text) BYTES_LITERAL(text)

static void test_bytes_compare(void **state)
{
    (void)state;
    assert_true(bytes_equal_nocase(B("MAIL"), B("mail")));
    assert_false(bytes_equal_nocase(B("MAIL"), B("mai")));
    assert_true(bytes_equal(BYTES_EMPTY, B("")));
    assert_true(bytes_compare(B("a"), B("ab")) < 0);
    assert_true(bytes_starts_with_nocase(B("From: x"), B("FROM:")));
    assert_false(bytes_starts_with(B("F"), B("From")));
    assert_true(bytes_ends_with_nocase(B("mx.Example"), B(".example")));
    assert_int_equal(bytes_find(B("abcabc"), B("ca")), 2);
    assert_int_equal(bytes_find(B("abc"), B("x")), 3);
    assert_int_equal(bytes_find_nocase(B("abC"), B("bc")), 1);
    assert_int_equal(bytes_find_last_byte(B("a:b:c"), ':'), 3);
}

/* Every control character at every place of views around the width that is looked at in one go. */
static void test_bytes_find_control(void **state)
{
    uint8_t text[40];

    (void)state;
    for (size_t count = 0; count <= sizeof text; count++)
        for (unsigned octet = 0; octet < 256; octet++)
            for (size_t at = 0; at < count; at++) {
                memset(text, 0xc3, count);
                text[at] = (uint8_t)octet;
                const bool control = octet < 0x20 || octet == 0x7f;
                assert_int_equal(bytes_find_control(bytes_of(text, count)), control ? at : count);
            }
}

static void test_bytes_cut_and_trim(void **state)
{
    struct bytes head;
    struct bytes rest = bytes_cut(B("a,b,"), ',', &head);

    (void)state;
    assert_true(bytes_equal(head, B("a")));
    rest = bytes_cut(rest, ',', &head);
    assert_true(bytes_equal(head, B("b")));
    assert_int_equal(rest.count, 0);
    assert_true(bytes_equal(bytes_trim(B(" \t x y\r\n")), B("x y")));
    assert_int_equal(bytes_trim(B("  ")).count, 0);
    assert_int_equal(bytes_slice(B("abc"), 5, 2).count, 0);
}

static void test_numbers(void **state)
{
    uint64_t value = 0;

    (void)state;
    assert_true(bytes_to_u64(B("18446744073709551615"), &value));
    assert_true(value == UINT64_MAX);
    assert_false(bytes_to_u64(B("18446744073709551616"), &value));
    assert_false(bytes_to_u64(B("-1"), &value));
    assert_false(bytes_to_u64(B(""), &value));
    assert_false(bytes_to_u64(B("1 "), &value));
}

/* What acts on a terminal, turns text or is not seen, by its length; all else is fit. */
static void test_unfit(void **state UNUSED)
{
    static const struct {
        const char *text;
        size_t length;
        uint32_t code;
    } rows[] = {{"\n", 1, '\n'},
                {"\x1b[2J", 1, 0x1b},
                {"\x7f", 1, 0x7f},
                {"\xc2\x9b", 2, 0x9b},
                {"\xe2\x80\xae", 3, 0x202e},
                {"\xe2\x80\xa8", 3, 0x2028},
                {"\xef\xbb\xbf", 3, 0xfeff},
                {"\xf3\xa0\x81\x81", 4, 0xe0041},
                {"\x9b", 1, 0xfffd},
                {"\xe2\x80", 1, 0xfffd},
                {"\xc0\xaf", 1, 0xfffd},
                {"a", 0, 0},
                {" ", 0, 0},
                {"\xc2\xa0", 0, 0},
                {"\xc3\xbc", 0, 0},
                {"\xf0\x9f\x93\xa7", 0, 0}};

    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        uint32_t code = 0;
        assert_int_equal(bytes_unfit(bytes_of_text(rows[i].text), &code), rows[i].length);
        if (rows[i].length > 0)
            assert_int_equal(code, rows[i].code);
    }
    uint32_t code = 0;
    assert_int_equal(bytes_unfit(BYTES_EMPTY, &code), 0);
}

static void test_utf8(void **state)
{
    (void)state;
    assert_true(bytes_is_utf8(B("g\xc3\xbcnther \xf0\x9f\x93\xa7")));
    assert_false(bytes_is_utf8(B("\xc0\xaf")));     /* overlong */
    assert_false(bytes_is_utf8(B("\xed\xa0\x80"))); /* surrogate */
    assert_false(bytes_is_utf8(B("\xf4\x90\x80\x80")));
    assert_false(bytes_is_utf8(B("\xe2\x82")));
}

static void test_arena_is_bounded(void **state)
{
    struct arena arena = ARENA_WITH_LIMIT(10000);
    size_t given = 0;

    (void)state;
    while (arena_take(&arena, 100))
        given += 100;
    assert_true(given <= 10000 && given > 8000);
    assert_true(arena.failed);
    assert_null(arena_take_array(&arena, SIZE_MAX / 2, 4));
    arena_clear(&arena);
    assert_false(arena.failed);
    assert_true(bytes_equal(arena_print(&arena, "%d-%s", 7, "x"), B("7-x")));
    assert_string_equal(arena_text(&arena, B("abc")), "abc");
    assert_null(arena_take(&arena, SIZE_MAX));
    arena_clear(&arena);
}

static void test_buffer_is_bounded_and_sticky(void **state)
{
    struct buffer buffer = BUFFER_WITH_LIMIT(10);

    (void)state;
    buffer_add_text(&buffer, "12345678");
    buffer_add_text(&buffer, "abc");
    assert_true(buffer.failed);
    buffer_add_text(&buffer, "z");
    assert_true(bytes_equal(buffer_view(&buffer), B("12345678")));
    buffer_clear(&buffer);
    buffer_add_u16(&buffer, 0x1234);
    buffer_add_u32(&buffer, 0x56789abc);
    assert_true(bytes_equal(buffer_view(&buffer), B("\x12\x34\x56\x78\x9a\xbc")));
    buffer_drop_front(&buffer, 2);
    assert_int_equal(buffer.at[0], 0x56);
    buffer_drop_front(&buffer, 99);
    assert_int_equal(buffer.count, 0);
    buffer_free(&buffer);
}

static void test_reader_at_every_truncation(void **state)
{
    static const uint8_t image[] = {1, 2, 3, 4, 5, 6, 7, 'a', 'b', 0, 9};

    (void)state;
    for (size_t count = 0; count <= sizeof image; count++) {
        struct reader reader = READER_OF(bytes_of(image, count));
        const unsigned first = reader_u8(&reader), second = reader_u16(&reader);
        const uint32_t third = reader_u32(&reader);
        const struct bytes word = reader_until(&reader, 0);
        const unsigned last = reader_u8(&reader);
        assert_int_equal(reader.failed, count < sizeof image);
        if (!reader.failed) {
            assert_int_equal(first, 1);
            assert_int_equal(second, 0x0203);
            assert_int_equal(third, 0x04050607);
            assert_true(bytes_equal(word, B("ab")));
            assert_int_equal(last, 9);
            assert_true(reader_at_end(&reader));
        }
    }
}

static void test_endpoints(void **state)
{
    struct endpoint endpoint;
    char text[ENDPOINT_TEXT_MAX];
    static const char *const good[] = {"127.0.0.1:25", "[::1]:2525", "unix:/run/x.sock",
                                       "[2001:db8::5]:0"};
    static const char *const bad[] = {
        "",         "127.0.0.1", "::1:25", "[::1]",  "host:25", "1.2.3.4:65536",
        "1.2.3.4:", "unix:",     "[]:1",   "1.2.3:4"};

    (void)state;
    for (size_t i = 0; i < COUNT_OF(good); i++) {
        assert_true(endpoint_parse(bytes_of_text(good[i]), &endpoint));
        assert_string_equal(endpoint_print(&endpoint, text, sizeof text), good[i]);
    }
    for (size_t i = 0; i < COUNT_OF(bad); i++)
        assert_false(endpoint_parse(bytes_of_text(bad[i]), &endpoint));
    assert_true(endpoint_parse_resolver(B("127.0.0.1@5353"), &endpoint));
    assert_int_equal(endpoint.port, 5353);
    assert_true(endpoint_parse_resolver(B("::1"), &endpoint));
    assert_int_equal(endpoint.port, 53);
}

static void test_networks(void **state)
{
    struct ip_network network;
    struct ip_address ip;
    uint8_t name[128];

    (void)state;
    assert_true(ip_network_parse(B("10.1.2.0/23"), &network));
    assert_true(ip_parse(B("10.1.3.255"), &ip) && ip_network_contains(&network, &ip));
    assert_true(ip_parse(B("10.1.4.0"), &ip) && !ip_network_contains(&network, &ip));
    assert_true(ip_parse(B("::ffff:10.1.2.9"), &ip) && ip_network_contains(&network, &ip));
    assert_true(ip_network_parse(B("2001:db8::/32"), &network));
    assert_true(ip_parse(B("2001:db8:1::1"), &ip) && ip_network_contains(&network, &ip));
    assert_false(ip_network_parse(B("10.0.0.0/33"), &network));
    assert_false(ip_network_parse(B("10.0.0.0/"), &network));
    assert_true(ip_parse(B("192.0.2.1"), &ip));
    assert_string_equal(
        ip_reverse_name(&ip, "in-addr.arpa", "ip6.arpa", (struct span){name, sizeof name}),
        "1.2.0.192.in-addr.arpa");
    assert_true(ip_parse(B("2001:db8::1"), &ip));
    assert_string_equal(
        ip_reverse_name(&ip, "in-addr.arpa", "ip6.arpa", (struct span){name, sizeof name}),
        "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa");
}

static void test_units(void **state)
{
    uint64_t value = 0;
    char text[64];

    (void)state;
    assert_true(duration_parse(B("1h30m"), &value) && value == 5400 * US_PER_S);
    assert_true(duration_parse(B("300ms"), &value) && value == 300000);
    assert_true(duration_parse(B("0"), &value) && value == 0);
    assert_false(duration_parse(B("30"), &value));
    assert_false(duration_parse(B("30x"), &value));
    assert_false(duration_parse(B("h"), &value));
    assert_false(duration_parse(B("99999999999999d"), &value));
    assert_true(size_parse(B("50M"), &value) && value == 50 * MIB);
    assert_true(size_parse(B("010"), &value) && value == 10);
    assert_false(size_parse(B("5T"), &value));
    assert_string_equal(time_print_rfc3339(1764000000123456, text, sizeof text),
                        "2025-11-24T16:00:00.123456Z");
    assert_string_equal(time_print_rfc5322(1764000000123456, text, sizeof text),
                        "Mon, 24 Nov 2025 16:00:00 +0000");
    assert_string_equal(time_print_rfc3339(-1, text, sizeof text), "1969-12-31T23:59:59.999999Z");
    assert_string_equal(duration_print(11400 * US_PER_S, text, sizeof text), "3 h 10 min");
}

static void test_ids(void **state)
{
    static const uint64_t ids[] = {0, 1, 31, 32, UINT64_MAX, 0x0123456789abcdef};
    char text[ID_TEXT_MAX];
    uint64_t back = 0;

    (void)state;
    for (size_t i = 0; i < COUNT_OF(ids); i++) {
        assert_true(id_parse(bytes_of_text(id_print(ids[i], text, sizeof text)), &back));
        assert_true(back == ids[i]);
    }
    assert_true(id_parse(B("00000000000ab"), &back) && back == 10 * 32 + 11);
    assert_false(id_parse(B("G000000000000"), &back)); /* over 64 bits */
    assert_false(id_parse(B("000000000000"), &back));
    assert_false(id_parse(B("000000000000U"), &back));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bytes_compare),
        cmocka_unit_test(test_bytes_find_control),
        cmocka_unit_test(test_bytes_cut_and_trim),
        cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_utf8),
        cmocka_unit_test(test_unfit),
        cmocka_unit_test(test_arena_is_bounded),
        cmocka_unit_test(test_buffer_is_bounded_and_sticky),
        cmocka_unit_test(test_reader_at_every_truncation),
        cmocka_unit_test(test_endpoints),
        cmocka_unit_test(test_networks),
        cmocka_unit_test(test_units),
        cmocka_unit_test(test_ids),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
