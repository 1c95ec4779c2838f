/*
 * Transcripts and traces: what is left out of them, whoever says it and however it is spelled; how
 * they are cut when they grow long.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "observe/observe.h"

#define SECRET "AGFsaWNlAGh1bnRlcjI="

static struct dialogue dialogue_of(enum dialogue_direction direction)
{
    return (struct dialogue){
        .direction = direction, .id = 1, .peer = "127.0.0.1:25", .destination = "", .domain = ""};
}

static bool shows(const struct dialogue *dialogue, const char *text)
{
    const struct bytes view = dialogue_view(dialogue);

    return bytes_find(view, bytes_of_text(text)) < view.count;
}

/* Said by one side of a fresh dialogue: `shown` is in the transcript, the secret is not. */
static void expect(enum dialogue_direction direction, enum dialogue_speaker speaker,
                   const char *line, const char *shown)
{
    struct dialogue dialogue = dialogue_of(direction);

    dialogue_line(&dialogue, speaker, bytes_of_text(line));
    assert_false(shows(&dialogue, "AGFsaWNl"));
    assert_false(shows(&dialogue, "hunter2"));
    if (!shows(&dialogue, shown))
        fail_msg("%s is shown as %.*s", line, BYTES_PRINT(dialogue_view(&dialogue)));
    dialogue_clear(&dialogue);
}

static void test_initial_response(void **state UNUSED)
{
    static const char *const lines[] = {
        "AUTH PLAIN " SECRET,        "AUTH PLAIN " SECRET "\r\n", "auth plain " SECRET,
        "AUTH\tPLAIN\t" SECRET,      "AUTH  PLAIN   " SECRET,     "AUTH \t PLAIN\t " SECRET,
        "AUTH PLAIN\t" SECRET "\t ",
    };

    for (size_t i = 0; i < COUNT_OF(lines); i++) {
        expect(DIALOGUE_IN, DIALOGUE_THEM, lines[i], "[left out]");
        expect(DIALOGUE_OUT, DIALOGUE_US, lines[i], "[left out]");
    }
    expect(DIALOGUE_IN, DIALOGUE_THEM, "AUTH PLAIN " SECRET, "< AUTH PLAIN [left out]\n");
    expect(DIALOGUE_IN, DIALOGUE_THEM, "AUTH scram-sha-256 biwsbj1hbGljZQ== hunter2",
           "< AUTH scram-sha-256 [left out]\n");
    expect(DIALOGUE_IN, DIALOGUE_THEM, "AUTH LOGIN", "< AUTH LOGIN\n");
    expect(DIALOGUE_IN, DIALOGUE_THEM, "AUTH", "< AUTH\n");
}

/* Who forgets the mechanism, or invents one, may have said the password in its place. */
static void test_unknown_mechanism(void **state UNUSED)
{
    expect(DIALOGUE_IN, DIALOGUE_THEM, "AUTH " SECRET, "< AUTH [left out]\n");
    expect(DIALOGUE_IN, DIALOGUE_THEM, "AUTH hunter2", "< AUTH [left out]\n");
    expect(DIALOGUE_IN, DIALOGUE_THEM, "AUTH alice hunter2", "< AUTH [left out]\n");
    expect(DIALOGUE_IN, DIALOGUE_THEM, "AUTH PLAINhunter2", "< AUTH [left out]\n");
}

static void test_questions(void **state UNUSED)
{
    expect(DIALOGUE_IN, DIALOGUE_US, "334 " SECRET "\r\n", "> 334 [left out]\n");
    expect(DIALOGUE_IN, DIALOGUE_US, "334 ", "> 334 [left out]\n");
    expect(DIALOGUE_OUT, DIALOGUE_THEM, "334 " SECRET "\r\n", "< 334 [left out]\n");
    expect(DIALOGUE_OUT, DIALOGUE_THEM, "334-hunter2\r\n334 " SECRET, "< 334 [left out]\n");
}

/* Several lines in one go, as pipelining and replies have them. */
static void test_several_lines(void **state UNUSED)
{
    expect(DIALOGUE_OUT, DIALOGUE_US, "EHLO us\r\nAUTH PLAIN " SECRET "\r\nMAIL FROM:<a@b>\r\n",
           "> MAIL FROM:<a@b>\n");
    expect(DIALOGUE_IN, DIALOGUE_THEM, "AUTH PLAIN " SECRET "\nNOOP", "< NOOP\n");
    expect(DIALOGUE_OUT, DIALOGUE_THEM, "250-mx\r\n250-AUTH PLAIN LOGIN\r\n250 SIZE",
           "< 250-AUTH PLAIN LOGIN\n");
}

/* A long one keeps its head and its tail, in whole lines. */
static void test_cut(void **state UNUSED)
{
    struct dialogue dialogue = dialogue_of(DIALOGUE_IN);
    char line[64];

    for (unsigned i = 0; i < 2000; i++) {
        snprintf(line, sizeof line, "NOOP number %u", i);
        dialogue_line(&dialogue, DIALOGUE_THEM, bytes_of_text(line));
        const struct bytes view = dialogue_view(&dialogue);
        assert_true(view.count <= DIALOGUE_BYTES_MAX && view.at[view.count - 1] == '\n');
        assert_true(shows(&dialogue, "< NOOP number 0\n") && shows(&dialogue, line));
    }
    struct bytes rest = dialogue_view(&dialogue);
    while (rest.count > 0) {
        struct bytes whole;
        rest = bytes_cut(rest, '\n', &whole);
        assert_true(bytes_starts_with(bytes_skip(whole, 11), BYTES_LITERAL("< NOOP number ")));
    }
    dialogue_clear(&dialogue);
}

static void test_messages(void **state UNUSED)
{
    struct dialogue dialogue = dialogue_of(DIALOGUE_OUT);

    dialogue_message(&dialogue, 0, "");
    dialogue_message(&dialogue, UINT64_MAX, ", by BDAT");
    assert_true(shows(&dialogue, "* a message of 0 octets\n"));
    assert_true(shows(&dialogue, "* a message of 18446744073709551615 octets, by BDAT\n"));
    dialogue_clear(&dialogue);
    dialogue_clear(&dialogue);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_initial_response),
        cmocka_unit_test(test_unknown_mechanism),
        cmocka_unit_test(test_questions),
        cmocka_unit_test(test_several_lines),
        cmocka_unit_test(test_cut),
        cmocka_unit_test(test_messages),
    };

    return cmocka_run_group_tests_name("dialogue", tests, NULL, NULL);
}
