/*
 * fetch: one document by HTTPS, from a host whose addresses are known already.
 *
 * Flow:   request -> libcurl in a thread of its own -> the body, or why there is none.
 *         In the simulator sim_fetch.c answers from a table instead (same header).
 * Owns:   the thread, while it runs.
 * Sleeps: fetch_https, until the deadline; after a cancellation for a second at most.
 * Fails:  by FETCH_FAILED or FETCH_UNTRUSTED, with the reason in words.
 * Never:  asks DNS, follows a redirect, uses a proxy, talks without a verified certificate, or
 *         keeps more than `bytes_max` of a body.
 */
#ifndef FETCH_FETCH_H
#define FETCH_FETCH_H

#include "base/base.h"
#include "runtime/runtime.h"

#define FETCH_BYTES_MAX (64 * KIB) /* of a body, when the request names no limit */
#define FETCH_PARALLEL_MAX 32      /* fetches at once in the process; above it they fail */

struct fetch_request {
    const char *host; /* A-labels; in the URL, the Host field, SNI, and the certificate's name */
    const char *path; /* with its leading slash */
    uint16_t port;    /* 0: 443 */
    const struct ip_address *addresses; /* of the host, at least one; tried in order */
    unsigned address_count;
    const char *authorities; /* PEM file of certificates to trust; NULL or "": the system's */
    size_t bytes_max;        /* 0: FETCH_BYTES_MAX */
    uint64_t deadline_us;
};

enum fetch_outcome {
    FETCH_FAILED = 0, /* no answer: refused, silent, cut, too large, not HTTPS */
    FETCH_UNTRUSTED,  /* the certificate does not prove the name */
    FETCH_ANSWERED,   /* with whatever status, a redirect's too */
};

struct fetch_answer {
    enum fetch_outcome outcome;
    unsigned status;   /* of HTTP */
    struct bytes type; /* the media type in lower case without parameters; or empty */
    struct bytes body; /* whole; in the arena */
    char why[160];     /* unless ANSWERED */
};

/* The body lives in the arena. Sleeps. */
void fetch_https(struct arena *arena, const struct fetch_request *request,
                 struct fetch_answer *answer);

#endif
