/* The domains of the From field, each once. */
#ifndef AUTH_FROM_DOMAINS_H
#define AUTH_FROM_DOMAINS_H

#include "base/base.h"

#define FROM_DOMAINS_MAX 8
struct from_domains {
    struct bytes domains[FROM_DOMAINS_MAX];
    unsigned count;
};

/* False: not exactly one From field, no domain in it, or a field that cannot be understood. */
MUST_USE bool from_domains_find(struct arena *arena, struct bytes head, struct from_domains *found);

#endif
