/* A look-up whose answer nobody reads. */
#include "base/base.h"
void forget(void);
void forget(void)
{
    lookup_absent();
}
