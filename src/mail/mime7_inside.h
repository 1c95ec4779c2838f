/* Shared by the files of mime7 only. */
#ifndef MAIL_MIME7_INSIDE_H
#define MAIL_MIME7_INSIDE_H

#include "mail/mail.h"

/* What Content-Transfer-Encoding says: nothing or 7bit; 8bit; binary; something that encodes. */
enum { MIME7_CTE_PLAIN = 0, MIME7_CTE_8BIT, MIME7_CTE_BINARY, MIME7_CTE_ENCODED };

struct mime7_kind {
    bool is_multipart, is_signed, is_digest; /* a multipart with a boundary of use */
    bool is_message;                         /* message/rfc822, not encoded */
    bool is_text, is_opaque;                 /* else: a leaf; opaque: must not be encoded */
    int declared;
    char boundary[MIME7_BOUNDARY];
    size_t boundary_count;
};
void mime7_kind_read(struct bytes header, bool in_digest, struct mime7_kind *kind);
/* The header as the entity's new encoding wants it. */
void mime7_header_print(const struct mime7 *mime7, struct bytes header, struct buffer *into);

void mime7_encoder_begin(struct mime7 *mime7);
void mime7_encode(struct mime7 *mime7, struct buffer *into, struct bytes text);
void mime7_encoder_end(struct mime7 *mime7, struct buffer *into);

#endif
