/*
 * Delivery status notifications. Called with the name of a sample it prints that one, so that a
 * mail parser of other people (check_dsn.py) can read it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "mail/mail.h"

#define B(text) BYTES_LITERAL(text)
#define WHEN INT64_C(1795512414000000)

static const struct dsn_recipient FAILED[] = {
    {.final = {B("nobody"), B("dest.example")},
     .original = B("rfc822;alias@here.example"),
     .action = DSN_FAILED,
     .status = B("5.1.1"),
     .remote_mta = B("mx.dest.example"),
     .diagnostic =
         B("550-5.1.1 The account that you tried to reach does not exist. Please look for "
           "typing errors\n550-5.1.1 and for needless blanks.\n550 5.1.1 Good bye"),
     .cause_name = B("remote.refused"),
     .explanation =
         B("The next hop answered 5yz; its words follow. Correct the address, or ask the "
           "recipient in another way."),
     .last_attempt_wall_us = WHEN},
    {.final = {B("a b"), B("dest.example")},
     .action = DSN_DELAYED,
     .cause_name = B("connect.timeout"),
     .diagnostic = B("no answer from any host"),
     .last_attempt_wall_us = WHEN,
     .retry_until_wall_us = WHEN + INT64_C(432000000000)},
};

static struct dsn sample_failed(void)
{
    return (struct dsn){.hostname = "mx.here.example",
                        .message = 7,
                        .own_message = 8,
                        .to = {B("sender"), B("from.example")},
                        .envelope_id = B("QQ314159"),
                        .arrival_wall_us = WHEN - 1000000,
                        .now_wall_us = WHEN,
                        .recipients = FAILED,
                        .recipient_count = COUNT_OF(FAILED),
                        .original =
                            B("Message-ID: <abc@from.example>\r\nSubject: hi\r\n\r\nbody\r\n"),
                        .original_is_whole = true};
}

static const uint8_t EVERY_BYTE[] = {
#define ROW(n) n, n + 1, n + 2, n + 3, n + 4, n + 5, n + 6, n + 7
    ROW(0),   ROW(8),   ROW(16),   ROW(24),   ROW(32),   ROW(40), ROW(48),
    ROW(56),  ROW(64),  ROW(72),   ROW(80),   ROW(88),   ROW(96), ROW(104),
    ROW(112), ROW(120), ROW(0xa0), ROW(0xc0), ROW(0xf0),
#undef ROW
};

/* Every foreign byte there is, at every foreign place, and an original that guesses the boundary.
 */
static struct dsn sample_hostile(struct dsn_recipient *recipient)
{
    static const struct bytes evil = {EVERY_BYTE, sizeof EVERY_BYTE};
    const struct bytes inject =
        B("x\r\nAction: delivered\r\n\r\n--=_holdfast_0000000000008_0--\r\n");

    *recipient = (struct dsn_recipient){.final = {evil, B("dest.example")},
                                        .original = inject,
                                        .action = DSN_FAILED,
                                        .status = inject,
                                        .remote_mta = inject,
                                        .diagnostic = inject,
                                        .cause_name = inject,
                                        .explanation = evil};
    struct dsn dsn = sample_failed();
    dsn.to = (struct address){evil, B("from.example")};
    dsn.envelope_id = inject;
    dsn.recipients = recipient;
    dsn.recipient_count = 1;
    dsn.original = B("Message-ID: <a b>\r\nX: --=_holdfast_0000000000008_0\r\n\r\n"
                     "--=_holdfast_0000000000008_1--\r\nbody");
    return dsn;
}

static struct dsn sample_utf8(struct dsn_recipient *recipient)
{
    *recipient = (struct dsn_recipient){.final = {B("\xc3\xbc"), B("dest.example")},
                                        .original = B("utf-8;\xc3\xbc@dest.example"),
                                        .action = DSN_DELIVERED,
                                        .status = B("2.0.0")};
    struct dsn dsn = sample_failed();
    dsn.recipients = recipient;
    dsn.recipient_count = 1;
    dsn.smtputf8 = true;
    dsn.original_is_whole = false;
    dsn.original = B("Subject: \xc3\xbc\r\n\r\nnot given back\r\n");
    return dsn;
}

static struct dsn sample_named(const char *name, struct dsn_recipient *recipient)
{
    if (strcmp(name, "hostile") == 0)
        return sample_hostile(recipient);
    return strcmp(name, "utf8") == 0 ? sample_utf8(recipient) : sample_failed();
}

static struct buffer print(const struct dsn *dsn)
{
    struct buffer text = BUFFER_WITH_LIMIT(4 * MIB);

    dsn_print(&text, dsn);
    assert_false(text.failed);
    return text;
}

static void check_lines(struct bytes text)
{
    while (text.count > 0) {
        const size_t end = bytes_find_byte(text, '\n');

        assert_true(end < text.count && end > 0 && text.at[end - 1] == '\r');
        assert_true(end < 998);
        for (size_t i = 0; i + 1 < end; i++)
            assert_true(text.at[i] != '\r' && text.at[i] != 0);
        text = bytes_skip(text, end + 1);
    }
}

static bool has(const struct buffer *text, const char *part)
{
    return bytes_find(buffer_view(text), bytes_of_text(part)) < text->count;
}

static void test_failed(void **state)
{
    const struct dsn dsn = sample_failed();
    struct buffer text = print(&dsn);

    (void)state;
    check_lines(buffer_view(&text));
    assert_true(has(&text, "\r\nAuto-Submitted: auto-replied\r\n"));
    assert_true(has(&text, "\r\nFinal-Recipient: rfc822; nobody@dest.example\r\n"));
    assert_true(has(&text, "\r\nFinal-Recipient: rfc822; \"a b\"@dest.example\r\n"));
    assert_true(has(&text, "\r\nStatus: 4.0.0\r\n"));
    assert_true(has(&text, "\r\n 550 5.1.1 Good bye\r\n"));
    assert_true(has(&text, "\r\nDiagnostic-Code: X-Holdfast; no answer from any host\r\n"));
    assert_true(has(&text, "\r\nWill-Retry-Until: Sun, 29 Nov 2026 09:26:54 +0000\r\n"));
    buffer_free(&text);
}

static void test_hostile(void **state)
{
    struct dsn_recipient recipient;
    const struct dsn dsn = sample_hostile(&recipient);
    struct buffer text = print(&dsn);

    (void)state;
    check_lines(buffer_view(&text));
    assert_false(has(&text, "\r\nAction: delivered"));
    assert_true(has(&text, "boundary=\"=_holdfast_0000000000008_2\""));
    assert_true(has(&text, "\r\nStatus: 5.0.0\r\n"));
    assert_false(has(&text, "\r\nIn-Reply-To:")); /* an id with a blank is nobody's */
    buffer_free(&text);
}

static void test_utf8(void **state)
{
    struct dsn_recipient recipient;
    struct dsn dsn = sample_utf8(&recipient);
    struct buffer text = print(&dsn);

    (void)state;
    check_lines(buffer_view(&text));
    assert_true(has(&text, "\r\nFinal-Recipient: utf-8; \xc3\xbc@dest.example\r\n"));
    assert_false(has(&text, "not given back"));
    buffer_free(&text);
    dsn.smtputf8 = false;
    text = print(&dsn);
    assert_true(has(&text, "\r\nFinal-Recipient: utf-8; \\x{FC}@dest.example\r\n"));
    assert_true(has(&text, "\r\nOriginal-Recipient: utf-8;\\x{FC}@dest.example\r\n"));
    buffer_free(&text);
}

/* A builder that is too small is left marked, and never holds a report that seems whole. */
static void test_limit_is_sticky(void **state)
{
    const struct dsn dsn = sample_failed();

    (void)state;
    for (size_t limit = 0; limit < 2000; limit += 97) {
        struct buffer text = BUFFER_WITH_LIMIT(limit);

        dsn_print(&text, &dsn);
        assert_true(text.failed);
        buffer_free(&text);
    }
}

int main(int argument_count, char **arguments)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_failed),
        cmocka_unit_test(test_hostile),
        cmocka_unit_test(test_utf8),
        cmocka_unit_test(test_limit_is_sticky),
    };

    if (argument_count > 1) {
        struct dsn_recipient recipient;
        const struct dsn dsn = sample_named(arguments[1], &recipient);
        struct buffer text = print(&dsn);

        fwrite(text.at, 1, text.count, stdout);
        buffer_free(&text);
        return 0;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
