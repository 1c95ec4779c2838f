/* Leaving mail in the drop directory: what `sendmail` does for every user, with the server up or
 * down. Private to the commands. */
#ifndef APP_DROP_H
#define APP_DROP_H

#include "base/base.h"

/* What the directory's `origin` file says; without it, this host's name. */
struct drop_place {
    char directory[1024];
    char origin[256];        /* the domain of addresses that have none */
    uint64_t message_bytes;  /* most of one; 0: any */
    unsigned recipients_max; /* of one transaction */
};
/* $HOLDFAST_DROP, or beside the configuration's spool, or, where the configuration is not for this
 * user's eyes, /var/spool/holdfast-drop. An exit code of sysexits.h. */
MUST_USE int drop_place_find(struct drop_place *place, const char *config_file);

/* One message under construction. The functions give exit codes of sysexits.h and say on standard
 * error what went wrong. */
struct drop_envelope {
    struct bytes mail;         /* "MAIL FROM:<a@b.example> BODY=8BITMIME" */
    const struct bytes *rcpts; /* "RCPT TO:<c@d.example>" */
    unsigned rcpt_count;
};
struct drop_message {
    const struct drop_place *place;
    int descriptor; /* of the body, in a file that nobody picks up */
    uint64_t bytes;
    char path[1200];
    struct buffer pending;
};
MUST_USE int drop_begin(struct drop_message *message, const struct drop_place *place);
MUST_USE int drop_add(struct drop_message *message, struct bytes piece);
/* Durable when it gives EX_OK: synced, and under names that are picked up, one for as many
 * recipients as a transaction may have. */
MUST_USE int drop_commit(struct drop_message *message, const struct drop_envelope *envelope);
void drop_abandon(
    struct drop_message *message); /* what was not committed goes; fits after either */

#endif
