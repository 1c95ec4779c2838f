/*
 * Bounces as they come from any server: RFC 3464 notifications, free text, complaints (RFC 5965),
 * automatic answers (RFC 3834). Pure; every view lies in the message or in the arena. Bounded in
 * depth, parts, recipients and bytes, so hostile input costs little and gives less.
 */
#ifndef MAIL_BOUNCE_H
#define MAIL_BOUNCE_H

#include "base/base.h"

#define BOUNCE_RECIPIENTS_MAX 100
#define BOUNCE_TEXT_MAX 65536 /* of readable text kept */
#define BOUNCE_DEPTH_MAX 8
#define BOUNCE_PARTS_MAX 64

enum bounce_form {
    BOUNCE_NONE = 0, /* nothing in it looks like a report */
    BOUNCE_DSN,
    BOUNCE_FREE_TEXT,
    BOUNCE_COMPLAINT,
    BOUNCE_VACATION
};

struct bounce_recipient {
    struct bytes address;
    struct bytes action, status; /* of a DSN, else empty */
    struct bytes remote_mta;
    struct bytes diagnostic; /* the reply, unfolded; empty when none was found */
    struct bytes text;       /* what the readable part says of this recipient */
};

struct bounce {
    enum bounce_form form;
    struct bounce_recipient recipients[BOUNCE_RECIPIENTS_MAX];
    uint32_t recipient_count;
    struct bytes subject, from;
    struct bytes text; /* readable parts, decoded */
};

/* False when memory is short; anything else is a result, if only BOUNCE_NONE. */
MUST_USE bool bounce_parse(struct arena *arena, struct bytes message, struct bounce *bounce);

/* Content-Transfer-Encoding undone; other bytes are skipped, so any input gives some output. */
struct bytes mime_decode_base64(struct arena *arena, struct bytes text);
struct bytes mime_decode_quoted(struct arena *arena, struct bytes text);

#endif
