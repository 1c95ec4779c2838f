/* `sendmail`, `mailq` and `newaliases`. Private to the commands. */
#ifndef APP_SENDMAIL_H
#define APP_SENDMAIL_H

#include <pwd.h>
#include <sysexits.h>

#include "app/app.h"
#include "app/drop.h"

enum sendmail_mode {
    SENDMAIL_SEND = 0,
    SENDMAIL_SMTP,    /* -bs */
    SENDMAIL_QUEUE,   /* -bp, mailq */
    SENDMAIL_ALIASES, /* -bi, newaliases */
    SENDMAIL_RETRY,   /* -q */
    SENDMAIL_SERVE,   /* -bd */
};

struct sendmail_options {
    enum sendmail_mode mode;
    const char *config_file, *sender, *full_name, *notify, *dsn_return, *envelope_id;
    bool from_header; /* -t */
    bool keep_dots;   /* -i: a dot alone is a line like any other */
    bool stuffed;     /* -bs: a dot before each line that begins with one */
    char **recipients;
    int recipient_count;
};

/* What the message says of itself, and the lines of the envelope. */
struct sendmail_envelope {
    struct arena arena;
    struct bytes sender; /* as text; empty: the null sender */
    struct bytes *rcpts; /* lines */
    unsigned rcpt_count, rcpt_room;
    bool is_8bit, smtputf8;
};
#define SENDMAIL_RECIPIENTS_MAX 20000

/* Reads the message from `in` into the draft: line ends made CR LF, missing fields added, Bcc left
 * out with -t, whose recipients are added to the envelope. An exit code. */
MUST_USE int sendmail_read(const struct sendmail_options *options, FILE *in,
                           struct drop_message *message, struct sendmail_envelope *envelope);
/* One address, or a list of them as in a header field; without a domain it gets the origin's. */
MUST_USE int sendmail_add_recipients(const struct sendmail_options *options,
                                     const struct drop_place *place, struct bytes list,
                                     struct sendmail_envelope *envelope);
/* "a" or "a@b": the whole address; empty when it is none. */
struct bytes sendmail_qualify(struct arena *arena, const struct drop_place *place,
                              struct bytes spec);
MUST_USE int sendmail_commit(const struct sendmail_options *options, struct drop_message *message,
                             struct sendmail_envelope *envelope);

int sendmail_smtp(const struct sendmail_options *options, const struct drop_place *place);
int sendmail_queue(const struct sendmail_options *options);
int sendmail_aliases(const struct sendmail_options *options);

#endif
