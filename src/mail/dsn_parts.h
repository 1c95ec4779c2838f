/* The two texts of a DSN that are ours: for people, and for programs. Private to the room. */
#ifndef MAIL_DSN_PARTS_H
#define MAIL_DSN_PARTS_H

#include "mail/mail.h"

void dsn_print_words(struct buffer *into, const struct dsn *dsn);  /* text/plain */
void dsn_print_status(struct buffer *into, const struct dsn *dsn); /* message/delivery-status */

#endif
