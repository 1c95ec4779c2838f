/* What a command of a pipe is given: its arguments. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "runner/runner.h"

static struct config *config_of(const char *command)
{
    struct config_errors errors = {0};
    char text[1024];

    snprintf(text, sizeof text,
             "hostname = \"mx.example.com\"\nspool = \"/s\"\npipe p { command = {%s} }\n", command);
    struct config *config = config_parse(text, "t", &errors);
    assert_non_null(config);
    config_errors_free(&errors);
    return config;
}

/* The arguments joined by '|', or "why: " and the reason. */
static void check(const char *command, const struct runner_values *values, const char *expected)
{
    struct config *config = config_of(command);
    struct arena arena = ARENA_WITH_LIMIT(MIB);
    CLEANUP(buffer_free) struct buffer text = BUFFER_WITH_LIMIT(MIB);
    const char *why = NULL;
    char **arguments = runner_arguments(&arena, &config->pipes[0], values, &why);

    if (!arguments)
        buffer_print(&text, "why: %s", why);
    for (unsigned i = 0; arguments && arguments[i]; i++)
        buffer_print(&text, "%s%s", i ? "|" : "", arguments[i]);
    buffer_add_byte(&text, 0);
    assert_string_equal((const char *)text.at, expected);
    arena_clear(&arena);
    config_free(config);
}

static const struct runner_values PLAIN = {{"bob", "a.example", "tag", "al@b.example",
                                            "bob+tag@a.example", "B@old.example", "192.0.2.1",
                                            "ID"}};

static void test_filled_in(void **state UNUSED)
{
    check("\"/bin/x\", \"-d\", \"{user}@{domain}\", \"{tag}\", \"{sender}\", \"{recipient}\", "
          "\"{original}\", \"{client}{id}\"",
          &PLAIN,
          "/bin/x|-d|bob@a.example|tag|al@b.example|bob+tag@a.example|B@old.example|192.0.2.1ID");
    check("\"/bin/x\", \"\", \"a b\", \"$HOME;*\"", &PLAIN, "/bin/x||a b|$HOME;*");
}

/* What is filled in is never looked at again, and is never two arguments. */
static void test_stays_one(void **state UNUSED)
{
    const struct runner_values evil = {
        {"a b;$(id)`id` {domain}", "{user}", "", "", "{sender}", "'\"", "\\", "*"}};

    check("\"/bin/x\", \"{user}\", \"{domain}\", \"{tag}\", \"{sender}\", \"{recipient}\", "
          "\"{original}\", \"{client}\", \"{id}\"",
          &evil, "/bin/x|a b;$(id)`id` {domain}|{user}|||{sender}|'\"|\\|*");
}

static void test_hyphen(void **state UNUSED)
{
    const struct runner_values evil = {
        {"-oQ", "-d", "-t", "-f\"\\@x.example", "-r@a.example", "-o", "-c", "-i"}};
    static const char WHY[] =
        "why: the address begins with a hyphen, which the command would read as an option";

    /* Nor by what stands behind a value that is empty. */
    static const struct runner_values bare = {
        {"rf", "a.example", "", "", "rf@a.example", "", "", "ID"}};
    check("\"/bin/x\", \"{tag}-{user}\"", &bare, WHY);
    check("\"/bin/x\", \"-{user}\"", &bare, "/bin/x|-rf");
    check("\"/bin/x\", \"{sender}\"", &evil, "/bin/x|\"-f\\\"\\\\\"@x.example");
    check("\"/bin/x\", \"--user={user}\", \"x{recipient}\"", &evil,
          "/bin/x|--user=-oQ|x-r@a.example");
    check("\"/bin/x\", \"{user}\"", &evil, WHY);
    check("\"/bin/x\", \"{tag}x\"", &evil, WHY);
    check("\"/bin/x\", \"{recipient}\"", &evil, WHY);
    check("\"/bin/x\", \"{original}\"", &evil, WHY);
    /* An empty value in front leaves the next one in front. */
    const struct runner_values empty = {{"", "-d", "", "", "", "", "", ""}};
    check("\"/bin/x\", \"{user}{domain}\"", &empty, WHY);
    check("\"/bin/x\", \"{user}-x\"", &empty, WHY);
}

static void test_control(void **state UNUSED)
{
    const struct runner_values evil = {{"a\nb", "d", "", "a\x7f@b", "", "", "", ""}};

    check("\"/bin/x\", \"-{user}\"", &evil, "why: the address has control characters");
    check("\"/bin/x\", \"-{sender}\"", &evil, "why: the address has control characters");
    check("\"/bin/x\", \"-{domain}\"", &evil, "/bin/x|-d");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_filled_in), cmocka_unit_test(test_stays_one),
        cmocka_unit_test(test_hyphen), cmocka_unit_test(test_control)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
