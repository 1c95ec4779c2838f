/* The domains of the From field, each once. */
#ifndef AUTH_FROM_DOMAINS_H
#define AUTH_FROM_DOMAINS_H

#include "base/base.h"

#define FROM_DOMAINS_MAX 8
struct from_domains {
    struct bytes domains[FROM_DOMAINS_MAX];
    unsigned count;
};

enum from_result {
    FROM_MALFORMED = 0, /* not exactly one From field, or one that cannot be understood */
    FROM_NO_DOMAIN,     /* no address, or none with a name for its domain */
    FROM_FOUND,
    FROM_NO_MEMORY,
};
enum from_result from_domains_find(struct arena *arena, struct bytes head,
                                   struct from_domains *found);

#endif
