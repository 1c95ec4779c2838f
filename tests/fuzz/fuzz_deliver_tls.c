/* The same session as fuzz_deliver.c with STARTTLS, over a handshake or what comes instead. Where
 * TLS is demanded nothing of the mail is said in clear; what comes behind the reply to STARTTLS,
 * before the handshake, is never heard, so that the bytes in pieces still mean the same. */
#define FUZZ_TLS 1
#include "fuzz_deliver.c"
