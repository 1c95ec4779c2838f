/*
 * The answer of any look-up (directory, DNS, cache). Zero is FAILED: forgotten memory is never
 * "absent", and only an authoritative ABSENT may refuse mail.
 */
#ifndef BASE_LOOKUP_H
#define BASE_LOOKUP_H

#include "base/bytes.h"

enum lookup_status { LOOKUP_FAILED = 0, LOOKUP_FOUND, LOOKUP_ABSENT };

/* Why a look-up failed; meaningful only with LOOKUP_FAILED. */
enum lookup_reason {
    LOOKUP_REASON_UNKNOWN = 0,
    LOOKUP_REASON_TIMEOUT,
    LOOKUP_REASON_UNAVAILABLE,   /* refused, reset, SERVFAIL, locked */
    LOOKUP_REASON_MISCONFIGURED, /* missing table, bad schema, bad credentials */
    LOOKUP_REASON_PARTIAL,       /* size limit, referral, truncated */
    LOOKUP_REASON_BOGUS,         /* DNSSEC validation failed */
    LOOKUP_REASON_OVERLOADED,    /* our own limit to it is reached */
    LOOKUP_REASON_CANCELLED,
};

struct lookup {
    enum lookup_status status;
    enum lookup_reason reason;
    struct bytes detail; /* the dependency's own words, for the journal; may be empty */
    struct bytes source; /* which dependency failed, by its name for the journal; may be empty */
};

MUST_USE struct lookup lookup_found(void);
MUST_USE struct lookup lookup_absent(void);
MUST_USE struct lookup lookup_failed(enum lookup_reason reason, struct bytes detail);
const char *lookup_reason_name(enum lookup_reason reason); /* "timeout", "unavailable", ... */

_Static_assert(LOOKUP_FAILED == 0, "forgotten memory must read as a failed look-up");

#endif
