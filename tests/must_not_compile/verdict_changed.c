/* A verdict that is changed after it was given. */
#include "verdict/verdict.h"
enum verdict_kind change(void);
enum verdict_kind change(void)
{
    const struct verdict verdict = verdict_of(CAUSE_SPOOL_FAILED);
    verdict.kind = VERDICT_ACCEPT;
    return verdict.kind;
}
