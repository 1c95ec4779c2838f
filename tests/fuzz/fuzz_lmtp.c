/* The same session as fuzz_receive.c at a door that speaks LMTP. */
#define FUZZ_LISTEN_KIND LISTEN_LMTP
#include "fuzz_receive.c"
