/*
 * SMTP commands (RFC 5321 4.1, 4.2.4). The parser says what was said and what is wrong with it;
 * whether it is allowed now, or offered at all, is the session's matter.
 *
 * Constant policy where the RFCs leave a choice: blanks around the path and at the end of a line
 * are tolerated; a path without brackets is a fault (but filled in); source routes are dropped; a
 * percent sign or "!" is a letter of the local part like any other.
 */
#include "wire/command.h"

static const struct {
    const char *word;
    enum smtp_verb verb;
    enum { ARGUMENT_NONE, ARGUMENT_MAYBE, ARGUMENT_MUST } argument;
} VERBS[] = {
    {"EHLO", SMTP_EHLO, ARGUMENT_MUST},
    {"HELO", SMTP_HELO, ARGUMENT_MUST},
    {"LHLO", SMTP_LHLO, ARGUMENT_MUST},
    {"MAIL", SMTP_MAIL, ARGUMENT_MUST},
    {"RCPT", SMTP_RCPT, ARGUMENT_MUST},
    {"DATA", SMTP_DATA, ARGUMENT_NONE},
    {"BDAT", SMTP_BDAT, ARGUMENT_MUST},
    {"RSET", SMTP_RSET, ARGUMENT_NONE},
    {"NOOP", SMTP_NOOP, ARGUMENT_MAYBE},
    {"QUIT", SMTP_QUIT, ARGUMENT_NONE},
    {"STARTTLS", SMTP_STARTTLS, ARGUMENT_NONE},
    {"AUTH", SMTP_AUTH, ARGUMENT_MUST},
    {"VRFY", SMTP_VRFY, ARGUMENT_MUST},
    {"EXPN", SMTP_EXPN, ARGUMENT_MUST},
    {"HELP", SMTP_HELP, ARGUMENT_MAYBE},
    {"ETRN", SMTP_ETRN, ARGUMENT_MUST},
    {"TURN", SMTP_TURN, ARGUMENT_MAYBE},
    {"SEND", SMTP_TURN, ARGUMENT_MAYBE},
    {"SOML", SMTP_TURN, ARGUMENT_MAYBE},
    {"SAML", SMTP_TURN, ARGUMENT_MAYBE},
    {"XCLIENT", SMTP_XCLIENT, ARGUMENT_MUST},
    /* Cross-protocol requests: a browser must not be able to speak SMTP. */
    {"GET", SMTP_FOREIGN, ARGUMENT_MAYBE},
    {"POST", SMTP_FOREIGN, ARGUMENT_MAYBE},
    {"HEAD", SMTP_FOREIGN, ARGUMENT_MAYBE},
    {"PUT", SMTP_FOREIGN, ARGUMENT_MAYBE},
    {"DELETE", SMTP_FOREIGN, ARGUMENT_MAYBE},
    {"OPTIONS", SMTP_FOREIGN, ARGUMENT_MAYBE},
    {"CONNECT", SMTP_FOREIGN, ARGUMENT_MAYBE},
    {"TRACE", SMTP_FOREIGN, ARGUMENT_MAYBE},
    {"PATCH", SMTP_FOREIGN, ARGUMENT_MAYBE},
    {"PRI", SMTP_FOREIGN, ARGUMENT_MAYBE},
};

static bool is_blank(uint8_t byte)
{
    return byte == ' ' || byte == '\t';
}

static struct bytes trim_front(struct bytes text)
{
    while (text.count > 0 && is_blank(text.at[0]))
        text = bytes_skip(text, 1);
    return text;
}

static struct bytes trim_blanks(struct bytes text)
{
    while (text.count > 0 && is_blank(text.at[text.count - 1]))
        text.count--;
    return trim_front(text);
}

static size_t word_length(struct bytes text)
{
    size_t length = 0;

    while (length < text.count && !is_blank(text.at[length]))
        length++;
    return length;
}

/* "Subject: x": letters, digits, hyphens and then a colon in the first word. */
static bool is_header_like(struct bytes word)
{
    size_t name = 0;

    while (name < word.count && (ascii_is_alnum(word.at[name]) || word.at[name] == '-'))
        name++;
    return name > 0 && name < word.count && word.at[name] == ':';
}

static bool is_foreign(struct bytes line, struct bytes word)
{
    return is_header_like(word) || (line.count >= 2 && line.at[0] == 0x16 && line.at[1] == 0x03);
}

static bool has_controls(struct bytes text)
{
    for (size_t i = 0; i < text.count; i++)
        if ((text.at[i] < ' ' && text.at[i] != '\t') || text.at[i] == 0x7f)
            return true;
    return false;
}

/* The name a client gives itself is not judged beyond this: RFC 5321 4.1.4 forbids refusing it. */
static void parse_hello(struct smtp_command *command)
{
    if (command->argument.count > MAIL_DOMAIN_MAX || has_controls(command->argument))
        command->fault = SMTP_FAULT_SYNTAX;
}

/* Without brackets, up to the next blank; kept so that a session may choose to be lenient. */
static bool parse_bare_path(struct arena *arena, struct bytes *rest, struct smtp_command *command)
{
    const struct bytes text = bytes_slice(*rest, 0, word_length(*rest));

    command->path_bare = true;
    *rest = bytes_skip(*rest, text.count);
    return address_parse(arena, text, &command->path);
}

static bool parse_path(struct arena *arena, struct bytes *rest, struct smtp_command *command)
{
    const enum path_kind kind = command->verb == SMTP_MAIL ? PATH_REVERSE : PATH_FORWARD;

    if (rest->at[0] != '<')
        return parse_bare_path(arena, rest, command);
    return address_parse_path(arena, rest, kind, &command->path);
}

/* RFC 6531 3.5: letters beyond ASCII in MAIL need SMTPUTF8 in the same command. */
static enum smtp_fault path_fault(const struct smtp_command *command)
{
    if (command->verb == SMTP_MAIL && !command->smtputf8 && !address_is_ascii(command->path))
        return SMTP_FAULT_UTF8;
    return command->path_bare ? SMTP_FAULT_ADDRESS : SMTP_FINE;
}

static void parse_mail_or_rcpt(struct arena *arena, struct smtp_command *command)
{
    const struct bytes key = bytes_of_text(command->verb == SMTP_MAIL ? "FROM:" : "TO:");
    struct bytes rest = trim_front(bytes_skip(command->argument, key.count));

    if (!bytes_starts_with_nocase(command->argument, key) || rest.count == 0) {
        command->verb = SMTP_UNKNOWN; /* "MAIL LALA:<>" is no command of ours */
        return;
    }
    if (!parse_path(arena, &rest, command)) {
        command->fault = SMTP_FAULT_ADDRESS;
        return;
    }
    if (rest.count > 0 && !is_blank(rest.at[0])) {
        command->fault = SMTP_FAULT_SYNTAX;
        return;
    }
    command->parameters = trim_blanks(rest);
    parameters_parse(arena, rest, command);
    if (command->fault == SMTP_FINE)
        command->fault = path_fault(command);
}

/* BDAT size [LAST] (RFC 3030 2): at most 20 digits. */
static void parse_bdat(struct smtp_command *command)
{
    const size_t length = word_length(command->argument);
    const struct bytes size = bytes_slice(command->argument, 0, length);
    const struct bytes last = trim_front(bytes_skip(command->argument, length));

    command->chunk_last = bytes_equal_text_nocase(last, "LAST");
    if (size.count > 20 || !bytes_to_u64(size, &command->chunk_bytes) ||
        (last.count > 0 && !command->chunk_last)) {
        command->chunk_bytes = 0;
        command->fault = SMTP_FAULT_SYNTAX;
    }
}

static void parse_argument(struct arena *arena, struct smtp_command *command)
{
    const enum smtp_verb verb = command->verb;

    if (verb == SMTP_HELO || verb == SMTP_EHLO || verb == SMTP_LHLO)
        parse_hello(command);
    else if (verb == SMTP_MAIL || verb == SMTP_RCPT)
        parse_mail_or_rcpt(arena, command);
    else if (verb == SMTP_BDAT)
        parse_bdat(command);
}

static void parse_verb(struct arena *arena, struct bytes word, struct smtp_command *command)
{
    for (size_t i = 0; i < COUNT_OF(VERBS); i++) {
        if (!bytes_equal_text_nocase(word, VERBS[i].word))
            continue;
        const bool given = command->argument.count > 0;
        command->verb = VERBS[i].verb;
        if (VERBS[i].argument == (given ? ARGUMENT_NONE : ARGUMENT_MUST))
            command->fault = SMTP_FAULT_SYNTAX;
        else
            parse_argument(arena, command);
        return;
    }
}

void smtp_parse_command(struct arena *arena, struct bytes line, struct smtp_command *command)
{
    const size_t length = word_length(line);
    const struct bytes word = bytes_slice(line, 0, length);

    *command =
        (struct smtp_command){.line = line, .argument = trim_blanks(bytes_skip(line, length))};
    if (is_foreign(line, word))
        command->verb = SMTP_FOREIGN;
    else
        parse_verb(arena, word, command);
}
