/* Names of results (RFC 8601 2.7). */
#include "auth/auth.h"

const char *auth_result_name(enum auth_result result)
{
    switch (result) {
    case AUTH_TEMPERROR:
        return "temperror";
    case AUTH_NONE:
        return "none";
    case AUTH_PASS:
        return "pass";
    case AUTH_FAIL:
        return "fail";
    case AUTH_SOFTFAIL:
        return "softfail";
    case AUTH_NEUTRAL:
        return "neutral";
    case AUTH_PERMERROR:
        return "permerror";
    case AUTH_POLICY:
        return "policy";
    }
    return "temperror";
}
