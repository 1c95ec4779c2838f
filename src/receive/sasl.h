/* What SASL messages say: pure, on bytes. Private to the room. */
#ifndef RECEIVE_SASL_H
#define RECEIVE_SASL_H

#include "base/base.h"

struct sasl_plain {
    struct bytes act_as, name, password; /* views */
};
/* [authzid] NUL authcid NUL passwd (RFC 4616 2); false: it is none. */
MUST_USE bool sasl_parse_plain(struct bytes message, struct sasl_plain *plain);
/* May it be a message of SCRAM at all? */
MUST_USE bool sasl_scram_is_text(struct bytes message);
/* The user of SCRAM's first message, "n,,n=user,r=nonce" (RFC 5802 7), escapes undone. */
MUST_USE bool sasl_scram_user(struct arena *arena, struct bytes message, struct bytes *user);
/* "MECHANISM[ initial response]": *has_initial tells "=" (empty) from none (RFC 4954 4). */
struct sasl_command {
    struct bytes mechanism, initial; /* still in base 64 */
    bool has_initial;
};
struct sasl_command sasl_parse_command(struct bytes argument);

#endif
