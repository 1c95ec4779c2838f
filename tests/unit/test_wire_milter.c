/* The milter client against a milter in memory: what is said, every answer and fault, and scopes.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "milter_script.h"

#define LITERAL(text)                                                                              \
    {                                                                                              \
        (const uint8_t *)(text), sizeof(text) - 1                                                  \
    }
#define ANSWER(text) BYTES_LITERAL(text)
#define CONTINUE "\0\0\0\1c"
#define ALL(rows) rows, COUNT_OF(rows)

static struct arena arena = ARENA_WITH_LIMIT(4 * MIB);
static const struct milter_macro MACROS[] = {
    {"j", LITERAL("mx.example")},
    {"{mail_addr}", LITERAL("from@a.example")},
    {"{rcpt_addr}", LITERAL("to@b.example")},
    {"{if_addr}", LITERAL("192.0.2.2")},
    {"i", LITERAL("0QUEUE")},
    {"{tls_version}", LITERAL("")},
};
static const struct milter_call CALL = {
    .arena = &arena, .deadline_us = DEADLINE_NEVER, .macros = MACROS, .macro_count = 6};
static const struct bytes HEADER = LITERAL("From: a\r\nSubject:  two\r\n lines\r\n");
static const char BODY[] = "body\r\n";

static struct io_result read_view(void *argument, struct span into, uint64_t offset)
{
    const struct bytes piece = bytes_slice(*(struct bytes *)argument, offset, into.count);

    if (piece.count > 0)
        memcpy(into.at, piece.at, piece.count);
    return io_ok(piece.count);
}

static struct io_result sink_write(void *argument, struct bytes piece)
{
    buffer_add(argument, piece);
    return io_ok(piece.count);
}

struct run {
    struct milter_verdict open, connect, helo, mail, rcpt, data, message;
    struct milter_changes changes;
    struct buffer new_body;
};

static struct milter_verdict say_message(struct milter *milter, struct run *run, struct bytes body)
{
    const struct message_source source = {read_view, &body, body.count};
    const struct milter_message message = {.headers = {.below = HEADER}, .body = &source};

    run->changes = (struct milter_changes){.body = {sink_write, &run->new_body}};
    return milter_message(milter, &CALL, &message, &run->changes);
}

static struct milter_verdict say_mail(struct milter *milter)
{
    static const struct bytes parameters[] = {LITERAL("SIZE=100"), LITERAL("BODY=8BITMIME")};

    return milter_mail(milter, &CALL,
                       &(struct milter_path){BYTES_LITERAL("<from@a.example>"), parameters, 2});
}

static struct milter_verdict say_rcpt(struct milter *milter)
{
    return milter_rcpt(milter, &CALL,
                       &(struct milter_path){BYTES_LITERAL("<to@b.example>"), NULL, 0});
}

static struct milter_verdict say_connect(struct milter *milter)
{
    struct endpoint remote;

    assert_true(endpoint_parse(BYTES_LITERAL("192.0.2.1:4711"), &remote));
    return milter_connect(milter, &CALL,
                          &(struct milter_client){&remote, BYTES_LITERAL("client.example")});
}

/* A whole session with one message. The words live in the arena until the next. */
static struct run run_all(struct milter_script *script, struct milter **milter)
{
    struct run run = {.new_body = BUFFER_WITH_LIMIT(MIB)};

    arena_clear(&arena);
    run.open = milter_open_stream(&script->stream, &CALL, milter);
    if (!*milter)
        return run;
    run.connect = say_connect(*milter);
    run.helo = milter_helo(*milter, &CALL, BYTES_LITERAL("helo.example"));
    run.mail = say_mail(*milter);
    run.rcpt = say_rcpt(*milter);
    run.data = milter_data(*milter, &CALL);
    run.message = say_message(*milter, &run, bytes_of_text(BODY));
    return run;
}

static void run_free(struct run *run, struct milter_script *script, struct milter **milter)
{
    milter_close(milter);
    buffer_free(&run->new_body);
    milter_script_free(script);
}

static void assert_letters(const struct milter_script *script, const char *expected)
{
    char letters[256];

    script_letters(script, letters, sizeof letters);
    assert_string_equal(letters, expected);
}

static void assert_packet(const struct milter_script *script, uint8_t kind, unsigned which,
                          struct bytes expected)
{
    const struct bytes data = script_packet(script, kind, which);

    if (!bytes_equal(data, expected))
        fail_msg("packet %c %u: \"%.*s\"", kind, which, BYTES_PRINT(data));
}

/* ------------------------------------------------------------------ what is said */

static void test_whole_session(void **state)
{
    struct milter_script script = milter_script_of(NULL, 0);
    struct milter *milter;
    struct run run = run_all(&script, &milter);

    (void)state;
    assert_int_equal(run.message.answer, MILTER_CONTINUE);
    assert_letters(&script, "ODCHDMDRDTLLDNBDE");
    assert_packet(&script, 'O', 0, BYTES_LITERAL("\0\0\0\6\0\0\1\xff\0\x1f\xf7\xff"));
    assert_packet(&script, 'D', 0,
                  BYTES_LITERAL("Cj\0mx.example\0{if_addr}\0"
                                "192.0.2.2\0"));
    assert_packet(&script, 'C', 0,
                  BYTES_LITERAL("client.example\0"
                                "4\x12\x67"
                                "192.0.2.1\0"));
    assert_packet(&script, 'H', 0, BYTES_LITERAL("helo.example\0"));
    assert_packet(&script, 'D', 1,
                  BYTES_LITERAL("Mi\0"
                                "0QUEUE\0{mail_addr}\0from@a.example\0"));
    assert_packet(&script, 'M', 0, BYTES_LITERAL("<from@a.example>\0SIZE=100\0BODY=8BITMIME\0"));
    assert_packet(&script, 'R', 0, BYTES_LITERAL("<to@b.example>\0"));
    assert_packet(&script, 'L', 0, BYTES_LITERAL("From\0a\0"));
    assert_packet(&script, 'L', 1, BYTES_LITERAL("Subject\0 two\n lines\0"));
    assert_packet(&script, 'B', 0, BYTES_LITERAL("body\r\n"));
    run_free(&run, &script, &milter);
    assert_true(script.closed);
}

/* Each NO_ flag leaves its command out, each MUTE_ flag its answer; nothing hangs or gets out of
 * step. */
static void test_steps(void **state)
{
    static const struct {
        uint32_t steps;
        const char *letters;
    } cases[] = {
        {MILTER_NO_CONNECT, "OHDMDRDTLLDNBDE"},
        {MILTER_NO_HELO, "ODCDMDRDTLLDNBDE"},
        {MILTER_NO_MAIL, "ODCHDRDTLLDNBDE"},
        {MILTER_NO_RCPT, "ODCHDMDTLLDNBDE"},
        {MILTER_NO_DATA, "ODCHDMDRLLDNBDE"},
        {MILTER_NO_HEADERS, "ODCHDMDRDTDNBDE"},
        {MILTER_NO_EOH, "ODCHDMDRDTLLBDE"},
        {MILTER_NO_BODY, "ODCHDMDRDTLLDNDE"},
        {MILTER_MUTE_CONNECT | MILTER_MUTE_HELO | MILTER_MUTE_MAIL | MILTER_MUTE_RCPT |
             MILTER_MUTE_DATA | MILTER_MUTE_HEADERS | MILTER_MUTE_EOH | MILTER_MUTE_BODY,
         "ODCHDMDRDTLLDNBDE"},
    };

    (void)state;
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct milter_script script = milter_script_of(NULL, 0);
        struct milter *milter;
        script.steps = cases[i].steps;
        struct run run = run_all(&script, &milter);
        assert_int_equal(run.message.answer, MILTER_CONTINUE);
        assert_letters(&script, cases[i].letters);
        run_free(&run, &script, &milter);
    }
}

static void test_old_version_gets_no_new_commands(void **state)
{
    struct milter_script script = milter_script_of(NULL, 0);
    struct milter *milter;

    (void)state;
    script.version = 2;
    script.actions = 0x3f;
    struct run run = run_all(&script, &milter);
    assert_int_equal(run.message.answer, MILTER_CONTINUE);
    assert_int_equal(milter_unknown(milter, &CALL, BYTES_LITERAL("HUH")).answer, MILTER_CONTINUE);
    assert_letters(&script, "ODCHDMDRLLDNBDE");
    assert_false(milter_end_session(milter));
    run_free(&run, &script, &milter);
}

static void test_leading_space_and_skip(void **state)
{
    static const struct script_row rows[] = {{'L', LITERAL("\0\0\0\1s")},
                                             {'B', LITERAL("\0\0\0\1s")}};
    static uint8_t large[200000];
    struct milter_script script = milter_script_of(rows, 2);
    struct milter *milter;

    (void)state;
    script.steps = MILTER_LEADING_SPACE | MILTER_MAY_SKIP;
    struct run run = run_all(&script, &milter);
    assert_int_equal(run.message.answer, MILTER_CONTINUE);
    assert_packet(&script, 'L', 0, BYTES_LITERAL("From\0 a\0"));
    assert_letters(&script, "ODCHDMDRDTLDNBDE");
    assert_int_equal(say_mail(milter).answer, MILTER_CONTINUE);
    memset(large, 'x', sizeof large);
    assert_int_equal(say_message(milter, &run, bytes_of(large, sizeof large)).answer,
                     MILTER_CONTINUE);
    assert_letters(&script, "ODCHDMDRDTLDNBDEDMLLDNBBBBDE");
    assert_int_equal(script_packet(&script, 'B', 1).count, 65535);
    assert_int_equal(script_packet(&script, 'B', 4).count, 200000 - 3 * 65535);
    run_free(&run, &script, &milter);
}

static void test_chosen_macros(void **state)
{
    struct milter_script script = milter_script_of(NULL, 0);
    struct milter *milter;

    (void)state;
    script.lists = BYTES_LITERAL("\0\0\0\0j, if_addr {nothing}\0\0\0\0\2\0\0\0\0\3{mail_addr}\0");
    struct run run = run_all(&script, &milter);
    assert_packet(&script, 'D', 0,
                  BYTES_LITERAL("Cj\0mx.example\0{if_addr}\0"
                                "192.0.2.2\0"));
    assert_packet(&script, 'D', 1, BYTES_LITERAL("R{mail_addr}\0from@a.example\0"));
    assert_letters(&script, "ODCHMDRDTLLDNBDE");
    run_free(&run, &script, &milter);
}

/* ------------------------------------------------------------------ answers and their scopes */

static const struct {
    struct bytes packet;
    enum milter_answer answer;
    const char *words;
} ANSWERS[] = {
    {LITERAL("\0\0\0\1a"), MILTER_ACCEPT, ""},
    {LITERAL("\0\0\0\1r"), MILTER_REJECT, ""},
    {LITERAL("\0\0\0\1t"), MILTER_TEMPFAIL, ""},
    {LITERAL("\0\0\0\1d"), MILTER_DISCARD, ""},
    {LITERAL("\0\0\0\0014"), MILTER_SHUTDOWN, ""},
    {LITERAL("\0\0\0\1p\0\0\0\1p\0\0\0\1r"), MILTER_REJECT, ""},
    {LITERAL("\0\0\0\022y555 5.0.0 custom\0"), MILTER_REPLY_5, "555 5.0.0 custom"},
    {LITERAL("\0\0\0\031y501 No authentication 1\0"), MILTER_REPLY_5, "501 No authentication 1"},
    {LITERAL("\0\0\0\047y451-4.7.1 one%% \t.\r\n451-4.7.1 \r\n451 t\0"), MILTER_REPLY_4,
     "451-4.7.1 one%  .\n451-4.7.1 \n451 t"},
    {LITERAL("\0\0\0\020y550 4.7.1 fake\0"), MILTER_REPLY_INVALID, "550 4.7.1 fake"},
    {LITERAL("\0\0\0\010y250 ok\0"), MILTER_REPLY_INVALID, "250 ok"},
    {LITERAL("\0\0\0\016y550-a\r\n450 b\0"), MILTER_REPLY_INVALID, NULL},
    {LITERAL("\0\0\0\002y\0"), MILTER_REPLY_INVALID, ""},
    {LITERAL("\0\0\0\005yabc\0"), MILTER_REPLY_INVALID, "abc"},
};

static void test_every_answer_at_every_step(void **state)
{
    static const char commands[] = "CHMRTLNBE";

    (void)state;
    for (size_t i = 0; i < COUNT_OF(ANSWERS); i++) {
        for (const char *command = commands; *command; command++) {
            const struct script_row row = {(uint8_t)*command, ANSWERS[i].packet};
            struct milter_script script = milter_script_of(&row, 1);
            struct milter *milter;
            struct run run = run_all(&script, &milter);
            const struct milter_verdict *verdict = *command == 'C'   ? &run.connect
                                                   : *command == 'H' ? &run.helo
                                                   : *command == 'M' ? &run.mail
                                                   : *command == 'R' ? &run.rcpt
                                                   : *command == 'T' ? &run.data
                                                                     : &run.message;
            if (verdict->answer != ANSWERS[i].answer)
                fail_msg("case %zu at %c: %d \"%.*s\"", i, *command, (int)verdict->answer,
                         BYTES_PRINT(verdict->words));
            if (ANSWERS[i].words)
                assert_true(bytes_equal_text(verdict->words, ANSWERS[i].words));
            /* It stands for the rest of its scope, but an objection to a recipient does not. */
            const bool only_rcpt = *command == 'R' && ANSWERS[i].answer != MILTER_ACCEPT &&
                                   ANSWERS[i].answer != MILTER_DISCARD &&
                                   ANSWERS[i].answer != MILTER_SHUTDOWN;
            assert_int_equal(run.message.answer, only_rcpt ? MILTER_CONTINUE : ANSWERS[i].answer);
            if (!only_rcpt && ANSWERS[i].words)
                assert_true(bytes_equal_text(run.message.words, ANSWERS[i].words));
            /* The next message of the session. */
            const bool whole_session =
                *command == 'C' || *command == 'H' || ANSWERS[i].answer == MILTER_SHUTDOWN;
            assert_int_equal(say_mail(milter).answer,
                             whole_session ? ANSWERS[i].answer : MILTER_CONTINUE);
            run_free(&run, &script, &milter);
        }
    }
}

static void test_abort_and_next_message(void **state)
{
    struct milter_script script = milter_script_of(NULL, 0);
    struct milter *milter;
    struct run run = run_all(&script, &milter);

    (void)state;
    say_mail(milter);
    milter_abort(milter);
    milter_abort(milter);
    assert_int_equal(say_mail(milter).answer, MILTER_CONTINUE);
    assert_int_equal(say_message(milter, &run, BYTES_EMPTY).answer, MILTER_CONTINUE);
    assert_letters(&script, "ODCHDMDRDTLLDNBDEDMADMLLDNDE");
    run_free(&run, &script, &milter);
}

static void test_reuse_by_another_session(void **state)
{
    struct milter_script script = milter_script_of(NULL, 0);
    struct milter *milter;
    struct run run = run_all(&script, &milter);

    (void)state;
    say_mail(milter);
    assert_true(milter_end_session(milter));
    assert_int_equal(say_connect(milter).answer, MILTER_CONTINUE);
    assert_int_equal(milter_helo(milter, &CALL, BYTES_LITERAL("x")).answer, MILTER_CONTINUE);
    milter_close(&milter);
    assert_letters(&script, "ODCHDMDRDTLLDNBDEDMAKDCHQ");
    run_free(&run, &script, &milter);
}

static void test_unknown(void **state)
{
    static const struct script_row rows[] = {{'U', LITERAL("\0\0\0\1r")}};
    struct milter_script script = milter_script_of(rows, 1);
    struct milter *milter;
    struct run run = run_all(&script, &milter);

    (void)state;
    assert_int_equal(milter_unknown(milter, &CALL, BYTES_LITERAL("HUH")).answer, MILTER_REJECT);
    assert_packet(&script, 'U', 0, BYTES_LITERAL("HUH\0"));
    assert_int_equal(say_mail(milter).answer, MILTER_CONTINUE);
    run_free(&run, &script, &milter);
}

/* ------------------------------------------------------------------ faults */

static enum filter_fault first_fault(const struct run *run)
{
    const struct milter_verdict *const all[] = {&run->open, &run->connect, &run->helo,   &run->mail,
                                                &run->rcpt, &run->data,    &run->message};

    for (size_t i = 0; i < COUNT_OF(all); i++)
        if (all[i]->answer == MILTER_FAILED)
            return all[i]->fault;
    return FILTER_FAULT_NONE;
}

static void test_bad_packets_at_every_step(void **state)
{
    static const struct {
        struct bytes packet;
        enum filter_fault fault;
    } bad[] = {
        {LITERAL("\0\0\0\0"), FILTER_FAULT_GARBLED},
        {LITERAL("220 mx.example ESMTP\r\n"), FILTER_FAULT_GARBLED},
        {LITERAL("\0\0\0\1?"), FILTER_FAULT_GARBLED},
        {LITERAL("\0\0\0\2cc"), FILTER_FAULT_GARBLED},
        {LITERAL("\0\0\0\2a\0"), FILTER_FAULT_GARBLED},
        {LITERAL("\0\0\0\4y550"), FILTER_FAULT_GARBLED},
        {LITERAL("\0\0\0\1f"), FILTER_FAULT_OVERLOADED},
        {LITERAL("\0\0\0\2c"), FILTER_FAULT_GARBLED},
        {LITERAL("\0\0"), FILTER_FAULT_GARBLED},
        {LITERAL(""), FILTER_FAULT_CRASHED},
        {LITERAL("\0\0\0\1p"), FILTER_FAULT_CRASHED},
    };
    static const char commands[] = "OCHMRTLNBE";

    (void)state;
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        for (const char *command = commands; *command; command++) {
            const struct script_row row = {(uint8_t)*command, bad[i].packet};
            struct milter_script script = milter_script_of(&row, 1);
            struct milter *milter;
            struct run run = run_all(&script, &milter);
            const bool at_open = *command == 'O' && bad[i].packet.count > 5;
            if (first_fault(&run) != bad[i].fault &&
                !(*command == 'O' && first_fault(&run) == FILTER_FAULT_GARBLED))
                fail_msg("case %zu at %c: fault %d", i, *command, (int)first_fault(&run));
            assert_true(!at_open || milter == NULL);
            assert_int_equal(run.message.answer, MILTER_FAILED);
            if (milter)
                assert_false(milter_end_session(milter));
            run_free(&run, &script, &milter);
        }
    }
}

/* A second answer to one command is never taken for the next one's. */
static void test_out_of_step(void **state)
{
    static const char commands[] = "CHMRTLNB";

    (void)state;
    for (const char *command = commands; *command; command++) {
        const struct script_row row = {(uint8_t)*command, ANSWER(CONTINUE CONTINUE)};
        struct milter_script script = milter_script_of(&row, 1);
        struct milter *milter;
        struct run run = run_all(&script, &milter);
        assert_int_equal(run.message.answer, MILTER_FAILED);
        assert_int_equal(run.message.fault, FILTER_FAULT_GARBLED);
        run_free(&run, &script, &milter);
    }
}

static void test_timeout_and_reset(void **state)
{
    static const struct {
        struct io_result result;
        enum filter_fault fault;
    } cases[] = {
        {{.status = IO_TIMEOUT}, FILTER_FAULT_TIMEOUT},
        {{.status = IO_CANCELLED}, FILTER_FAULT_LOCAL},
        {{.status = IO_FAILED, .error = ECONNRESET}, FILTER_FAULT_CRASHED},
        {{.status = IO_FAILED, .error = ENOMEM}, FILTER_FAULT_LOCAL},
    };

    (void)state;
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        const struct script_row row = {'E', BYTES_EMPTY};
        struct milter_script script = milter_script_of(&row, 1);
        struct milter *milter;
        script.at_end = cases[i].result;
        struct run run = run_all(&script, &milter);
        assert_int_equal(run.message.fault, cases[i].fault);
        run_free(&run, &script, &milter);
    }
}

/* Cut after each octet of all that it says: never anything but a fault, and the words come whole in
 * whatever pieces. */
static void test_every_cut(void **state)
{
    static const struct script_row rows[] = {
        {'E', LITERAL("\0\0\0\7hX-A\0"
                      "b\0\0\0\0\1p\0\0\0\022y555 5.0.0 custom\0")}};
    size_t whole = SIZE_MAX;

    (void)state;
    for (size_t most = 0; most < whole; most++) {
        struct milter_script script = milter_script_of(rows, 1);
        struct milter *milter;
        if (whole == SIZE_MAX)
            most = SIZE_MAX;
        script.answers_most = most;
        script.fragment = most % 4;
        struct run run = run_all(&script, &milter);
        if (most == SIZE_MAX) {
            assert_int_equal(run.message.answer, MILTER_REPLY_5);
            whole = script.answers.count;
            most = 0;
        } else {
            assert_int_equal(run.message.answer, MILTER_FAILED);
            assert_true(first_fault(&run) == FILTER_FAULT_CRASHED ||
                        first_fault(&run) == FILTER_FAULT_GARBLED);
        }
        run_free(&run, &script, &milter);
    }
}

static void test_negotiation_refused(void **state)
{
    static const struct {
        uint32_t version, actions, steps;
        struct bytes lists;
        enum filter_fault fault;
    } cases[] = {
        {7, 0, 0, LITERAL(""), FILTER_FAULT_MISCONFIGURED},
        {1, 0, 0, LITERAL(""), FILTER_FAULT_MISCONFIGURED},
        {6, 0x200, 0, LITERAL(""), FILTER_FAULT_MISCONFIGURED},
        {6, 0, 0x800, LITERAL(""), FILTER_FAULT_MISCONFIGURED},
        {6, 0, 0x10000000, LITERAL(""), FILTER_FAULT_MISCONFIGURED},
        {6, 0, 0, LITERAL("\0\0\0\0j"), FILTER_FAULT_GARBLED},
        {6, 0, 0, LITERAL("\0\0\0\7j\0"), FILTER_FAULT_GARBLED},
        {6, 0, 0, LITERAL("\0\0"), FILTER_FAULT_GARBLED},
    };

    (void)state;
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct milter_script script = milter_script_of(NULL, 0);
        struct milter *milter;
        script.version = cases[i].version;
        script.actions = cases[i].actions;
        script.steps = cases[i].steps;
        script.lists = cases[i].lists;
        struct run run = run_all(&script, &milter);
        assert_null(milter);
        assert_int_equal(run.open.fault, cases[i].fault);
        assert_true(script.closed);
        run_free(&run, &script, &milter);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_whole_session),
        cmocka_unit_test(test_steps),
        cmocka_unit_test(test_old_version_gets_no_new_commands),
        cmocka_unit_test(test_leading_space_and_skip),
        cmocka_unit_test(test_chosen_macros),
        cmocka_unit_test(test_every_answer_at_every_step),
        cmocka_unit_test(test_abort_and_next_message),
        cmocka_unit_test(test_reuse_by_another_session),
        cmocka_unit_test(test_unknown),
        cmocka_unit_test(test_bad_packets_at_every_step),
        cmocka_unit_test(test_out_of_step),
        cmocka_unit_test(test_timeout_and_reset),
        cmocka_unit_test(test_every_cut),
        cmocka_unit_test(test_negotiation_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
