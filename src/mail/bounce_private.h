/* What the files about bounces share; private to the room. */
#ifndef MAIL_BOUNCE_PRIVATE_H
#define MAIL_BOUNCE_PRIVATE_H

#include "mail/bounce.h"
#include "mail/mail.h"

/* What was met on the walk through the parts. */
struct bounce_walk {
    struct arena *arena;
    struct bounce *bounce;
    struct bytes plain, html; /* the readable parts, decoded; views into the arena */
    struct bytes nested;      /* the first attached message */
    unsigned parts;
    bool has_status, has_feedback;
};

/* First address in the text; *rest is what follows it. Empty: none. */
struct bytes bounce_address_find(struct bytes text, struct bytes *rest);
/* Recipients and their replies out of free text. */
void bounce_text_read(struct arena *arena, struct bytes header, struct bounce *bounce);
/* Per-recipient groups of a message/delivery-status (RFC 3464 2.3). */
void bounce_status_read(struct arena *arena, struct bytes status, struct bounce *bounce);
struct bytes bounce_html_text(struct arena *arena, struct bytes html);
bool bounce_has_word(struct bytes text, const char *words); /* words parted by '|', any case */

#endif
