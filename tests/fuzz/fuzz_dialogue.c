/*
 * What anybody says, put into a transcript: it keeps its bound and its form, and of what the
 * server takes for AUTH nothing is shown but a mechanism's name.
 */
#include "observe/observe.h"
#include "wire/wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { HEAD_BYTES = 13, MARK_AT = 11, MECHANISM_MAX = 20 };

static void check_form(struct bytes view)
{
    INVARIANT(view.count <= DIALOGUE_BYTES_MAX);
    while (view.count > 0) {
        struct bytes line;
        INVARIANT(bytes_find_byte(view, '\n') < view.count);
        view = bytes_cut(view, '\n', &line);
        INVARIANT(line.count >= HEAD_BYTES);
        INVARIANT(line.at[MARK_AT] == '<' || line.at[MARK_AT] == '>' || line.at[MARK_AT] == '*');
    }
}

/* The session's own parser says what a login is. */
static void check_login(struct bytes line)
{
    struct arena arena = ARENA_WITH_LIMIT(1 * MIB);
    struct dialogue dialogue = {.direction = DIALOGUE_IN, .id = 1, .peer = ""};
    struct smtp_command command = {0};
    size_t word = 0;

    smtp_parse_command(&arena, line, &command);
    dialogue_line(&dialogue, DIALOGUE_THEM, line);
    const struct bytes view = dialogue_view(&dialogue);
    if (command.verb == SMTP_AUTH) {
        const struct bytes argument = command.argument;
        while (word < argument.count && argument.at[word] != ' ' && argument.at[word] != '\t')
            word++;
        INVARIANT(view.count <= HEAD_BYTES + sizeof "AUTH  [left out]\n" + MECHANISM_MAX);
        const struct bytes secret = bytes_trim(bytes_skip(argument, word));
        INVARIANT(secret.count < 12 || bytes_find(view, secret) == view.count);
        INVARIANT(word <= MECHANISM_MAX ||
                  bytes_find(view, bytes_slice(argument, 0, word)) == view.count);
    }
    dialogue_clear(&dialogue);
    arena_clear(&arena);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct bytes input = bytes_of(data, size);
    struct dialogue dialogue = {.direction = DIALOGUE_OUT, .id = 1, .peer = ""};
    struct bytes rest = input, line;

    for (unsigned round = 0; round < 8; round++) {
        dialogue_line(&dialogue, round % 2 ? DIALOGUE_US : DIALOGUE_THEM, input);
        dialogue_message(&dialogue, size, "");
        check_form(dialogue_view(&dialogue));
    }
    dialogue_clear(&dialogue);
    while (rest.count > 0) {
        rest = bytes_cut(rest, '\n', &line);
        if (line.count > 0 && line.at[line.count - 1] == '\r')
            line.count--;
        if (bytes_find_byte(line, '\r') == line.count)
            check_login(line);
    }
    return 0;
}
