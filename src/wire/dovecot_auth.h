/* The exchange with Dovecot over a stream that is open already; for tests. Private to the room. */
#ifndef WIRE_DOVECOT_AUTH_H
#define WIRE_DOVECOT_AUTH_H

#include "wire/wire.h"

/* Owns the stream from then on, with *auth NULL when memory is out. */
struct dovecot_answer dovecot_auth_talk(struct arena *arena, struct stream *stream,
                                        const struct dovecot_request *request,
                                        struct dovecot_auth **auth);

#endif
