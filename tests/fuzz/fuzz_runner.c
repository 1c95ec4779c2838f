/*
 * The arguments of a command: the values are the input's lines, the settings are fixed. Each item
 * stays one argument, no value begins one as an option, and what is not a value is as it was set.
 */
#include <string.h>

#include "runner/runner.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const COMMAND[] = {"/bin/x",     "{user}",        "-f{sender}",
                                      "{sender}",   "{tag}{domain}", "--to={recipient}",
                                      "{original}", "{client}-{id}"};

static void check_arguments(char **arguments)
{
    for (unsigned i = 0; i < COUNT_OF(COMMAND); i++) {
        INVARIANT(arguments[i]);
        if (COMMAND[i][0] != '-')
            INVARIANT(arguments[i][0] != '-');
        for (const char *at = arguments[i]; *at; at++)
            INVARIANT((unsigned char)*at >= 0x20 && *at != 0x7f);
    }
    INVARIANT(!arguments[COUNT_OF(COMMAND)]);
    INVARIANT(strcmp(arguments[0], COMMAND[0]) == 0);
    INVARIANT(strncmp(arguments[2], "-f", 2) == 0 && strncmp(arguments[5], "--to=", 5) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct arena arena = ARENA_WITH_LIMIT(4 * MIB);
    const char *command[COUNT_OF(COMMAND)];
    struct config_pipe pipe = {.command = command, .command_count = COUNT_OF(COMMAND)};
    struct runner_values values;
    struct bytes rest = bytes_of(data, size), line;
    const char *why = NULL;

    memcpy(command, COMMAND, sizeof command);
    for (unsigned i = 0; i < PIPE_VALUES; i++) {
        rest = bytes_cut(rest, '\n', &line);
        values.of[i] = arena_text(&arena, line);
        INVARIANT(values.of[i]);
    }
    char **arguments = runner_arguments(&arena, &pipe, &values, &why);
    INVARIANT(!arguments == (why != NULL));
    if (arguments)
        check_arguments(arguments);
    arena_clear(&arena);
    return 0;
}
