/*
 * sendmail -bs: SMTP on standard input and output, for programs of this host. It needs no server:
 * what is accepted at the dot lies in the drop directory. Who exists is asked later, when the
 * server picks it up; a refusal then comes back as a bounce.
 */
#include <string.h>

#include "app/sendmail.h"
#include "mail/mail.h"
#include "wire/wire.h"

enum { LINE_MAX_BYTES = 4096 };

struct dialogue_here {
    const struct sendmail_options *options;
    const struct drop_place *place;
    struct sendmail_envelope envelope;
    bool has_sender, over;
};

static void say(const char *reply)
{
    fputs(reply, stdout);
    fputs("\r\n", stdout);
}

static void forget(struct dialogue_here *here)
{
    arena_clear(&here->envelope.arena);
    here->envelope = (struct sendmail_envelope){.arena = ARENA_WITH_LIMIT(64 * MIB)};
    here->has_sender = false;
}

static void hear_mail(struct dialogue_here *here, const struct smtp_command *command)
{
    forget(here);
    here->envelope.sender = address_text(&here->envelope.arena, command->path);
    here->envelope.smtputf8 = command->smtputf8;
    here->has_sender = true;
    say("250 2.1.0 Sender ok");
}

static void hear_rcpt(struct dialogue_here *here, const struct smtp_command *command)
{
    struct bytes to = address_text(&here->envelope.arena, command->path);

    if (!here->has_sender) {
        say("503 5.5.1 MAIL comes first");
        return;
    }
    if (sendmail_add_recipients(here->options, here->place, to, &here->envelope) == EX_OK)
        say("250 2.1.5 Recipient ok");
    else
        say("501 5.1.3 This is no address");
}

static void hear_data(struct dialogue_here *here)
{
    struct sendmail_options options = *here->options;
    struct drop_message message = {.descriptor = -1};

    if (here->envelope.rcpt_count == 0) {
        say("503 5.5.1 RCPT comes first");
        return;
    }
    int code = drop_begin(&message, here->place);
    if (code != EX_OK) {
        say("451 4.3.0 The message cannot be kept now");
        return;
    }
    say("354 End data with <CR><LF>.<CR><LF>");
    fflush(stdout);
    options.from_header = options.keep_dots = false;
    options.stuffed = true;
    code = sendmail_read(&options, stdin, &message, &here->envelope);
    /* Without the dot there is no message. */
    if (feof(stdin))
        code = EX_IOERR;
    if (code == EX_OK)
        code = sendmail_commit(&options, &message, &here->envelope);
    drop_abandon(&message);
    forget(here);
    here->over =
        code == EX_IOERR || code == EX_DATAERR; /* nobody knows where the next line begins */
    say(code == EX_OK ? "250 2.0.0 Accepted"
                      : (code == EX_DATAERR ? "552 5.3.4 The message is too large"
                                            : "451 4.3.0 The message cannot be kept now"));
}

static void hear(struct dialogue_here *here, struct bytes line)
{
    struct smtp_command command;

    smtp_parse_command(&here->envelope.arena, line, &command);
    if (command.fault != SMTP_FINE) {
        say("501 5.5.4 Not understood");
        return;
    }
    switch (command.verb) {
    case SMTP_HELO:
    case SMTP_EHLO:
        forget(here);
        printf("250%s%s\r\n", command.verb == SMTP_EHLO ? "-" : " ", here->place->origin);
        if (command.verb == SMTP_EHLO)
            say("250-8BITMIME\r\n250-SMTPUTF8\r\n250 ENHANCEDSTATUSCODES");
        return;
    case SMTP_MAIL:
        hear_mail(here, &command);
        return;
    case SMTP_RCPT:
        hear_rcpt(here, &command);
        return;
    case SMTP_DATA:
        hear_data(here);
        return;
    case SMTP_RSET:
        forget(here);
        say("250 2.0.0 Forgotten");
        return;
    case SMTP_NOOP:
        say("250 2.0.0 Still here");
        return;
    case SMTP_VRFY:
        say("252 2.0.0 Cannot tell; send it and see");
        return;
    case SMTP_QUIT:
        here->over = true;
        say("221 2.0.0 Bye");
        return;
    case SMTP_UNKNOWN:
    case SMTP_LHLO:
    case SMTP_BDAT:
    case SMTP_EXPN:
    case SMTP_HELP:
    case SMTP_STARTTLS:
    case SMTP_AUTH:
    case SMTP_ETRN:
    case SMTP_TURN:
    case SMTP_XCLIENT:
    case SMTP_FOREIGN:
        break;
    }
    say("502 5.5.1 Not here");
}

int sendmail_smtp(const struct sendmail_options *options, const struct drop_place *place)
{
    struct dialogue_here here = {.options = options, .place = place};
    char line[LINE_MAX_BYTES];

    forget(&here);
    printf("220 %s ESMTP Holdfast (standard input)\r\n", place->origin);
    fflush(stdout);
    while (!here.over && fgets(line, sizeof line, stdin)) {
        hear(&here, bytes_trim(bytes_of_text(line)));
        fflush(stdout);
    }
    arena_clear(&here.envelope.arena);
    return ferror(stdin) || ferror(stdout) ? EX_IOERR : EX_OK;
}
