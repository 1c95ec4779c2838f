/* The control: what the others do wrong, done right; it has to compile. */
#include "verdict/verdict.h"
struct verdict check(void);
struct verdict check(void)
{
    REQUIRE(verdict_of(CAUSE_ACCEPTED));
    return verdict_of(CAUSE_SPOOL_FAILED);
}
