/* A verdict that nobody consumes. */
#include "verdict/verdict.h"
void forget(void);
void forget(void)
{
    verdict_of(CAUSE_SPOOL_FAILED);
}
