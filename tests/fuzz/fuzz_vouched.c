/* The same session as fuzz_receive.c at a door behind a proxy that says PROXY first, whose host may
 * say XCLIENT, too. */
#define FUZZ_VOUCHED 1
#include "fuzz_receive.c"
