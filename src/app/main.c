/*
 * main(): reads the command line and calls the command.
 */
#include "app/processes.h"

#include <jansson.h>
#include <stdarg.h>
#include <string.h>

static const struct command {
    const char *word;
    int (*run)(const struct command_line *line);
    const char *usage, *help;
} COMMANDS[] = {
#define COMMAND(word, function, usage, help) {word, function, usage, help},
#include "app/commands.def"
#undef COMMAND
};

static int print_usage(FILE *into)
{
    fputs("usage: holdfast COMMAND ...\n", into);
    for (size_t i = 0; i < COUNT_OF(COMMANDS); i++)
        fprintf(into, "  %-10s %-62s %s\n", COMMANDS[i].word, COMMANDS[i].usage, COMMANDS[i].help);
    fputs("-c FILE: the configuration (else $HOLDFAST_CONFIG, /etc/holdfast/holdfast.conf, or the "
          "embedded default).\n"
          "Exit: 0 fine, 1 findings, 2 usage, 75 the server cannot be reached.\n",
          into);
    return into == stdout ? EXIT_FINE : EXIT_USAGE;
}

/* Options with a value, then those without. */
static const struct {
    const char *name;
    size_t offset;
} VALUE_OPTIONS[] = {{"-c", offsetof(struct command_line, config_file)},
                     {"--dest", offsetof(struct command_line, dest)},
                     {"--cause", offsetof(struct command_line, cause)},
                     {"--sender", offsetof(struct command_line, sender)},
                     {"--via", offsetof(struct command_line, via)},
                     {"--by", offsetof(struct command_line, by)},
                     {"--since", offsetof(struct command_line, since)},
                     {"--ip", offsetof(struct command_line, ip)},
                     {"--helo", offsetof(struct command_line, helo)},
                     {"--from", offsetof(struct command_line, from)},
                     {"--domain", offsetof(struct command_line, domain)},
                     {"--selector", offsetof(struct command_line, selector)},
                     {"--client", offsetof(struct command_line, client)},
                     {"--mail", offsetof(struct command_line, mail)},
                     {"--stage", offsetof(struct command_line, stage)},
                     {"--key", offsetof(struct command_line, key)},
                     {"--port", offsetof(struct command_line, port)},
                     {"--https-port", offsetof(struct command_line, https_port)},
                     {"--authorities", offsetof(struct command_line, authorities)}},
  LIST_OPTIONS[] = {{"--ip", offsetof(struct command_line, ips)},
                    {"--selector", offsetof(struct command_line, selectors)},
                    {"--server", offsetof(struct command_line, servers)}},
  FLAG_OPTIONS[] = {{"--json", offsetof(struct command_line, json)},
                    {"--all", offsetof(struct command_line, all)},
                    {"--in", offsetof(struct command_line, in)},
                    {"--transcript", offsetof(struct command_line, transcript)},
                    {"--manual", offsetof(struct command_line, manual)},
                    {"--new", offsetof(struct command_line, fresh)},
                    {"--arc", offsetof(struct command_line, arc)},
                    {"--send", offsetof(struct command_line, send)},
                    {"--one-process", offsetof(struct command_line, one_process)},
                    {"--connect", offsetof(struct command_line, connect)},
                    {"--public", offsetof(struct command_line, ask_public)}};

static int take_resolver(struct command_line *line, const char *value)
{
    if (line->resolver_count == COMMAND_WORDS_MAX)
        return 0;
    line->resolvers[line->resolver_count++] = value;
    return 2;
}

/* Options that may be repeated; the last one also counts for commands that take only one. False:
 * too many. */
static bool take_listed(struct command_line *line, char **arguments, int *taken)
{
    for (size_t i = 0; i < COUNT_OF(LIST_OPTIONS); i++) {
        if (strcmp(arguments[0], LIST_OPTIONS[i].name) != 0 || !arguments[1])
            continue;
        struct word_list *list =
            (struct word_list *)(void *)((char *)line + LIST_OPTIONS[i].offset);
        if (list->count == COMMAND_WORDS_MAX)
            return false;
        list->words[list->count++] = arguments[1];
        *taken = 2;
    }
    return true;
}

/* Takes one argument (and its value); returns how many words it was, 0 when it is not understood.
 */
static int take_argument(struct command_line *line, char **arguments)
{
    if (strcmp(arguments[0], "--resolver") == 0 && arguments[1])
        return take_resolver(line, arguments[1]);
    int taken = 0;
    if (!take_listed(line, arguments, &taken))
        return 0;
    for (size_t i = 0; i < COUNT_OF(VALUE_OPTIONS); i++) {
        if (strcmp(arguments[0], VALUE_OPTIONS[i].name) == 0 && arguments[1]) {
            *(const char **)(void *)((char *)line + VALUE_OPTIONS[i].offset) = arguments[1];
            return 2;
        }
    }
    for (size_t i = 0; i < COUNT_OF(FLAG_OPTIONS); i++) {
        if (strcmp(arguments[0], FLAG_OPTIONS[i].name) == 0) {
            *(bool *)(void *)((char *)line + FLAG_OPTIONS[i].offset) = true;
            return 1;
        }
    }
    if (taken > 0)
        return taken;
    if (arguments[0][0] == '-' && arguments[0][1] != 0)
        return 0;
    if (line->word_count == COMMAND_WORDS_MAX)
        return 0;
    line->words[line->word_count++] = arguments[0];
    return 1;
}

static const struct command *find_command(const char *word)
{
    for (size_t i = 0; i < COUNT_OF(COMMANDS); i++)
        if (strcmp(word, COMMANDS[i].word) == 0)
            return &COMMANDS[i];
    return NULL;
}

int main(int count, char **arguments)
{
    struct command_line line = {0};

    if (count > 0 && sendmail_is_called(arguments[0]))
        return sendmail_main(count, arguments);
    if (count < 2)
        return print_usage(stderr);
    if (strcmp(arguments[1], "help") == 0 || strcmp(arguments[1], "--help") == 0 ||
        strcmp(arguments[1], "-h") == 0)
        return print_usage(stdout);
    if (strcmp(arguments[1], "--version") == 0 || strcmp(arguments[1], "version") == 0)
        return puts("holdfast " HOLDFAST_VERSION) < 0;
    if (strcmp(arguments[1], "worker") == 0)
        return worker_main();
    const struct command *command = find_command(arguments[1]);
    if (!command) {
        fprintf(stderr, "holdfast: no such command: %s\n", arguments[1]);
        return print_usage(stderr);
    }
    line.words[line.word_count++] = command->word;
    for (int i = 2; i < count;) {
        const int taken = take_argument(&line, arguments + i);
        if (taken == 0) {
            fprintf(stderr, "holdfast %s: not understood: %s\nusage: holdfast %s %s\n",
                    command->word, arguments[i], command->word, command->usage);
            return EXIT_USAGE;
        }
        i += taken;
    }
    return command->run(&line);
}

void app_write_safe(struct bytes text)
{
    uint32_t code = 0;
    size_t plain = 0;

    while (plain < text.count) {
        const size_t unfit = bytes_unfit(bytes_skip(text, plain), &code);
        if (unfit == 0 || code == '\n' || code == '\t' ||
            (code == '\r' && plain + 1 < text.count && text.at[plain + 1] == '\n')) {
            plain++;
            continue;
        }
        fwrite(text.at, 1, plain, stdout);
        printf("\\u%04x", code > 0xffff ? 0xfffdu : code);
        text = bytes_skip(text, plain + unfit);
        plain = 0;
    }
    fwrite(text.at, 1, text.count, stdout);
}

void app_print(const char *format, ...)
{
    char *text = NULL;
    va_list arguments;

    va_start(arguments, format);
    const int count = vasprintf(&text, format, arguments);
    va_end(arguments);
    if (count < 0)
        return;
    app_write_safe(bytes_of(text, (size_t)count));
    free(text);
}

int app_print_buffer(struct buffer *text)
{
    if (!text->failed)
        app_write_safe(buffer_view(text));
    const bool whole = !text->failed && fflush(stdout) == 0 && !ferror(stdout);

    buffer_free(text);
    if (!whole)
        fputs("holdfast: could not write the answer\n", stderr);
    return whole ? EXIT_FINE : EXIT_FINDINGS;
}

int app_print_json(struct json_t *document)
{
    char *text = json_dumps(document, JSON_INDENT(2));

    json_decref(document);
    if (text)
        app_write_safe(bytes_of_text(text));
    const bool whole = text && putchar('\n') != EOF && fflush(stdout) == 0 && !ferror(stdout);
    free(text);
    return whole ? EXIT_FINE : EXIT_FINDINGS;
}
