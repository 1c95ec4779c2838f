#include "base/lookup.h"

struct lookup lookup_found(void)
{
    return (struct lookup){.status = LOOKUP_FOUND};
}

struct lookup lookup_absent(void)
{
    return (struct lookup){.status = LOOKUP_ABSENT};
}

struct lookup lookup_failed(enum lookup_reason reason, struct bytes detail)
{
    return (struct lookup){.status = LOOKUP_FAILED, .reason = reason, .detail = detail};
}

const char *lookup_reason_name(enum lookup_reason reason)
{
    switch (reason) {
    case LOOKUP_REASON_UNKNOWN:
        return "unknown";
    case LOOKUP_REASON_TIMEOUT:
        return "timeout";
    case LOOKUP_REASON_UNAVAILABLE:
        return "unavailable";
    case LOOKUP_REASON_MISCONFIGURED:
        return "misconfigured";
    case LOOKUP_REASON_PARTIAL:
        return "partial";
    case LOOKUP_REASON_BOGUS:
        return "bogus";
    case LOOKUP_REASON_OVERLOADED:
        return "overloaded";
    case LOOKUP_REASON_CANCELLED:
        return "cancelled";
    }
    return "unknown";
}
