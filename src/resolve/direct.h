/* The messages of direct questions: ldns packs and unpacks them. Private to the room. */
#ifndef RESOLVE_DIRECT_H
#define RESOLVE_DIRECT_H

#include "resolve/resolve.h"

#define DIRECT_MESSAGE_MAX 65535
#define DIRECT_UDP_OCTETS 1232 /* what EDNS offers: survives every path without fragments */

/* The message for the question. False: no such name can be asked, or memory. */
MUST_USE bool direct_encode(const struct direct_question *question, uint16_t id,
                            struct buffer *into);
/* False: no DNS message, or not the answer to this question. Untrusted bytes. */
MUST_USE bool direct_decode(struct arena *arena, const struct direct_question *question,
                            struct bytes message, struct direct_answer *answer);
uint16_t direct_id(struct bytes message); /* 0 when there is none */

#endif
