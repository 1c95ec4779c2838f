/* For targets that bring their own resolve_ask: what else of that room would be linked. */
#ifndef TESTS_NO_RESOLVER_H
#define TESTS_NO_RESOLVER_H

#include "resolve/resolve.h"

struct resolver *resolver_open(const struct resolver_settings *settings, char *why, size_t why_room)
{
    (void)settings;
    snprintf(why, why_room, "none");
    return NULL;
}

void resolver_close(struct resolver *resolver)
{
    (void)resolver;
}

#endif
