/* Commands: the grammar of RFC 5321 and its extensions, case by case, and every prefix of each. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "wire/wire.h"

#define LITERAL(text)                                                                              \
    {                                                                                              \
        (const uint8_t *)(text), sizeof(text) - 1                                                  \
    }

static struct arena arena = ARENA_WITH_LIMIT(MIB);

static struct smtp_command parse(struct bytes line)
{
    struct smtp_command command;

    arena_clear(&arena);
    smtp_parse_command(&arena, line, &command);
    return command;
}

static struct smtp_command parse_text(const char *line)
{
    return parse(bytes_of_text(line));
}

static const struct {
    struct bytes line;
    enum smtp_verb verb;
    enum smtp_fault fault;
} CASES[] = {
    {LITERAL(""), SMTP_UNKNOWN, SMTP_FINE},
    {LITERAL("EHLO"), SMTP_EHLO, SMTP_FAULT_SYNTAX},
    {LITERAL("HELO"), SMTP_HELO, SMTP_FAULT_SYNTAX},
    {LITERAL("HELO [127.0.0.1]"), SMTP_HELO, SMTP_FINE},
    {LITERAL("EHLO [IPv6:::1]"), SMTP_EHLO, SMTP_FINE},
    {LITERAL("ehlo x"), SMTP_EHLO, SMTP_FINE},
    {LITERAL("EHLO a\x01z"), SMTP_EHLO, SMTP_FAULT_SYNTAX},
    {LITERAL("LHLO x"), SMTP_LHLO, SMTP_FINE},
    {LITERAL("NOOP "), SMTP_NOOP, SMTP_FINE},
    {LITERAL("NOOP anything"), SMTP_NOOP, SMTP_FINE},
    {LITERAL("RSET  "), SMTP_RSET, SMTP_FINE},
    {LITERAL("DATA "), SMTP_DATA, SMTP_FINE},
    {LITERAL("DATA x"), SMTP_DATA, SMTP_FAULT_SYNTAX},
    {LITERAL(" NOOP"), SMTP_UNKNOWN, SMTP_FINE},
    {LITERAL("XYZZY"), SMTP_UNKNOWN, SMTP_FINE},
    {LITERAL("WHATISTHIS"), SMTP_UNKNOWN, SMTP_FINE},
    {LITERAL("EXPN x"), SMTP_EXPN, SMTP_FINE},
    {LITERAL("VRFY x"), SMTP_VRFY, SMTP_FINE},
    {LITERAL("HELP"), SMTP_HELP, SMTP_FINE},
    {LITERAL("TURN"), SMTP_TURN, SMTP_FINE},
    {LITERAL("SEND FROM:<a@b>"), SMTP_TURN, SMTP_FINE},
    {LITERAL("QUIT"), SMTP_QUIT, SMTP_FINE},
    {LITERAL("ETRN example.com"), SMTP_ETRN, SMTP_FINE},
    {LITERAL("STARTTLS"), SMTP_STARTTLS, SMTP_FINE},
    {LITERAL("STARTTLS foo"), SMTP_STARTTLS, SMTP_FAULT_SYNTAX},
    {LITERAL("AUTH"), SMTP_AUTH, SMTP_FAULT_SYNTAX},
    {LITERAL("AUTH PLAIN"), SMTP_AUTH, SMTP_FINE},
    {LITERAL("XCLIENT ADDR=192.0.2.1"), SMTP_XCLIENT, SMTP_FINE},
    {LITERAL("XFORWARD NAME=x"), SMTP_UNKNOWN, SMTP_FINE},
    {LITERAL("PROXY TCP4 1.2.3.4 5.6.7.8 1 25"), SMTP_UNKNOWN, SMTP_FINE},
    {LITERAL("\xff\xf4\xff\xfd"
             "EHLO x"),
     SMTP_UNKNOWN, SMTP_FINE},
    /* other protocols */
    {LITERAL("GET / HTTP/1.1"), SMTP_FOREIGN, SMTP_FINE},
    {LITERAL("POST /evil HTTP/1.1"), SMTP_FOREIGN, SMTP_FINE},
    {LITERAL("CONNECT www.example.com:80 HTTP/1.1"), SMTP_FOREIGN, SMTP_FINE},
    {LITERAL("Subject: x"), SMTP_FOREIGN, SMTP_FINE},
    {LITERAL("From: y"), SMTP_FOREIGN, SMTP_FINE},
    {LITERAL("Host:x"), SMTP_FOREIGN, SMTP_FINE},
    {LITERAL("\x16\x03\x01\x02\x00\x01"), SMTP_FOREIGN, SMTP_FINE},
    /* MAIL */
    {LITERAL("MAIL"), SMTP_MAIL, SMTP_FAULT_SYNTAX},
    {LITERAL("MAIL LALA: <>"), SMTP_UNKNOWN, SMTP_FINE},
    {LITERAL("MAIL FROM:"), SMTP_UNKNOWN, SMTP_FINE},
    {LITERAL("MAIL FROM:<>"), SMTP_MAIL, SMTP_FINE},
    {LITERAL("MAIL FROM: <>"), SMTP_MAIL, SMTP_FINE},
    {LITERAL("mail from:<a@b.example>"), SMTP_MAIL, SMTP_FINE},
    {LITERAL("MAIL FROM: <a@b.example>"), SMTP_MAIL, SMTP_FINE},
    {LITERAL("MAIL FROM:a@b.example"), SMTP_MAIL, SMTP_FAULT_ADDRESS},
    {LITERAL("MAIL FROM:<pepe>"), SMTP_MAIL, SMTP_FAULT_ADDRESS},
    {LITERAL("MAIL FROM:<postmaster>"), SMTP_MAIL, SMTP_FAULT_ADDRESS},
    {LITERAL("MAIL FROM:<a@xn--->"), SMTP_MAIL, SMTP_FAULT_ADDRESS},
    {LITERAL("MAIL FROM:<a@b.example"), SMTP_MAIL, SMTP_FAULT_ADDRESS},
    {LITERAL("MAIL FROM:<a@b.example>x"), SMTP_MAIL, SMTP_FAULT_SYNTAX},
    {LITERAL("MAIL FROM:<@x.example,@y.example:a@b.example>"), SMTP_MAIL, SMTP_FINE},
    {LITERAL("MAIL FROM:<@x.example,a@b.example>"), SMTP_MAIL, SMTP_FAULT_ADDRESS},
    {LITERAL("MAIL FROM:<\xc3\xa9@b.example>"), SMTP_MAIL, SMTP_FAULT_UTF8},
    {LITERAL("MAIL FROM:<\xc3\xa9@b.example> SMTPUTF8"), SMTP_MAIL, SMTP_FINE},
    {LITERAL("MAIL FROM:<\xff\xfe@b.example> SMTPUTF8"), SMTP_MAIL, SMTP_FAULT_ADDRESS},
    {LITERAL("MAIL FROM:<a@b.example> SMTPUTF8=1"), SMTP_MAIL, SMTP_FAULT_SYNTAX},
    {LITERAL("MAIL FROM:<a@b.example> FOO=bar"), SMTP_MAIL, SMTP_FAULT_PARAMETER},
    {LITERAL("MAIL FROM:<a@b.example> NOTIFY=NEVER"), SMTP_MAIL, SMTP_FAULT_PARAMETER},
    {LITERAL("MAIL FROM:<a@b.example> SIZE=1 SIZE=2"), SMTP_MAIL, SMTP_FAULT_SYNTAX},
    {LITERAL("MAIL FROM:<a@b.example> SIZE=1 size=1"), SMTP_MAIL, SMTP_FAULT_SYNTAX},
    {LITERAL("MAIL FROM:<a@b.example> SIZE=10"), SMTP_MAIL, SMTP_FINE},
    {LITERAL("MAIL FROM:<a@b.example> SIZE="), SMTP_MAIL, SMTP_FAULT_SYNTAX},
    {LITERAL("MAIL FROM:<a@b.example> SIZE"), SMTP_MAIL, SMTP_FAULT_SYNTAX},
    {LITERAL("MAIL FROM:<a@b.example> SIZE=-1"), SMTP_MAIL, SMTP_FAULT_SYNTAX},
    {LITERAL("MAIL FROM:<a@b.example> SIZE=99999999999999999999"), SMTP_MAIL, SMTP_FAULT_TOO_BIG},
    {LITERAL("MAIL FROM:<a@b.example> BODY=FOO"), SMTP_MAIL, SMTP_FAULT_SYNTAX},
    {LITERAL("MAIL FROM:<a@b.example> BODY=8bitmime"), SMTP_MAIL, SMTP_FINE},
    {LITERAL("MAIL FROM:<a@b.example> RET=FOO ENVID=a+GG"), SMTP_MAIL, SMTP_FAULT_SYNTAX},
    {LITERAL("MAIL FROM:<a@b.example> ENVID=a+GG"), SMTP_MAIL, SMTP_FAULT_SYNTAX},
    {LITERAL("MAIL FROM:<a@b.example> ENVID="), SMTP_MAIL, SMTP_FAULT_SYNTAX},
    {LITERAL("MAIL FROM:<a@b.example> AUTH=<>"), SMTP_MAIL, SMTP_FINE},
    {LITERAL("MAIL FROM:<a@b.example> AUTH=e+3Dmc2@example.com"), SMTP_MAIL, SMTP_FINE},
    {LITERAL("MAIL FROM:<a@b.example> REQUIRETLS"), SMTP_MAIL, SMTP_FINE},
    {LITERAL("MAIL FROM:<a@b.example> =x"), SMTP_MAIL, SMTP_FAULT_SYNTAX},
    /* RCPT */
    {LITERAL("RCPT TO:"), SMTP_UNKNOWN, SMTP_FINE},
    {LITERAL("RCPT LALA: <>"), SMTP_UNKNOWN, SMTP_FINE},
    {LITERAL("RCPT TO:<>"), SMTP_RCPT, SMTP_FAULT_ADDRESS},
    {LITERAL("RCPT TO:<pepe>"), SMTP_RCPT, SMTP_FAULT_ADDRESS},
    {LITERAL("RCPT TO:<Postmaster>"), SMTP_RCPT, SMTP_FINE},
    {LITERAL("RCPT TO: user@testserver"), SMTP_RCPT, SMTP_FAULT_ADDRESS},
    {LITERAL("RCPT TO:<\"a"), SMTP_RCPT, SMTP_FAULT_ADDRESS},
    {LITERAL("RCPT TO:<u@[192.0.2.1]>"), SMTP_RCPT, SMTP_FINE},
    {LITERAL("RCPT TO:<u@[192.0.2.256]>"), SMTP_RCPT, SMTP_FAULT_ADDRESS},
    {LITERAL("RCPT TO:<u@r.example> NOTIFY=NEVER"), SMTP_RCPT, SMTP_FINE},
    {LITERAL("RCPT TO:<u@r.example> NOTIFY=NEVER,FAILURE"), SMTP_RCPT, SMTP_FAULT_SYNTAX},
    {LITERAL("RCPT TO:<u@r.example> NOTIFY=FAILURE,"), SMTP_RCPT, SMTP_FAULT_SYNTAX},
    {LITERAL("RCPT TO:<u@r.example> NOTIFY="), SMTP_RCPT, SMTP_FAULT_SYNTAX},
    {LITERAL("RCPT TO:<u@r.example> NOTIFY=Success,delay ORCPT=rfc822;a+2Bb@c"), SMTP_RCPT,
     SMTP_FINE},
    {LITERAL("RCPT TO:<u@r.example> ORCPT=rfc822;a+0D+0AX-Evil:+201@b"), SMTP_RCPT,
     SMTP_FAULT_SYNTAX},
    {LITERAL("RCPT TO:<u@r.example> ORCPT=a@b"), SMTP_RCPT, SMTP_FAULT_SYNTAX},
    {LITERAL("RCPT TO:<u@r.example> ORCPT=utf-8;\xc3\xa9@b.example"), SMTP_RCPT, SMTP_FINE},
    {LITERAL("RCPT TO:<u@r.example> SIZE=1"), SMTP_RCPT, SMTP_FAULT_PARAMETER},
    /* BDAT */
    {LITERAL("BDAT"), SMTP_BDAT, SMTP_FAULT_SYNTAX},
    {LITERAL("BDAT 0 LAST"), SMTP_BDAT, SMTP_FINE},
    {LITERAL("BDAT 7 last"), SMTP_BDAT, SMTP_FINE},
    {LITERAL("BDAT 7 FIRST"), SMTP_BDAT, SMTP_FAULT_SYNTAX},
    {LITERAL("BDAT -1"), SMTP_BDAT, SMTP_FAULT_SYNTAX},
    {LITERAL("BDAT 0x10"), SMTP_BDAT, SMTP_FAULT_SYNTAX},
    {LITERAL("BDAT 18446744073709551616"), SMTP_BDAT, SMTP_FAULT_SYNTAX},
    {LITERAL("BDAT .\x7f"), SMTP_BDAT, SMTP_FAULT_SYNTAX},
    {LITERAL("BDAT 999999999 LAST"), SMTP_BDAT, SMTP_FINE},
};

static void test_cases(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT_OF(CASES); i++) {
        const struct smtp_command command = parse(CASES[i].line);

        if (command.verb != CASES[i].verb || command.fault != CASES[i].fault)
            fail_msg("\"%.*s\": verb %d, fault %d; expected %d, %d", BYTES_PRINT(CASES[i].line),
                     (int)command.verb, (int)command.fault, (int)CASES[i].verb,
                     (int)CASES[i].fault);
    }
}

static void check_bytes(struct bytes got, const char *expected)
{
    if (!bytes_equal_text(got, expected))
        fail_msg("got \"%.*s\", expected \"%s\"", BYTES_PRINT(got), expected);
}

static void check_path(const char *line, const char *local, const char *domain)
{
    const struct smtp_command command = parse_text(line);

    assert_int_equal(command.fault, SMTP_FINE);
    check_bytes(command.path.local, local);
    check_bytes(command.path.domain, domain);
}

static void test_paths(void **state)
{
    (void)state;
    check_path("MAIL FROM:<>", "", "");
    check_path("MAIL FROM:<@x.example,@y.example:a@B.Example.>", "a", "b.example");
    check_path("RCPT TO:<Postmaster>", "Postmaster", "");
    check_path("RCPT TO:<\"a b\\\"c\"@b.example>", "a b\"c", "b.example");
    check_path("RCPT TO:<u%other.example@r.example>", "u%other.example", "r.example");
    check_path("RCPT TO:<other.example!u@r.example>", "other.example!u", "r.example");
    check_path("RCPT TO:<\"u@other.example\"@r.example>", "u@other.example", "r.example");
    check_path("RCPT TO:<\"a>b\"@r.example>", "a>b", "r.example");
    check_path("RCPT TO:<\xc3\xbc@r.example>", "\xc3\xbc", "r.example");
}

static void test_bare_path_is_filled_in(void **state)
{
    const struct smtp_command command = parse_text("RCPT TO: user@testserver NOTIFY=DELAY");

    (void)state;
    assert_int_equal(command.fault, SMTP_FAULT_ADDRESS);
    assert_true(command.path_bare);
    check_bytes(command.path.local, "user");
    check_bytes(command.path.domain, "testserver");
    assert_int_equal(command.notify, NOTIFY_DELAY);
}

static void test_parameters(void **state)
{
    struct smtp_command command =
        parse_text("MAIL FROM:<a@b.example> SIZE=1234 BODY=BINARYMIME RET=HDRS ENVID=x+2By "
                   "SMTPUTF8  REQUIRETLS AUTH=q+40r ");

    (void)state;
    assert_int_equal(command.fault, SMTP_FINE);
    assert_int_equal(command.parameter_count, 7);
    assert_int_equal(command.size_bytes, 1234);
    assert_int_equal(command.body, BODY_BINARYMIME);
    assert_int_equal(command.dsn_return, RETURN_HEADERS);
    check_bytes(command.envelope_id, "x+y");
    check_bytes(command.auth, "q@r");
    assert_true(command.smtputf8 && command.requiretls);

    command = parse_text("RCPT TO:<a@b.example> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;c+40d");
    assert_int_equal(command.fault, SMTP_FINE);
    assert_int_equal(command.notify, NOTIFY_SUCCESS | NOTIFY_DELAY);
    check_bytes(command.original_recipient, "rfc822;c@d");

    command = parse_text("BDAT 86 LAST");
    assert_int_equal(command.chunk_bytes, 86);
    assert_true(command.chunk_last);

    command = parse_text("AUTH PLAIN  dGVz\t ");
    check_bytes(command.argument, "PLAIN  dGVz");
}

static void test_long_parts_are_refused(void **state)
{
    char line[800] = "MAIL FROM:<";

    (void)state;
    memset(line + 11, 'a', 257);
    memcpy(line + 11 + 257, "@b.example>", 12);
    assert_int_equal(parse_text(line).fault, SMTP_FAULT_ADDRESS);
    memcpy(line + 11 + 256, "@b.example>", 12);
    assert_int_equal(parse_text(line).fault, SMTP_FINE);
    memcpy(line, "EHLO ", 5);
    memset(line + 5, 'a', 256);
    line[5 + 256] = 0;
    assert_int_equal(parse_text(line).fault, SMTP_FAULT_SYNTAX);
}

/* Every prefix is judged without reading behind its end: each lies in memory of just its size. */
static void test_every_prefix(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT_OF(CASES); i++) {
        for (size_t length = 0; length <= CASES[i].line.count; length++) {
            uint8_t *copy = malloc(length + (length == 0));

            assert_non_null(copy);
            memcpy(copy, CASES[i].line.at, length);
            (void)parse(bytes_of(copy, length));
            free(copy);
        }
    }
}

/* A full arena is a fault of ours; it must show as one and not as half an address. */
static void test_full_arena(void **state)
{
    struct smtp_command command;

    (void)state;
    for (size_t limit = 0; limit < 200; limit += 16) {
        struct arena small = ARENA_WITH_LIMIT(limit);

        smtp_parse_command(&small, BYTES_LITERAL("MAIL FROM:<abc@b.example> ENVID=x"), &command);
        assert_true(command.fault == SMTP_FINE || small.failed);
        assert_true(command.fault != SMTP_FINE || command.envelope_id.count == 1);
        arena_clear(&small);
    }
    arena_clear(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cases),
        cmocka_unit_test(test_paths),
        cmocka_unit_test(test_bare_path_is_filled_in),
        cmocka_unit_test(test_parameters),
        cmocka_unit_test(test_long_parts_are_refused),
        cmocka_unit_test(test_every_prefix),
        cmocka_unit_test(test_full_arena),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
