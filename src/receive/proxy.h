/* The PROXY protocol, versions 1 and 2 (haproxy's proxy-protocol.txt). Private to the room. */
#ifndef RECEIVE_PROXY_H
#define RECEIVE_PROXY_H

#include "base/base.h"

/* What a read of the first twelve octets tells. */
enum {
    PROXY_START_BYTES = 12,
    PROXY_V1_MAX = 107, /* with CR LF */
    PROXY_V2_HEAD = 16,
    PROXY_V2_KEPT = 36, /* of what follows: addresses; the rest is read and dropped */
};
enum proxy_version { PROXY_NONE = 0, PROXY_1, PROXY_2 };
enum proxy_version proxy_version_of(struct bytes start);

struct proxy_facts {
    bool local; /* the connection is the proxy's own, or of a kind we do not know: addresses stay */
    struct endpoint from, to;
};
/* A whole line, with or without its CR LF. */
MUST_USE bool proxy_parse_1(struct bytes line, struct proxy_facts *facts);
/* The octets that follow a head of PROXY_V2_HEAD; false: it is none. */
MUST_USE bool proxy_parse_2_head(struct bytes head, size_t *follow);
MUST_USE bool proxy_parse_2(struct bytes head, struct bytes body, struct proxy_facts *facts);

#endif
