/* A verdict thrown away on purpose. */
#include "verdict/verdict.h"
void forget(void);
void forget(void)
{
    (void)verdict_of(CAUSE_SPOOL_FAILED);
}
