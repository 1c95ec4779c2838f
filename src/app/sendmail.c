/*
 * sendmail, mailq and newaliases: what programs on every Unix call to send mail. Options are those
 * of sendmail; what would change this server's behaviour is read and passed over, as Postfix does.
 */
#include "app/sendmail.h"

#include <string.h>
#include <unistd.h>

/* ------------------------------------------------------------------ options */

/* Options of one letter with a value, joined or as the next word; -o and -O are settings of
 * sendmail, of which only -oi says anything to us. */
static const char WITH_VALUE[] = "ABCFLNORVXfhpr";
static const char ALONE[] = "GUimntv";

static int usage_error(const char *what)
{
    fprintf(stderr, "sendmail: not understood: %s\n", what);
    return EX_USAGE;
}

static void take_value(struct sendmail_options *options, char letter, const char *value)
{
    switch (letter) {
    case 'C':
        options->config_file = value;
        break;
    case 'F':
        options->full_name = value;
        break;
    case 'N':
        options->notify = value;
        break;
    case 'R':
        options->dsn_return = value;
        break;
    case 'V':
        options->envelope_id = value;
        break;
    case 'f':
    case 'r':
        options->sender = value;
        break;
    default: /* -A, -B, -L, -O, -X, -h, -p: nothing to us */
        break;
    }
}

static bool take_mode(struct sendmail_options *options, const char *letter)
{
    static const struct {
        char letter;
        enum sendmail_mode mode;
    } modes[] = {{'m', SENDMAIL_SEND},    {'s', SENDMAIL_SMTP},  {'p', SENDMAIL_QUEUE},
                 {'i', SENDMAIL_ALIASES}, {'d', SENDMAIL_SERVE}, {'D', SENDMAIL_SERVE}};

    for (size_t i = 0; letter[0] != '\0' && letter[1] == '\0' && i < COUNT_OF(modes); i++)
        if (letter[0] == modes[i].letter) {
            options->mode = modes[i].mode;
            return true;
        }
    return false;
}

/* Letters without a value, several in one word. */
static bool take_letters(struct sendmail_options *options, const char *letters)
{
    for (; *letters; letters++) {
        if (!strchr(ALONE, *letters))
            return false;
        options->keep_dots = options->keep_dots || *letters == 'i';
        options->from_header = options->from_header || *letters == 't';
    }
    return true;
}

/* How many words it took; 0: not understood. */
static int take_option(struct sendmail_options *options, char **words)
{
    const char *letters = words[0] + 1;

    switch (letters[0]) {
    case 'b':
        return take_mode(options, letters + 1) ? 1 : 0;
    case 'q':
        /* With -bd it says how often the queue is run, which our schedule knows by itself. */
        if (options->mode == SENDMAIL_SEND)
            options->mode = SENDMAIL_RETRY;
        return 1;
    case 'o':
        options->keep_dots = options->keep_dots || strcmp(letters, "oi") == 0;
        return 1;
    case 'e': /* -em: how errors are told. By exit code and mail, always. */
    case 'd':
        return 1;
    default:
        break;
    }
    if (!strchr(WITH_VALUE, letters[0]))
        return take_letters(options, letters) ? 1 : 0;
    const char *value = letters[1] ? letters + 1 : words[1];
    if (!value)
        return 0;
    take_value(options, letters[0], value);
    return letters[1] ? 1 : 2;
}

static int take_words(struct sendmail_options *options, int count, char **words)
{
    int i = 1;

    while (i < count && words[i][0] == '-' && words[i][1] != '\0') {
        if (strcmp(words[i], "--") == 0) {
            i++;
            break;
        }
        const int taken = take_option(options, words + i);
        if (taken == 0)
            return usage_error(words[i]);
        i += taken;
    }
    options->recipients = words + i;
    options->recipient_count = count - i;
    return EX_OK;
}

/* ------------------------------------------------------------------ sending */

static struct bytes own_address(struct arena *arena, const struct drop_place *place)
{
    const struct passwd *user = getpwuid(getuid());
    const struct bytes name =
        user ? bytes_of_text(user->pw_name) : arena_print(arena, "uid-%u", (unsigned)getuid());

    return arena_print(arena, "%.*s@%s", BYTES_PRINT(name), place->origin);
}

static int envelope_begin(const struct sendmail_options *options, const struct drop_place *place,
                          struct sendmail_envelope *envelope)
{
    const struct bytes sender = bytes_of_text(options->sender);

    *envelope = (struct sendmail_envelope){.arena = ARENA_WITH_LIMIT(64 * MIB)};
    envelope->sender = own_address(&envelope->arena, place);
    if (options->sender && (sender.count == 0 || bytes_equal_text(sender, "<>")))
        envelope->sender = BYTES_EMPTY;
    else if (options->sender)
        envelope->sender = sendmail_qualify(&envelope->arena, place, sender);
    if (options->sender && sender.count > 0 && !bytes_equal_text(sender, "<>") &&
        envelope->sender.count == 0) {
        fprintf(stderr, "sendmail: -f %s: this is no address\n", options->sender);
        return EX_USAGE;
    }
    for (int i = 0; i < options->recipient_count; i++) {
        const int code = sendmail_add_recipients(options, place,
                                                 bytes_of_text(options->recipients[i]), envelope);
        if (code != EX_OK)
            return code;
    }
    return EX_OK;
}

static int send_message(const struct sendmail_options *options, const struct drop_place *place)
{
    struct sendmail_envelope envelope;
    struct drop_message message = {.descriptor = -1};
    int code = envelope_begin(options, place, &envelope);

    if (code == EX_OK && !options->from_header && envelope.rcpt_count == 0)
        code = usage_error("no recipients (and no -t)");
    if (code == EX_OK)
        code = drop_begin(&message, place);
    if (code == EX_OK)
        code = sendmail_read(options, stdin, &message, &envelope);
    if (code == EX_OK && envelope.rcpt_count == 0)
        code = usage_error("no recipients");
    if (code == EX_OK)
        code = sendmail_commit(options, &message, &envelope);
    drop_abandon(&message);
    arena_clear(&envelope.arena);
    return code;
}

/* ------------------------------------------------------------------ modes */

static int retry_all(const struct sendmail_options *options)
{
    const struct command_line line = {
        .config_file = options->config_file, .words = {"retry"}, .word_count = 1, .all = true};
    const int code = command_act(&line);

    return code == EXIT_FINDINGS ? EX_OK : code; /* nothing waited */
}

static int run_mode(const struct sendmail_options *options)
{
    struct drop_place place;
    const struct command_line serve = {.config_file = options->config_file};

    switch (options->mode) {
    case SENDMAIL_QUEUE:
        return sendmail_queue(options);
    case SENDMAIL_ALIASES:
        return sendmail_aliases(options);
    case SENDMAIL_RETRY:
        return retry_all(options);
    case SENDMAIL_SERVE:
        return command_serve(&serve);
    case SENDMAIL_SEND:
    case SENDMAIL_SMTP:
        break;
    }
    const int code = drop_place_find(&place, options->config_file);
    if (code != EX_OK)
        return code;
    return options->mode == SENDMAIL_SMTP ? sendmail_smtp(options, &place)
                                          : send_message(options, &place);
}

bool sendmail_is_called(const char *program)
{
    const char *slash = strrchr(program, '/');
    const char *name = slash ? slash + 1 : program;

    return strcmp(name, "sendmail") == 0 || strcmp(name, "mailq") == 0 ||
           strcmp(name, "newaliases") == 0;
}

int sendmail_main(int count, char **words)
{
    const char *slash = strrchr(words[0], '/');
    const char *name = slash ? slash + 1 : words[0];
    struct sendmail_options options = {0};
    int code = EX_OK;

    if (strcmp(name, "mailq") == 0)
        options.mode = SENDMAIL_QUEUE;
    else if (strcmp(name, "newaliases") == 0)
        options.mode = SENDMAIL_ALIASES;
    code = take_words(&options, count, words);
    return code == EX_OK ? run_mode(&options) : code;
}
